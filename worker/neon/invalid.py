"""Neon: the records that failed validation, as a pull, a stage or a repair reads them. Knows no rules."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.model import Data
from worker.entities.declaration import Entity, data_of, expression, key_sql, pages
from worker.entities.worker_tables import LEDGER
from worker.neon.books import Run
from worker.postgres.binary import row_of
from worker.postgres.connection import Connection, within
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, composed, fetch_all, fetch_one


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row of the invalid table; timestamps are UTC without zone."""

    key: str
    id: int
    data: Data
    hash: str
    updated_at: datetime | None
    reason_code: str | None
    errors: Any
    warnings: Any
    enriched_by: str | None
    enriched_at: datetime | None
    still_invalid: bool
    unjudged: bool
    """Whether it is marked ``complete`` and was not judged still invalid."""
    undone_id: int | None
    """The ledger row of the undo of its last promotion."""


_READ = statement("worker.neon", "read_invalid")
_AMONG = sql.SQL("WHERE i.{key} = ANY(%(keys)s{keys_cast})")
_PUSHED = sql.SQL("WHERE {beyond} AND {which} ORDER BY i.{key} LIMIT %(limit)s")


class Which(Enum):
    """Which records marked ``complete`` in Neon."""

    ALL = "i.enrichment_status = 'complete'"
    UNJUDGED = "i.enrichment_status = 'complete' AND i.still_invalid IS NOT TRUE"
    """Those not judged still invalid."""
    STALE = (
        "i.enrichment_status = 'complete' AND i.still_invalid AND (SELECT l.rules_version FROM {ledger} l"
        " WHERE l.entity = %(entity)s AND l.key = i.{key}{key_text} AND l.outcome = 'flagged'"
        " ORDER BY l.id DESC LIMIT 1) IS DISTINCT FROM %(rules_version)s"
    )
    """Those that another version of the rules refused, or an unknown one."""


_TOTALS = statement("worker.neon", "totals")
SMALL = 8 * 1024 * 1024
"""A table of up to this many bytes is counted, not estimated."""


STREAM_ROWS = 500
STREAM_BYTES = 8 * 1024 * 1024
PULLED: Mapping[str, str] = {
    "neon_id": "i.id",
    "reason_code": "i.reason_code",
    "original_validation_errors": "i.validation_errors",
    "original_validation_warnings": "i.validation_warnings",
    "source_batch_id": "i.batch_id",
    "created_at": "coalesce(i.created_at, now() AT TIME ZONE 'UTC')",
    "updated_at": "CASE WHEN i.updated_at BETWEEN '1970-01-01' AND now() AT TIME ZONE 'UTC' THEN i.updated_at"
    " ELSE now() AT TIME ZONE 'UTC' END",
    "enrichment_status": "'pending'",
    "pulled_from_neon_at": "now() AT TIME ZONE 'UTC'",
    "neon_snapshot": "d.data",
    "last_sync_hash": "md5(d.data)",
}
"""What a pull carries after the key and the data columns: workspace column → SQL over ``i``, the invalid row, and
``d``, its snapshot. A new workspace row needs nothing else, so COPY can insert it as it is.
"""


def pulled_columns(entity: Entity) -> Sequence[str]:
    """The workspace columns that a pull fills, in the order in which it streams them."""
    return (entity.key, *entity.columns, *PULLED)


_ROWS = sql.SQL("""
SELECT {columns}, {pulled}
FROM {invalid} i CROSS JOIN LATERAL (SELECT {data}::text AS data OFFSET 0) d  -- OFFSET: composed once
{where}
""")


# As COPY writes it: a cast of a char(n) would lose its blanks, which the snapshot keeps.
_TEXT = "CASE WHEN num_nulls(r.{0}) = 0 THEN concat(r.{0}) END"


class Form(Enum):
    """How rows are streamed. An array stands for its text: neither server parses more than it needs."""

    COLUMNS = "COPY ({rows}) TO STDOUT"
    """COPY's text format, a field for each column of the workspace."""
    ARRAYS = "COPY (SELECT {array}::text FROM ({rows}) r) TO STDOUT (FORMAT binary)"
    """COPY's binary format, one field: an array of these columns."""
    COMPARED = """
COPY (SELECT r.{key}{key_text}, ARRAY[r.last_sync_hash::text, r.neon_id::text, r.reason_code::text,
  r.original_validation_errors::text, r.original_validation_warnings::text]::text, {array}::text
FROM ({rows}) r) TO STDOUT (FORMAT binary)"""
    """Likewise, three fields: the key, what is compared with the existing row, and the array."""


