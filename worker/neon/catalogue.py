"""The tables as they really are, read from the system catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.entities.declaration import Entity
from worker.entities.worker_tables import Table
from worker.neon import words
from worker.neon.triggers import assigns
from worker.neon.words import first_field
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import fetch_all, fetch_first, fetch_inside

SWALLOWED = "enrichment_ledger_promoted_check"
"""What the ledger says where a trigger of the master let a row vanish."""
SWALLOWED_WORDS = "a trigger of the master table does not let this record in, without a reason: tell the operator"


@dataclass(frozen=True)
class Column:
    """A column as the catalogue has it. A domain is shown as its base type."""

    name: str
    quoted: str
    """The name as SQL writes it."""
    type: str
    """The full type, for display."""
    base: str
    """The type's short name: ``text``, ``varchar``, ``int4``, ``timestamptz``."""
    modifier: int
    """The type's modifier; -1 if it has none."""
    category: str
    """Of the type: ``S`` text, ``N`` number, …; https://www.postgresql.org/docs/current/catalog-pg-type.html."""
    not_null: bool
    default: bool
    """Whether a row inserted without it gets a value: by a default, as identity, by its domain."""
    generated: str
    """``s`` stored, ``v`` virtual, empty for a plain column."""
    identity: str
    """``a`` always, ``d`` by default, empty if it is no identity column."""
    sequence: str | None
    """The sequence that numbers it."""
    views: tuple[str, ...]
    """The views that show it: while they do, its type cannot be changed."""
    triggers: tuple[str, ...]
    """The triggers that name it: the same."""

    @property
    def needed(self) -> bool:
        """NOT NULL, without default, not generated: an INSERT must provide it."""
        return self.not_null and not self.default

    @property
    def writable(self) -> bool:
        """Neither generated nor an identity column that refuses values."""
        return not self.generated and self.identity != "a"


@dataclass(frozen=True)
class Unique:
    """A unique index over some columns and all rows of a table."""

    name: str
    columns: tuple[str, ...]
    immediate: bool
    """Whether ON CONFLICT may use it: not DEFERRABLE."""
    constraint: bool
    primary: bool


@dataclass(frozen=True)
class Found:
    """What the catalogue says about a table."""

    table: Table
    kind: str = ""
    """``r`` a table, ``p`` a partitioned table, ``v`` a view, …, empty if nothing has this name."""
    columns: dict[str, Column] = field(default_factory=dict)
    unique: tuple[Unique, ...] = ()
    parted_by: tuple[str, ...] = ()
    """The columns by which it is partitioned."""
    blind: bool = False
    """Whether row level security hides rows from this role."""
    sql: str = ""
    """Its name as SQL writes it."""
    role: str = ""
    """The current role, as SQL writes it."""
    spare_name: str = ""
    """A free name to which the table can be renamed; as SQL writes it."""
    indexes: tuple[str, ...] = ()
    """Its indexes that belong to no constraint, as SQL writes them."""
    triggers: tuple[Mapping[str, str], ...] = ()
    """The functions that see a row before it is inserted."""

    def may_be_filled(self, column: str) -> bool:
        """Whether a trigger may give the column a value before it is checked."""
        return any(assigns(trigger, column) for trigger in self.triggers)


_DESCRIBE = statement("worker.neon", "describe_tables")


async def read(connection: Connection, tables: Sequence[Table], *, inside: bool = False) -> dict[Table, Found]:
    """What the catalogue says about these tables: one round trip.

    Args:
        connection: to the database.
        tables: which.
        inside: within the transaction that is open already.
    """
    wanted = [{"nr": nr, "schema": table.schema, "name": table.name} for nr, table in enumerate(tables)]
    step = (_DESCRIBE, {"tables": Jsonb(wanted)})
    rows = await (fetch_inside if inside else fetch_all)(connection, *step)
    return {tables[row["nr"]]: _found(tables[row["nr"]], row) for row in rows}


