"""What the worker's role must be allowed in each database: the same as ``sql/roles/`` grants, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.entities.declaration import ENTITIES, Table
from worker.postgres.connection import Connection
from worker.schema.shape import PULL_POSITION
from worker.supabase.outbox import OUTBOX

LEDGER_AND_LOG = "ledger and log"
ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True, slots=True)
class Need:
    """A privilege that the worker uses."""

    privilege: str
    kind: str
    """``DATABASE``, ``SCHEMA``, ``TABLE`` or ``SEQUENCE``."""
    on: Table | str = ""
    """The table, or the schema's name; for a sequence the table whose ``id`` it numbers."""
    subject: str = ""
    """What ``doctor`` reports it under."""

    def __str__(self) -> str:
        if self.kind == "SEQUENCE":
            return f"{self.privilege} on the sequence of {self.on}"
        return f"{self.privilege} on {self.on or 'the database'}"


def _tables(subject: str, table: Table, privileges: Iterable[str]) -> Iterator[Need]:
    for privilege in privileges:
        yield Need(privilege, "TABLE", table, subject)


def needs(database: str, *, prunes: bool = False) -> list[Need]:
    """What the worker needs in ``Neon`` or ``Supabase``: the database first, its schemas, its tables.

    Args:
        database: which of them.
        prunes: whether it removes old ledger rows.
    """
    tables: list[Need] = []
    for entity in ENTITIES.values():
        if database == "Neon":
            subject = f"{entity.name}: Neon's privileges"
            # `undo` inserts into the one and deletes from the other.
            tables += _tables(subject, entity.invalid_table, ALL)
            tables += _tables(subject, entity.master_table, ALL)
            for table in entity.reads:
                tables += _tables(subject, table, ["SELECT"])
        else:
            subject = f"{entity.name}: workspace privileges"
            tables += _tables(subject, entity.workspace_table, ALL)
            tables.append(Need("USAGE", "SEQUENCE", entity.workspace_table, subject))
    if database == "Neon":
        ledger = ("SELECT", "INSERT", "DELETE") if prunes else ("SELECT", "INSERT")
        tables += _tables(LEDGER_AND_LOG, Table("marketing", "enrichment_ledger"), ledger)
        tables += _tables(LEDGER_AND_LOG, Table("public", "shq_validation_log"), ("SELECT", "INSERT", "UPDATE"))
        tables += _tables(LEDGER_AND_LOG, Table("marketing", "enrichment_receipts"), ("SELECT", "INSERT", "UPDATE"))
    else:
        tables += _tables("pull's position", PULL_POSITION, ("SELECT", "INSERT", "UPDATE"))
        tables += _tables("outbox", OUTBOX, ALL)
    schemas = dict.fromkeys(need.on.schema for need in tables if isinstance(need.on, Table))
    subject = f"{database} privileges"
    return [
        Need("CONNECT", "DATABASE", subject=subject),
        *(Need("USAGE", "SCHEMA", schema, subject) for schema in schemas),
        *dict.fromkeys(tables),
    ]


# What is not there is another finding's business: NULL, not an error.
_MAY = sql.SQL("""
SELECT n.nr, t.target, CASE n.kind
    WHEN 'DATABASE' THEN has_database_privilege(current_database(), n.privilege)
    WHEN 'SCHEMA' THEN has_schema_privilege(s.oid, n.privilege)
    WHEN 'TABLE' THEN has_table_privilege(c.oid, n.privilege)
    WHEN 'SEQUENCE' THEN has_sequence_privilege(q.oid, n.privilege)
  END AS may
FROM jsonb_to_recordset(%(needs)s) AS n (nr int, kind text, privilege text, schema text, name text)
  LEFT JOIN pg_namespace s ON s.nspname = n.schema
  LEFT JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = n.name
  LEFT JOIN LATERAL (
    SELECT q.oid, q.relname FROM pg_depend d JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S'
    WHERE n.kind = 'SEQUENCE' AND d.refobjid = c.oid AND d.deptype = 'a'
      AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass) q ON true
  CROSS JOIN LATERAL (SELECT CASE n.kind WHEN 'DATABASE' THEN quote_ident(current_database())
    WHEN 'SCHEMA' THEN quote_ident(n.schema)
    ELSE format('%%I.%%I', n.schema, coalesce(q.relname, n.name)) END AS target) t
ORDER BY n.nr
""")


@dataclass(frozen=True, slots=True)
class Found:
    """Whether the connection's role has a privilege."""

    need: Need
    may: bool | None
    """None where there is no such thing."""
    grant: str
    """The statement by which the owner gives it."""


async def check(connection: Connection, wanted: Sequence[Need]) -> list[Found]:
    """Which of the privileges the connection's role has.

    Raises:
        psycopg.Error: it could not be asked.
    """
    asked = []
    for nr, need in enumerate(wanted):
        schema, name = (need.on.schema, need.on.name) if isinstance(need.on, Table) else (need.on, None)
        asked.append({"nr": nr, "kind": need.kind, "privilege": need.privilege, "schema": schema, "name": name})
    cursor = await connection.execute("SELECT quote_ident(current_user) AS name")
    role = await cursor.fetchone()
    assert role is not None
    cursor = await connection.execute(_MAY, {"needs": Jsonb(asked)})
    found = []
    for row in await cursor.fetchall():
        need = wanted[row["nr"]]
        grant = f"GRANT {need.privilege} ON {need.kind} {row['target']} TO {role['name']}"
        found.append(Found(need, row["may"], grant))
    return found
