"""Neon: reads of the invalid table. Knows no rules."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.model import Data
from worker.entities.declaration import Entity, data_of
from worker.entities.worker_tables import LEDGER, Table
from worker.neon.books import Run
from worker.postgres.connection import Connection, within
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, fetch_all, fetch_one


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


def _read(entity: Entity, where: sql.SQL, **parts: sql.Composable) -> sql.Composed:
    return _READ.format(
        key=sql.Identifier(entity.key),
        data=data_of(entity, "i"),
        invalid=entity.invalid_table.sql,
        ledger=LEDGER.sql,
        entity=sql.Literal(entity.name),
    ) + where.format(key=sql.Identifier("i", entity.key), **parts)


class Which(Enum):
    """Which records marked ``complete`` in Neon."""

    ALL = "i.enrichment_status = 'complete'"
    UNJUDGED = "i.enrichment_status = 'complete' AND i.still_invalid IS NOT TRUE"
    """Those not judged still invalid."""
    STALE = (
        "i.enrichment_status = 'complete' AND i.still_invalid AND (SELECT l.rules_version FROM {ledger} l"
        " WHERE l.entity = %(entity)s AND l.key = i.{key} AND l.outcome = 'flagged' ORDER BY l.id DESC LIMIT 1)"
        " IS DISTINCT FROM %(rules_version)s"
    )
    """Those that another version of the rules refused, or an unknown one."""


def _which(entity: Entity, which: Which) -> sql.Composed:
    return sql.SQL(which.value).format(ledger=LEDGER.sql, key=sql.Identifier(entity.key))


def _version(entity: Entity) -> dict[str, str]:
    return {"entity": entity.name, "rules_version": entity.rules.version()}


async def read(connection: Connection, entity: Entity, keys: Sequence[str]) -> dict[str, InvalidRow]:
    """The invalid rows with these keys, as they are now, by key."""
    statement = _read(entity, sql.SQL("WHERE {key} = ANY(%(keys)s)"))
    rows = await fetch_all(connection, statement, {"keys": list(keys)})
    return {row["key"]: InvalidRow(**row) for row in rows}


async def read_pushed(
    connection: Connection, entity: Entity, after: str, limit: int, *, which: Which
) -> list[InvalidRow]:
    """Invalid rows marked ``complete``, in key order.

    Args:
        connection: to Neon.
        entity: which.
        after: only keys greater than this one; empty for the first batch.
        limit: maximum number of rows.
        which: which of those.
    """
    where = sql.SQL("WHERE {key} > %(after)s AND {which} ORDER BY {key} LIMIT %(limit)s")
    statement = _read(entity, where, which=_which(entity, which))
    params = {"after": after, "limit": limit, **_version(entity)}
    rows = await fetch_all(connection, statement, params)
    return [InvalidRow(**row) for row in rows]


async def count_pushed(connection: Connection, entity: Entity, which: Which) -> int:
    """How many invalid rows are marked ``complete``; ``which`` of those."""
    statement = sql.SQL("SELECT count(*) AS records FROM {} i WHERE {}")
    step = statement.format(entity.invalid_table.sql, _which(entity, which)), _version(entity)
    row = await fetch_one(connection, *step)
    return int(row["records"])


async def promoted_in(connection: Connection, entity: Entity, run: Run, keys: Sequence[str]) -> list[str]:
    """The keys among these that this run promoted."""
    statement = sql.SQL(
        "SELECT key FROM {} WHERE entity = %(entity)s AND key = ANY(%(keys)s) AND run_id = %(run)s"
        " AND outcome = 'promoted' ORDER BY id"
    ).format(LEDGER.sql)
    params = {"entity": entity.name, "keys": list(keys), "run": run.run_id}
    rows = await fetch_all(connection, statement, params)
    return [row["key"] for row in rows]


_TOTALS = statement("worker.neon", "totals")
SMALL = 8 * 1024 * 1024
"""A table of up to this many bytes is counted, not estimated."""


def totals(entity: Entity) -> Step:
    """The step that counts the records of the invalid and the master table, or estimates large tables."""
    return (
        _TOTALS.format(
            small=sql.Literal(SMALL),
            invalid=entity.invalid_table.sql,
            master=entity.master_table.sql,
            invalid_name=sql.Literal(entity.invalid_table.sql.as_string()),
            master_name=sql.Literal(entity.master_table.sql.as_string()),
        ),
        None,
    )


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
_ROWS = sql.SQL("""
SELECT {columns}, {pulled}
FROM {invalid} i CROSS JOIN LATERAL (SELECT {data}::text AS data OFFSET 0) d  -- OFFSET: composed once
{where}
""")
_STREAM = {
    False: sql.SQL("COPY ({rows}) TO STDOUT"),
    True: sql.SQL("""
