"""Retention: removes ledger rows and promoted workspace rows that are older than the operator wants to keep."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import structlog
from psycopg import sql

from worker.entities.declaration import Entity
from worker.entities.worker_tables import LEDGER
from worker.postgres.errors import Kind, kind_of, with_database
from worker.postgres.hints import hint_for
from worker.postgres.statements import statement
from worker.postgres.transaction import fetch_all, transact
from worker.sync.databases import Databases
from worker.sync.route import Route

log = structlog.get_logger("worker.retention")

BATCH = 1000
"""Rows removed in one transaction, so that locks are short and autovacuum keeps up."""


@dataclass
class Pruned:
    """How many rows were removed."""

    entity: str
    ledger: int = 0
    workspace: int = 0


async def prune(databases: Databases, entity: Entity, *, ledger_days: int | None, workspace_days: int | None) -> Pruned:
    """Remove what is older than so many days; None keeps all. Ends early when the worker stops.

    What a database refuses is logged and left: deliveries matter more than retention.

    Raises:
        psycopg.Error: a transient fault. What was removed stays removed; the next pull goes on.
    """
    done = Pruned(entity.name)
    try:
        if workspace_days is not None:
            await _prune_workspace(databases, entity, workspace_days, done)
        if ledger_days is not None:
            await _prune_ledger(databases, databases.routes[entity.name], ledger_days, done)
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


# In id order, which is nearly by age: reading ends at the first batch without old rows. Of every entity: searching for
# the few rows of a rare entity would read the whole ledger.
_OLDEST = sql.SQL(
    "SELECT id, key, entity = %(entity)s AS of_entity, recorded_at < now() - make_interval(days => %(days)s) AS old"
    " FROM {ledger} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s"
)


async def _prune_ledger(databases: Databases, route: Route, days: int, done: Pruned) -> None:
    after = 0
    delete = sql.SQL("DELETE FROM {} WHERE id = ANY(%(ids)s)").format(LEDGER.sql)
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        while not databases.stop.is_set():
            params = {"days": days, "after": after, "entity": route.entity.name, "limit": BATCH}
            rows = await fetch_all(neon, _OLDEST.format(ledger=LEDGER.sql), params)
            old = [row for row in rows if row["old"]]
            if not old:
                return
            after = rows[-1]["id"]
            old_of_entity = [row for row in old if row["of_entity"]]
            if not old_of_entity:
                continue
            needed = await route.receipts.lacking(supabase, [row["key"] for row in old_of_entity])
            ids = [row["id"] for row in old_of_entity if row["key"] not in needed]
            if ids:
                # The mark commits with them: rows removed by retention were not forgotten in a restore.
                _, removed = await transact(neon, route.ledger.mark_pruned(ids), (delete, {"ids": ids}))
                done.ledger += removed.rowcount
