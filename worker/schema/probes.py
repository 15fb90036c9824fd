"""What the catalogue alone does not show about a table: its highest and next ids, duplicate keys, and whether written
values fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from worker.entities.declaration import Entity
from worker.entities.names import fields_in, literal
from worker.entities.worker_tables import Table
from worker.neon.catalogue import Found
from worker.postgres.connection import Connection
from worker.postgres.errors import SchemaProblem, in_one_line
from worker.postgres.statements import statement
from worker.postgres.transaction import ROLLBACK, Step, fetch_all, fetch_one, read, roll_back_refusal, send


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


@dataclass(frozen=True)
class Unfit:
    """What of the entities' SQL does not fit the tables."""

    types: dict[Table, dict[str, str]]
    """Master → column → the type of the value that the worker writes there, which it does not take."""
    faults: list[tuple[Table, SchemaProblem]]
    """Master, and SQL of its entity's file that the database refuses, whatever the record."""


async def unfit(connection: Connection, entities: Iterable[Entity], found: Mapping[Table, Found]) -> Unfit:
    """Ask Neon whether the values that the worker writes fit the masters, and whether it takes the SQL of the entities'
    files. One round trip if it does.

    Args:
        connection: to Neon.
        entities: whose masters.
        found: Neon's actual tables. What speaks of something that does not exist yet is left out.
    """
    known = [entity for entity in entities if found[entity.invalid_table].kind]
    written = {entity: _written(entity, found) for entity in known}
    steps = [(_types_of(entity, written[entity]), None) for entity in known if written[entity]]
    masters = [entity.master_table for entity in known if written[entity]]
    parts = {entity: _parts(entity, found) for entity in known}
    checks = [_checked(entity, text) for entity in known for text in parts[entity].values()]
    if not steps and not checks:
        return Unfit({}, [])
    try:
        _, *results = await read(connection, _SHORT_LOCK_TIMEOUT, *steps, *checks)
    except psycopg.errors.LockNotAvailable:
        # Somebody is altering the table: a misfit will show when a record is settled.
        await send(connection, ROLLBACK)
        return Unfit({}, [])
    except psycopg.Error as error:
        await roll_back_refusal(connection, error)
        faults = [one for entity in known for one in await _faults(connection, entity, parts[entity])]
        # What is refused only of an empty record, or in a transaction that writes nothing, says nothing.
        return Unfit({}, faults)
    return Unfit(
        {master: {row["name"]: row["value"] for row in rows} for master, rows in zip(masters, results, strict=False)},
        [],
    )


_OVER_NO_RECORD = sql.SQL("(SELECT NULL::text AS enriched_by) d LEFT JOIN {invalid} r ON false")


def _written(entity: Entity, found: Mapping[Table, Found]) -> dict[str, sql.Composable]:
    """Master column → what is written there."""
    invalid, master = found[entity.invalid_table], found[entity.master_table]
    written: dict[str, sql.Composable] = {
        name: sql.Identifier("r", source) for name, source in entity.mapping.items() if source in invalid.columns
    }
    written |= {name: _unasked(how) for name, how in entity.computed.items() if _is_possible(entity, how, found)}
    return {name: how for name, how in written.items() if name in master.columns and master.columns[name].writable}


def _unasked(how: str) -> sql.Composable:
    """An expression of the same type that is never asked for its value: it may count something, or divide by what only
    a rule asks for. A text alone has no type yet.
    """
    if re.fullmatch(r"'(?:[^']|'')*'", how):
        return sql.SQL(how)
    return sql.SQL("CASE WHEN NULL::boolean THEN {} END").format(sql.SQL(how))


def _is_possible(entity: Entity, text: str, found: Mapping[Table, Found]) -> bool:
    """Whether all that a text speaks of exists, as far as that is known."""
    absent = [str(table) for table in entity.reads if table in found and not found[table].kind]
    absent += [] if found[entity.master_table].kind else [str(entity.master_table)]
    return found[entity.invalid_table].columns.keys() >= set(fields_in(text)) and not any(one in text for one in absent)


def _types_of(entity: Entity, written: Mapping[str, sql.Composable]) -> sql.Composed:
    pairs = (sql.SQL("({}, pg_typeof({})::oid)").format(sql.Literal(name), how) for name, how in written.items())
    body = _UNFIT.format(pairs=sql.SQL(", ").join(pairs), master=sql.Literal(entity.master_table.sql.as_string()))
    one = sql.SQL("SELECT w.* FROM {over} CROSS JOIN LATERAL ({unfit}) w")
    return one.format(over=_OVER_NO_RECORD.format(invalid=entity.invalid_table.sql), unfit=body)


def _parts(entity: Entity, found: Mapping[Table, Found]) -> dict[str, str]:
    """Where it is in the file → SQL that the database has to take."""
    parts = {f"master.computed.{name}": how for name, how in entity.computed.items()}
    for number, one in enumerate(entity.requirements):
        parts |= {f"wait {number + 1}": f"({one.unmet})::text || ({one.about}) || ({one.waits_for})"}
    parts = {place: text for place, text in parts.items() if _is_possible(entity, text, found)}
    # A pattern is only read where there is something to compare it with.
    return parts | {f"the pattern {text}": f"'' ~ {literal(text)}" for text in entity.patterns}


def _checked(entity: Entity, text: str) -> Step:
    # Only planned: it may count something, or divide by a value that a rule asks for.
    over = sql.SQL("(SELECT NULL::text AS enriched_by) d CROSS JOIN {invalid} r").format(
        invalid=entity.invalid_table.sql
    )
    return sql.SQL("EXPLAIN SELECT {part} AS part FROM {over}").format(part=sql.SQL(text), over=over), None


async def _faults(
    connection: Connection, entity: Entity, parts: Mapping[str, str]
) -> list[tuple[Table, SchemaProblem]]:
    """Which of these parts the database refuses."""
    faults = []
    for place, text in parts.items():
        try:
            await read(connection, _checked(entity, text))
        except psycopg.Error as error:
            await roll_back_refusal(connection, error)
            what = f"the database refuses {place} of the entity {entity.name}: {in_one_line(error)}"
            faults.append((entity.master_table, SchemaProblem(what, f"correct it in {entity.file}")))
    return faults
