"""Retention: removes ledger rows and promoted workspace rows that are older than the operator wants to keep."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import structlog
from psycopg import sql

from worker.entities.declaration import Entity
from worker.entities.worker_tables import LEDGER
from worker.neon.ledger import mark_pruned
from worker.postgres.connection import Connection
from worker.postgres.errors import Kind, kind_of, with_database
from worker.postgres.hints import hint_for
from worker.postgres.statements import statement
from worker.postgres.transaction import fetch_all, transact
from worker.sync.databases import Databases

log = structlog.get_logger("worker.retention")

BATCH = 1000
"""Rows removed in one transaction, so that nobody waits for long and autovacuum keeps up."""


@dataclass
class Pruned:
    """How many rows were removed."""

    entity: str
    ledger: int = 0
    workspace: int = 0


async def prune(databases: Databases, entity: Entity, *, ledger_days: int | None, workspace_days: int | None) -> Pruned:
    """Remove what is older than so many days; None keeps all. Ends early when the worker stops.

    What a database does not allow is told and left: records matter more than that old ones go.

    Raises:
        psycopg.Error: a fault that passes. What was removed stays so; the next pull goes on.
    """
    done = Pruned(entity.name)
    try:
        if workspace_days is not None:
            await _prune_workspace(databases, entity, workspace_days, done)
        if ledger_days is not None:
            await _prune_ledger(databases, entity, ledger_days, done)
    except psycopg.Error as error:
        if kind_of(error) is Kind.TRANSIENT:
            raise
        log.warning("retention.failed", entity=entity.name, error=with_database(error), hint=hint_for(error) or None)
    if done.ledger or done.workspace:
        log.info("retention.pruned", entity=entity.name, ledger=done.ledger, workspace=done.workspace)
    return done


_PROMOTED = statement("worker.sync", "prune_workspace")


async def _prune_workspace(databases: Databases, entity: Entity, days: int, done: Pruned) -> None:
    statement = _PROMOTED.format(workspace=entity.workspace_table.sql)
    params = {"days": days, "limit": BATCH}
    async with databases.supabase.connection() as supabase:
        while not databases.stop.is_set():
            [removed] = await transact(supabase, (statement, params))
            done.workspace += removed.rowcount
            if removed.rowcount < BATCH:
                return


# In the order of their ids, which is nearly that of their age: reading ends where the young ones begin. Of every
# entity: looking for the few rows of a rare one would read the whole ledger.
_OLDEST = sql.SQL(
    "SELECT id, key, entity = %(entity)s AS mine, recorded_at < now() - make_interval(days => %(days)s) AS old"
    " FROM {ledger} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s"
)


async def _prune_ledger(databases: Databases, entity: Entity, days: int, done: Pruned) -> None:
    after = 0
    delete = sql.SQL("DELETE FROM {} WHERE id = ANY(%(ids)s)").format(LEDGER.sql)
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        while not databases.stop.is_set():
            params = {"days": days, "after": after, "entity": entity.name, "limit": BATCH}
            rows = await fetch_all(neon, _OLDEST.format(ledger=LEDGER.sql), params)
            old = [row for row in rows if row["old"]]
            if not old:
                return
            after = rows[-1]["id"]
            mine = [row for row in old if row["mine"]]
            if not mine:
                continue
            needed = await _untold(supabase, entity, [row["key"] for row in mine])
            ids = [row["id"] for row in mine if row["key"] not in needed]
            if ids:
                # The mark commits with them: what is gone by retention was not forgotten in a restore.
                _, removed = await transact(neon, mark_pruned(entity, ids), (delete, {"ids": ids}))
                done.ledger += removed.rowcount


async def _untold(supabase: Connection, entity: Entity, keys: list[str]) -> set[str]:
    """Those of the keys whose workspace row has not heard its outcome: the ledger is what tells it."""
    statement = sql.SQL(
        "SELECT {key} AS key FROM {workspace} WHERE {key} = ANY(%(keys)s) AND enrichment_status = 'complete'"
        " AND (pushed_to_neon_at IS NULL OR promoted_at IS NULL)"
    ).format(key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql)
    rows = await fetch_all(supabase, statement, {"keys": keys})
    return {row["key"] for row in rows}
