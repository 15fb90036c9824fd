"""The privileges that the worker's role needs in each database: exactly those that ``sql/roles/`` grants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from worker.entities.declaration import Entity
from worker.entities.worker_tables import FAILURES, LEDGER, LOG, OUTBOX, PAUSED, POSITION, PULLS, RECEIPTS, Table
from worker.postgres.connection import Connection
from worker.postgres.statements import statement

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
    """Its name in ``doctor``'s findings."""

    def __str__(self) -> str:
        if self.kind == "SEQUENCE":
            return f"{self.privilege} on the sequence of {self.on}"
        return f"{self.privilege} on {self.on or 'the database'}"


def _tables(subject: str, table: Table, privileges: Iterable[str]) -> Iterator[Need]:
    for privilege in privileges:
        yield Need(privilege, "TABLE", table, subject)


def needs(database: str, entities: Iterable[Entity], *, prunes: bool = False) -> list[Need]:
    """The privileges that the worker needs in ``Neon`` or ``Supabase``: on the database, its schemas, its tables.

    Args:
        database: which of them.
        entities: whose tables.
        prunes: whether it removes old ledger rows.
    """
    tables: list[Need] = []
    for entity in entities:
        if database == "Neon":
            subject = f"{entity.name}: Neon's privileges"
            # `undo` inserts into the invalid table and deletes from the master.
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
        tables += _tables(LEDGER_AND_LOG, LEDGER, ledger)
        tables += _tables(LEDGER_AND_LOG, LOG, ("SELECT", "INSERT", "UPDATE"))
        tables += _tables(LEDGER_AND_LOG, RECEIPTS, ("SELECT", "INSERT", "UPDATE"))
        tables += _tables(LEDGER_AND_LOG, PULLS, ("SELECT", "INSERT", "UPDATE"))
    else:
        tables += _tables("pull's position", POSITION, ("SELECT", "INSERT", "UPDATE"))
        tables += _tables("outbox", OUTBOX, ALL)
        tables += _tables("pauses", PAUSED, ("SELECT", "INSERT", "DELETE"))
        tables += _tables("failures by week", FAILURES, ALL)
    schemas = dict.fromkeys(need.on.schema for need in tables if isinstance(need.on, Table))
    subject = f"{database} privileges"
    return [
        Need("CONNECT", "DATABASE", subject=subject),
        *(Need("USAGE", "SCHEMA", schema, subject) for schema in schemas),
        *dict.fromkeys(tables),
    ]


_MAY = statement("worker.operate", "privileges")


@dataclass(frozen=True, slots=True)
class Found:
    """Whether the connection's role has a privilege."""

    need: Need
    may: bool | None
    """None if the object does not exist."""
    grant: str
    """The statement with which the owner grants it."""


async def check(connection: Connection, wanted: Sequence[Need]) -> list[Found]:
    """Which of the privileges the connection's role has.

    Raises:
        psycopg.Error: the query failed.
    """
    asked = []
    for nr, need in enumerate(wanted):
        schema, name = (need.on.schema, need.on.name) if isinstance(need.on, Table) else (need.on, None)
        asked.append({"nr": nr, "kind": need.kind, "privilege": need.privilege, "schema": schema, "name": name})
    cursor = await connection.execute("SELECT quote_ident(current_user) AS name")
    [role] = await cursor.fetchall()
    cursor = await connection.execute(_MAY, {"needs": Jsonb(asked)})
    found = []
    for row in await cursor.fetchall():
        need = wanted[row["nr"]]
        grant = f"GRANT {need.privilege} ON {need.kind} {row['target']} TO {role['name']}"
        found.append(Found(need, row["may"], grant))
    return found
