"""What the production tables are really like, read from the system catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import sql

from worker.database import COMMIT, Connection, begin, send
from worker.entities import Entity, Table
from worker.faults import SetupMissing

SWALLOWED = "enrichment_ledger_promoted_check"
"""What the ledger says where a trigger of the master let a row vanish."""
SETUP_MEND = "run `enrichment-worker setup`"


@dataclass(frozen=True)
class Column:
    """A column as the catalogue has it."""

    name: str
    needed: bool
    """NOT NULL, without default, not generated: an INSERT must bring it."""
    writable: bool
    """Neither generated nor an identity column that refuses values."""
    not_null: bool
    category: str
    """Of its type: ``S`` text, ``N`` a number, …; https://www.postgresql.org/docs/current/catalog-pg-type.html."""


_COLUMNS = sql.SQL("""
SELECT a.attname AS name,
  a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL AS needed,
  a.attgenerated = '' AND a.attidentity <> 'a' AS writable, a.attnotnull AS not_null, t.typcategory::text AS category
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
""")


async def columns(connection: Connection, table: Table, *, inside: bool = False) -> list[Column]:
    """The columns of a table, none where it does not exist.

    Args:
        connection: to the database.
        table: which.
        inside: within the transaction that is open already.
    """
    step = (_COLUMNS, {"table": table.sql.as_string(connection)})
    steps = [step] if inside else [*begin(read_only=True), step, COMMIT]
    results = await send(connection, *steps)
    return [Column(**row) for row in results[steps.index(step)].fetchall()]


async def master_columns(connection: Connection, entity: Entity) -> list[Column]:
    """The writable columns of the master table.

    Raises:
        SetupMissing: there is no such table, or it has columns that must be filled and cannot be.
    """
    found = await columns(connection, entity.master_table)
    if not found:
        raise SetupMissing(f"Neon has no table {entity.master_table}: {SETUP_MEND}")
    filled = {entity.key, *entity.mapping, *entity.computed}
    blank = [column.name for column in found if column.needed and column.name not in filled]
    if blank:
        raise SetupMissing(
            f"{entity.master_table} has NOT NULL columns without default that the worker cannot fill: "
            f"{', '.join(blank)}; give them a default"
        )
    return [column for column in found if column.writable]


async def require(connection: Connection, where: str, table: Table, names: Iterable[str]) -> None:
    """Check that a table has these columns.

    Raises:
        SetupMissing: it has not, or there is no such table.
    """
    found = {column.name for column in await columns(connection, table)}
    lacking = [name for name in names if name not in found]
    if not found:
        raise SetupMissing(f"{where} has no table {table}: {SETUP_MEND}")
    if lacking:
        raise SetupMissing(f"{where}'s {table} lacks {', '.join(lacking)}: {SETUP_MEND}")


_CONSTRAINT = sql.SQL("""
SELECT pg_get_constraintdef(c.oid) AS definition, c.confrelid::regclass::text AS other,
  ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.conrelid AND attnum = ANY(c.conkey)) AS columns
FROM pg_constraint c WHERE c.conrelid = to_regclass(%(table)s) AND c.conname = %(name)s
UNION ALL
SELECT pg_get_indexdef(i.indexrelid), NULL,
  ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = ANY(i.indkey::int2[]))
FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
WHERE i.indrelid = to_regclass(%(table)s) AND n.relname = %(name)s
LIMIT 1
""")


@dataclass(frozen=True)
class Refusal:
    """What the database said when it refused a record: the fields of its error report."""

    sqlstate: str
    message: str
    constraint: str | None = None
    schema: str | None = None
    table: str | None = None
    column: str | None = None


async def explain_refusal(connection: Connection, entity: Entity, refusal: Refusal) -> tuple[str, str]:
    """Say in words why the database refused a record.

    Returns:
        The data field it is about (``record`` where that is not known), and the message.
    """
    definition, other, involved = "", "", [refusal.column] if refusal.column else []
    if refusal.constraint and refusal.table:
        table = sql.Identifier(refusal.schema or "public", refusal.table).as_string(connection)
        step = (_CONSTRAINT, {"table": table, "name": refusal.constraint})
        results = await send(connection, *begin(read_only=True), step, COMMIT)
        if row := results[2].fetchone():
            definition, other, involved = row["definition"], row["other"] or "", row["columns"]
    sources = {**entity.mapping, **{master: _field_in(sql_) for master, sql_ in entity.computed.items()}}
    fields = [sources.get(column) or column for column in involved]
    field = next((name for name in fields if name in entity.columns), "record")
    where = ", ".join(fields) or "the record"
    said = " ".join(refusal.message.split())[:500]
    # Which table spoke; a value's type and a trigger do not say, and it is the master's nearly always.
    table_ = Table(refusal.schema or "public", refusal.table) if refusal.table else entity.master_table
    its = "the master table" if table_ == entity.master_table else f"the table {table_}"
    match refusal.sqlstate:
        case "23514" if refusal.constraint == SWALLOWED:
            message = "a trigger of the master table does not let this record in, without a reason: tell the operator"
        case "23503" if table_ not in (entity.master_table, entity.invalid_table):
            message = f"the table {table_} refers to this record, which keeps it where it is: tell the operator"
        case "23502" if set(involved) & set(entity.computed):
            message = f"leads to no {', '.join(involved)}, which {its} needs: check this value"
        case "23502":
            message = f"{its} needs a value for {where}"
        case "23514" if definition:
            rule = re.sub(r"^CHECK \((.*)\)( NOT VALID)?$", r"\1", definition, flags=re.DOTALL)
            message = f"{its} refuses this value: its rule is {rule}"
        case "23505":
            message = f"another record in {its} already has this {where}"
        case "23503":
            message = f"{where} refers to a row that is not in {other or 'the other table'}"
        case "22001":
            message = f"a value is too long for {its}: {said}"
        case _:
            message = f"{its} refuses this record: {said}"
    return field, message


def _field_in(expression: str) -> str | None:
    """The data field that a computed column is made of, where it is made of one."""
    names = set(re.findall(r"\br\.(\w+)", expression))
    return names.pop() if len(names) == 1 else None
