"""``reconcile``: compare both databases, record by record, with the ledger; say where they disagree, and fix it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from worker.domain import messages
from worker.domain.model import Code, Data, Outcome, new_run_id, utc_now
from worker.domain.progress import NO_PROGRESS, Progress
from worker.entities.declaration import Entity
from worker.neon.books import Entry
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, send, transact
from worker.supabase.position import read_position, restored_in_words, save_restored
from worker.sync.catch_up import CatchUp
from worker.sync.databases import Databases
from worker.sync.pull import pull
from worker.sync.restore import held_back
from worker.sync.route import Route

COMPARED_AT_ONCE = 10_000
"""This many rows are compared at once."""


@dataclass
class Compared:
    """Where both databases disagree about an entity."""

    entity: str
    restored: str | None = None
    """In words, if a database was restored and that is not settled."""
    differences: dict[str, str] = field(default_factory=dict)
    """Key → the difference."""
    lost: dict[str, Data] = field(default_factory=dict)
    """Key → the workspace's data of a record that a restored Neon no longer has."""
    settled: int = 0
    """How many records were brought together."""

    @property
    def agrees(self) -> bool:
        """Whether there is no difference."""
        return not (self.differences or self.lost)


async def reconcile(
    databases: Databases, entity: Entity, *, repair: bool = False, progress: Progress = NO_PROGRESS
) -> Compared:
    """Compare every record of an entity in both databases, and with the ledger.

    Args:
        databases: both databases.
        entity: which.
        repair: bring them together: pull, and book what was lost in a restore as withdrawn.
        progress: informed of every batch.

    Returns:
        Where they disagree; with ``repair``, where they still do.

    Raises:
        psycopg.Error: a database failed; what was done stays done.
    """
    route, settled = databases.routes[entity.name], 0
    if repair:
        before = await _compare(databases, entity, NO_PROGRESS)
        await pull(databases, entity, full=True, progress=progress)
        run_id = new_run_id("reconcile")
        async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
            await CatchUp(route, neon, supabase, run_id).all_after(0)
            await _give_up(route, neon, supabase, run_id)
        settled = len(before.differences) + len(before.lost)
    found = await _compare(databases, entity, progress)
    found.settled = max(0, settled - len(found.differences) - len(found.lost))
    return found


async def _compare(databases: Databases, entity: Entity, progress: Progress) -> Compared:
    route, found = databases.routes[entity.name], Compared(entity.name)
    pulled = await pull(databases, entity, dry_run=True, progress=progress)
    if pulled is None:  # asked to stop
        return found
    found.restored = pulled.restored
    found.differences |= pulled.keys
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        caught_up = await CatchUp(route, neon, supabase, pulled.run_id, dry_run=True).all_after(0)
        found.differences |= {
            key: f"was {outcome}, and its row was not told" for key, outcome in caught_up.outcomes.items()
        }
        await _find_unpromoted(route, neon, supabase, found)
        found.lost = await route.workspace.lost(supabase)
        position = await read_position(supabase, entity)
    if found.lost and position.restored and not found.restored:
        found.restored = restored_in_words(position.restored)
    for key in found.lost:
        found.differences.pop(key, None)
    return found


async def _find_unpromoted(route: Route, neon: Connection, supabase: Connection, found: Compared) -> None:
    """Find rows that show a promotion, and whose record is not in the master."""
    after: str | None = None
    while keys := await route.workspace.promoted_keys(supabase, after, COMPARED_AT_ONCE):
        after = keys[-1]
        for key in await route.invalid.missing_in_master(neon, keys):
            found.differences.setdefault(key, "its row says promoted, and the master table does not have it")


async def _give_up(route: Route, neon: Connection, supabase: Connection, run_id: str) -> None:
    """Book records that a restored Neon no longer has as withdrawn, with their data; the rows stay, with a note."""
    entity, lost = route.entity, await route.workspace.lost(supabase)
    for keys in route.batches(list(lost)):
        rows = await route.queue.lock(supabase, list(keys))
        still = await route.invalid.missing(neon, list(rows))
        rows = {key: rows[key] for key in still if rows[key].code == Code.LOST}
        entries = [
            Entry(key, Outcome.WITHDRAWN, f"{key}|{row.claimed.version}|lost", row.claimed.data,
                  note="lost when Neon was restored to an earlier moment; its row in the workspace is kept")
            for key, row in rows.items()
        ]  # fmt: skip
        await route.ledger.book(neon, run_id, entries)
        await send(supabase, route.workspace.give_up(list(rows), messages.GIVEN_UP), COMMIT)
    position = await read_position(supabase, entity)
    if position.restored and not held_back(position) and not await route.workspace.lost(supabase):
        settled: dict[str, Any] = {**position.restored, "lost": 0, "settled_at": utc_now().isoformat()}
        await transact(supabase, save_restored(entity, settled))