def _found(table: Table, row: dict[str, Any]) -> Found:
    columns = {
        one["name"]: Column(**{**one, "views": tuple(one["views"]), "triggers": tuple(one["triggers"])})
        for one in row["columns"] or ()
    }
    unique = tuple(Unique(**{**one, "columns": tuple(one["columns"])}) for one in row["unique"] or ())
    return Found(
        table, row["kind"] or "", columns, unique, tuple(row["parted_by"]), blind=row["blind"], sql=row["sql"],
        role=row["role"], spare_name=row["aside"] or "", indexes=tuple(row["indexes"]),
        triggers=tuple(row["triggers"]),
    )  # fmt: skip


async def columns(connection: Connection, table: Table) -> Iterable[Column]:
    """The columns of a table, within the transaction that is open."""
    return (await read(connection, [table], inside=True))[table].columns.values()


_CONSTRAINT = statement("worker.neon", "constraint")


async def constrained(connection: Connection, table: str, name: str) -> list[str]:
    """The columns of a constraint or an index of a table; the table as SQL writes it."""
    step = (_CONSTRAINT, {"table": table, "name": name})
    row = await fetch_first(connection, *step)
    return list(row["columns"]) if row else []


async def default_of(connection: Connection, table: str, column: str) -> str | None:
    """A column's default as SQL writes it; the table, too."""
    statement = sql.SQL(
        "SELECT pg_get_expr(d.adbin, d.adrelid) AS text FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid"
        " AND a.attnum = d.adnum WHERE d.adrelid = to_regclass(%(table)s) AND a.attname = %(column)s"
    )
    params = {"table": table, "column": column}
    row = await fetch_first(connection, statement, params)
    return row["text"] if row else None


@dataclass(frozen=True)
class Refusal:
    """Why the database refused a record: the fields of its error report."""

    sqlstate: str
    message: str
    constraint: str | None = None
    schema: str | None = None
    table: str | None = None
    column: str | None = None


async def explain_refusal(connection: Connection, entity: Entity, refusal: Refusal) -> dict[str, str]:
    """Explain in words why the database refused a record.

    Returns:
        The data fields, or ``record`` if they are not known, with the message to each.
    """
    check, other, involved = None, "", [refusal.column] if refusal.column else []
    if refusal.constraint and refusal.table:
        table = sql.Identifier(refusal.schema or "public", refusal.table).as_string(connection)
        if row := await fetch_first(connection, _CONSTRAINT, {"table": table, "name": refusal.constraint}):
            check, other, involved = row if row["pretty"] else None, row["other"] or "", row["columns"]
    sources = {**entity.mapping, **{master: first_field(sql_) for master, sql_ in entity.computed.items()}}
    fields = [sources.get(column) or column for column in involved]
    field = next((name for name in fields if name in entity.columns), "record")
    where = ", ".join(fields) or "the record"
    text = " ".join(refusal.message.split())[:500]
    # A type error and a trigger do not name the table; it is nearly always the master.
    failed_table = Table(refusal.schema or "public", refusal.table) if refusal.table else entity.master_table
    its = words.MASTER if failed_table == entity.master_table else f"the table {failed_table}"
    match refusal.sqlstate:
        case "23514" if refusal.constraint == SWALLOWED:
            message = SWALLOWED_WORDS
        case "23503" if failed_table not in (entity.master_table, entity.invalid_table):
            message = f"the table {failed_table} refers to this record, which keeps it where it is: tell the operator"
        case "23502" if set(involved) & set(entity.computed):
            message = words.leads_to_nothing(its, involved)
        case "23502":
            message = words.missing(its, fields)
        case "23514" if check:
            return words.of_check(its, check, fields, entity.columns)
        case "23505":
            message = f"another record in {its} already has this {where}"
        case "23503":
            message = f"{where} refers to a row that is not in {other or 'the other table'}"
        case "22001":
            message = f"a value is too long for {its}: {text}"
        case _:
            message = f"{its} refuses this record: {text}"
    return {field: message}
