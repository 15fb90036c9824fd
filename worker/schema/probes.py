"""What the catalogue alone does not show about a table: its highest and next ids, duplicate keys, and whether written
values fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from worker.entities.declaration import Entity
from worker.entities.names import fields_in
from worker.entities.worker_tables import Table
from worker.neon.catalogue import Found
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import ROLLBACK, Step, fetch_all, fetch_one, read, send


@dataclass(frozen=True)
class Numbering:
    """The highest ``id`` of a table, and the next one of its sequence."""

    highest: int
    next: int


async def numbering(connection: Connection, numbered: Sequence[tuple[Table, str]]) -> dict[Table, Numbering]:
    """The highest ``id`` of these tables and the next one of their sequences, if this role may see it. One round
    trip.

    Args:
        connection: to the database.
        numbered: tables with an ``id``, each with its sequence.
    """
    if not numbered:
        return {}
    one = sql.SQL(
        "SELECT {nr} AS nr, (SELECT max(id) FROM {table})::bigint AS highest, coalesce("
        " pg_sequence_last_value(s.seqrelid) + s.seqincrement, s.seqstart) AS next FROM pg_sequence s"
        " WHERE seqrelid = {sequence}::regclass AND seqincrement > 0"
        " AND has_sequence_privilege(s.seqrelid, 'USAGE, SELECT')"
    )
    statement = sql.SQL(" UNION ALL ").join(
        one.format(nr=sql.Literal(nr), table=table.sql, sequence=sql.Literal(sequence))
        for nr, (table, sequence) in enumerate(numbered)
    )
    rows = await fetch_all(connection, statement)
    return {
        numbered[row["nr"]][0]: Numbering(row["highest"], row["next"]) for row in rows if row["highest"] is not None
    }


@dataclass(frozen=True)
class Duplicates:
    """The rows of a table that have no key, or the same key."""

    none: int
    key: str | None
    """A key that several rows have."""
    rows: int
    """How many rows have it."""


async def duplicates(connection: Connection, table: Table, key: str) -> Duplicates:
    """The rows that would prevent a fix of a table's key."""
    statement = sql.SQL(
        "SELECT (SELECT count(*) FROM {table} WHERE {key} IS NULL) AS none, d.key, coalesce(d.rows, 0) AS rows"
        " FROM (SELECT 1) one LEFT JOIN (SELECT {key}::text AS key, count(*) AS rows FROM {table}"
        " WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1 ORDER BY 2 DESC, 1 LIMIT 1) d ON true"
    ).format(table=table.sql, key=sql.Identifier(key))
    row = await fetch_one(connection, statement)
    return Duplicates(**row)


_UNFIT = statement("worker.schema", "unfit")


_SHORT_LOCK_TIMEOUT: Step = (sql.SQL("SET LOCAL lock_timeout = '1s'"), None)


async def unfit(
    connection: Connection, entities: Iterable[Entity], found: Mapping[Table, Found]
) -> dict[Table, dict[str, str]]:
    """Master columns whose type does not fit what the worker writes there: master → column → the value's type. One
    round trip.

    Args:
        connection: to Neon.
        entities: whose masters.
        found: Neon's actual tables. Columns computed from something that does not exist yet are left out.
    """
    steps, masters = [], []
    for entity in entities:
        master, invalid = found[entity.master_table], found[entity.invalid_table]
        absent = [str(table) for table in entity.reads if table in found and not found[table].kind]
        written: dict[str, sql.Composable] = {
            name: sql.Identifier("r", source) for name, source in entity.mapping.items() if source in invalid.columns
        }
        written |= {
            name: sql.SQL(how)
            for name, how in entity.computed.items()
            if invalid.columns.keys() >= set(fields_in(how)) and not any(one in how for one in absent)
        }
        pairs = [
            sql.SQL("({}, pg_typeof({})::oid)").format(sql.Literal(name), how)
            for name, how in written.items()
            if name in master.columns and master.columns[name].writable
        ]
        if pairs and invalid.kind:
            one = sql.SQL(
                "SELECT w.* FROM (SELECT NULL::text AS enriched_by) d LEFT JOIN {invalid} r ON false"
                " CROSS JOIN LATERAL ({unfit}) w"
            )
            body = _UNFIT.format(
                pairs=sql.SQL(", ").join(pairs), master=sql.Literal(entity.master_table.sql.as_string(connection))
            )
            steps.append((one.format(invalid=entity.invalid_table.sql, unfit=body), None))
            masters.append(entity.master_table)
    if not steps:
        return {}
    try:
        _, *results = await read(connection, _SHORT_LOCK_TIMEOUT, *steps)
    except psycopg.errors.LockNotAvailable:
        # Somebody is altering the table: a misfit will show when a record is settled.
        await send(connection, ROLLBACK)
        return {}
    return {master: {row["name"]: row["value"] for row in rows} for master, rows in zip(masters, results, strict=True)}