_PROMOTED_IN = sql.SQL(
    "SELECT key FROM {} WHERE entity = %(entity)s AND key = ANY(%(keys)s) AND run_id = %(run)s"
    " AND outcome = 'promoted' ORDER BY id"
).format(LEDGER.sql)
_MISSING = sql.SQL(
    "SELECT k.key FROM unnest(%(keys)s::text[]) k (key)"
    " WHERE NOT EXISTS (SELECT FROM {table} i WHERE i.{key} = k.key{key_cast})"
)
_READY = sql.SQL(
    "SELECT d.key FROM jsonb_to_recordset(%(records)s) AS d (key text, data jsonb)"
    " WHERE NOT EXISTS (SELECT FROM {invalid} i CROSS JOIN LATERAL jsonb_populate_record(i.*, d.data) r"
    " WHERE i.{key} = d.key{key_cast} AND ({unmet}))"
)
_CORRECTED = sql.SQL(
    "SELECT d.key FROM jsonb_to_recordset(%(records)s) AS d (key text, data jsonb)"
    " JOIN {invalid} i ON i.{key} = d.key{key_cast} WHERE {data} <> d.data"
)


class Invalid:
    """The invalid table of an entity. Its statements are composed once."""

    def __init__(self, entity: Entity) -> None:
        """Compose the statements."""
        self.entity = entity
        invalid, master, key = entity.invalid_table.sql, entity.master_table.sql, key_sql(entity)
        data = data_of(entity, "i")
        read = _READ.format(**key, data=data, invalid=invalid, ledger=LEDGER.sql, entity=sql.Literal(entity.name))
        those = {which: sql.SQL(which.value).format(ledger=LEDGER.sql, **key) for which in Which}
        unmet = sql.SQL(" OR ").join(sql.SQL("({})").format(expression(one.unmet)) for one in entity.requirements)
        self._read = composed(read + _AMONG.format(**key))
        self._read_pushed = {
            (which, is_first): composed(read + one)
            for which, condition in those.items()
            for is_first, one in pages(_PUSHED, entity, "i", which=condition).items()
        }
        self._count_pushed = {
            which: composed(sql.SQL("SELECT count(*) AS records FROM {} i WHERE {}").format(invalid, condition))
            for which, condition in those.items()
        }
        self._missing = composed(_MISSING.format(table=invalid, **key))
        self._missing_in_master = composed(_MISSING.format(table=master, **key))
        self._ready = composed(_READY.format(invalid=invalid, **key, unmet=unmet))
        self._corrected = composed(_CORRECTED.format(invalid=invalid, **key, data=data))
        self.totals: Step = (
            composed(
                _TOTALS.format(
                    small=sql.Literal(SMALL),
                    invalid=invalid,
                    master=master,
                    invalid_name=sql.Literal(invalid.as_string()),
                    master_name=sql.Literal(master.as_string()),
                )
            ),
            None,
        )
        """Counts the records of the invalid and the master table, or estimates large tables."""

    async def read(self, connection: Connection, keys: Sequence[str]) -> dict[str, InvalidRow]:
        """The rows with these keys, as they are now, by key."""
        rows = await fetch_all(connection, self._read, {"keys": list(filter(self.entity.is_key, keys))})
        return {row["key"]: InvalidRow(**row) for row in rows}

    async def read_pushed(
        self, connection: Connection, after: str | None, limit: int, *, which: Which
    ) -> list[InvalidRow]:
        """Rows marked ``complete``, in key order.

        Args:
            connection: to Neon.
            after: only keys greater than this one; None for the first batch.
            limit: maximum number of rows.
            which: which of those.
        """
        params = {"after": after, "limit": limit, **self._version()}
        return [
            InvalidRow(**row) for row in await fetch_all(connection, self._read_pushed[which, after is None], params)
        ]

    async def count_pushed(self, connection: Connection, which: Which) -> int:
        """How many rows are marked ``complete``; ``which`` of those."""
        row = await fetch_one(connection, self._count_pushed[which], self._version())
        return int(row["records"])

    def _version(self) -> dict[str, str]:
        return {"entity": self.entity.name, "rules_version": self.entity.rules.version()}

    async def promoted_in(self, connection: Connection, run: Run, keys: Sequence[str]) -> list[str]:
        """The keys among these that this run promoted."""
        params = {"entity": self.entity.name, "keys": list(keys), "run": run.run_id}
        return await _keys(connection, _PROMOTED_IN, params)

    async def missing(self, connection: Connection, keys: Sequence[str]) -> list[str]:
        """The keys among these that are not in the invalid table."""
        return await self._absent(connection, self._missing, keys)

    async def missing_in_master(self, connection: Connection, keys: Sequence[str]) -> list[str]:
        """The keys among these that are not in the master table."""
        return await self._absent(connection, self._missing_in_master, keys)

    async def _absent(self, connection: Connection, statement: sql.SQL, keys: Sequence[str]) -> list[str]:
        impossible = [key for key in keys if not self.entity.is_key(key)]
        possible = list(filter(self.entity.is_key, keys))
        return [*impossible, *await _keys(connection, statement, {"keys": possible})]

    async def ready(self, connection: Connection, records: Mapping[str, Data]) -> list[str]:
        """The keys of the waiting records whose requirements are now met, or that are gone."""
        if not records or not self.entity.requirements:
            return []
        return await _keys(connection, self._ready, _with_data(records))

    async def corrected(self, connection: Connection, agreed: Mapping[str, Data]) -> list[str]:
        """The keys of the records that have changed since both sides agreed on them."""
        return await _keys(connection, self._corrected, _with_data(agreed)) if agreed else []

    def among(self, keys: Sequence[str]) -> sql.Composed:
        """The condition on ``i`` that selects these records."""
        return sql.SQL("i.{key} = ANY({keys}{keys_cast})").format(**key_sql(self.entity), keys=sql.Literal(list(keys)))

    async def stream(
        self, connection: Connection, where: sql.Composable | None, *, patience: float, form: Form
    ) -> AsyncGenerator[list[bytes]]:
        """The rows as new workspace rows, a few hundred at a time, as the server sends them.

        Args:
            connection: to Neon, in a transaction that the caller opened.
            where: a condition over ``i``, the invalid row; None for all rows.
            patience: seconds to wait for the next rows.
            form: of a row.

        Raises:
            psycopg.OperationalError: the next rows did not come.
        """
        entity = self.entity
        selected = _ROWS.format(
            columns=sql.SQL(", ").join(sql.Identifier("i", column) for column in (entity.key, *entity.columns)),
            pulled=sql.SQL(", ").join(sql.SQL(f"{how} AS {name}") for name, how in PULLED.items()),
            invalid=entity.invalid_table.sql,
            data=data_of(entity, "i"),
            where=sql.SQL("WHERE ") + where if where else sql.SQL(""),
        )
        columns = (sql.SQL(_TEXT).format(sql.Identifier(name)) for name in pulled_columns(entity))
        array = sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(columns))
        statement = sql.SQL(form.value).format(rows=selected, array=array, **key_sql(entity))
        binary = form is not Form.COLUMNS
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            message: Any = b"first"
            while message:
                rows: list[bytes] = []
                size = 0
                # A timer for each row would cost more than the row.
                with within(connection, patience):
                    while len(rows) < STREAM_ROWS and size < STREAM_BYTES and (message := await copy.read()):
                        if row := row_of(bytes(message)) if binary else bytes(message):
                            rows.append(row)
                            size += len(row)
                if rows:
                    yield rows


async def _keys(connection: Connection, statement: sql.SQL | sql.Composed, params: Mapping[str, Any]) -> list[str]:
    return [row["key"] for row in await fetch_all(connection, statement, params)]


def _with_data(records: Mapping[str, Data]) -> dict[str, Jsonb]:
    return {"records": Jsonb([{"key": key, "data": data} for key, data in records.items()])}