COPY (SELECT row_to_json(h), row_to_json(r) FROM ({rows}) r CROSS JOIN LATERAL (
  SELECT r.{key} AS key, r.last_sync_hash AS hash, r.neon_id AS id, r.reason_code AS code,
    r.original_validation_errors AS errors, r.original_validation_warnings AS warnings) h) TO STDOUT
"""),
}
_AS_JSON = {**PULLED, "neon_snapshot": "d.data::json"}


async def stream(
    connection: Connection, entity: Entity, where: sql.Composable | None, *, patience: float, as_json: bool
) -> AsyncGenerator[list[bytes]]:
    """The invalid rows as new workspace rows in COPY's text format, a few hundred at a time, as the server sends them.

    As JSON, a row is two objects: first what is compared with the existing workspace row, which is all that most rows
    need, then the whole row.

    Args:
        connection: to Neon, in a transaction that the caller opened.
        entity: which.
        where: a condition over ``i``, the invalid row; None for all rows.
        patience: seconds to wait for the next rows.
        as_json: two objects for each row, instead of a column for each value.

    Raises:
        psycopg.OperationalError: the next rows did not come.
    """
    pulled = (_AS_JSON if as_json else PULLED).items()
    rows_ = _ROWS.format(
        columns=sql.SQL(", ").join(sql.Identifier("i", column) for column in (entity.key, *entity.columns)),
        pulled=sql.SQL(", ").join(sql.SQL(f"{how} AS {name}") for name, how in pulled),
        invalid=entity.invalid_table.sql,
        data=data_of(entity, "i"),
        where=sql.SQL("WHERE ") + where if where else sql.SQL(""),
    )
    statement = _STREAM[as_json].format(rows=rows_, key=sql.Identifier(entity.key))
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        row: Any = b"first"
        while row:
            rows: list[bytes] = []
            size = 0
            # A timer for each row would cost more than the row.
            with within(connection, patience):
                while len(rows) < STREAM_ROWS and size < STREAM_BYTES and (row := await copy.read()):
                    rows.append(bytes(row))
                    size += len(row)
            if rows:
                yield rows


def among(entity: Entity, keys: Sequence[str]) -> sql.Composed:
    """The condition on ``i`` that selects these records."""
    return sql.SQL("i.{} = ANY({})").format(sql.Identifier(entity.key), sql.Literal(list(keys)))


async def missing(connection: Connection, table: Table, key: str, keys: Sequence[str]) -> list[str]:
    """The keys among these that are not in the table; its key column is ``key``."""
    statement = sql.SQL(
        "SELECT k AS key FROM unnest(%(keys)s::text[]) k WHERE NOT EXISTS (SELECT FROM {} i WHERE i.{} = k)"
    ).format(table.sql, sql.Identifier(key))
    rows = await fetch_all(connection, statement, {"keys": list(keys)})
    return [row["key"] for row in rows]


async def ready(connection: Connection, entity: Entity, records: Mapping[str, Data]) -> list[str]:
    """The keys of the waiting records whose requirements are now met, or that are gone."""
    if not records or not entity.requirements:
        return []
    unmet = sql.SQL(" OR ").join(sql.SQL("({})").format(sql.SQL(r.unmet)) for r in entity.requirements)
    statement = sql.SQL(
        "SELECT d.key FROM jsonb_to_recordset(%(records)s) AS d (key text, data jsonb)"
        " WHERE NOT EXISTS (SELECT FROM {invalid} i CROSS JOIN LATERAL jsonb_populate_record(i, d.data) r"
        " WHERE i.{key} = d.key AND ({unmet}))"
    ).format(invalid=entity.invalid_table.sql, key=sql.Identifier(entity.key), unmet=unmet)
    params = {"records": Jsonb([{"key": key, "data": data} for key, data in records.items()])}
    rows = await fetch_all(connection, statement, params)
    return [row["key"] for row in rows]


async def corrected(connection: Connection, entity: Entity, agreed: Mapping[str, Data]) -> list[str]:
    """The keys of the records that have changed since both sides agreed on them."""
    if not agreed:
        return []
    statement = sql.SQL(
        "SELECT d.key FROM jsonb_to_recordset(%(records)s) AS d (key text, data jsonb)"
        " JOIN {invalid} i ON i.{key} = d.key WHERE {data} <> d.data"
    ).format(invalid=entity.invalid_table.sql, key=sql.Identifier(entity.key), data=data_of(entity, "i"))
    params = {"records": Jsonb([{"key": key, "data": data} for key, data in agreed.items()])}
    rows = await fetch_all(connection, statement, params)
    return [row["key"] for row in rows]
