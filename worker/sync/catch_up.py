"""Rows whose outcome was never acknowledged: a worker died before it could, the row was taken back while it was on its
way, or Supabase was restored from a backup. They are acknowledged from Neon's ledger. Knows no rules of validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from worker.domain.lineage import is_older
from worker.domain.model import Code, new_run_id
from worker.entities.declaration import Entity
from worker.neon.ledger import LedgerOutcome, NeonState
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, Step, send, transact
from worker.supabase.acknowledgement import Reply
from worker.supabase.bisect import Refusals, for_each_accepted
from worker.supabase.position import read_position
from worker.supabase.queue import Row
from worker.supabase.workspace import Refresh
from worker.sync.databases import Databases
from worker.sync.deliver import outcome_events_of
from worker.sync.missed import (
    missed_outcome,
    newer_version,
    reply_to_missed,
    was_acknowledged_before,
    was_undone_in_this_version,
    with_receipt,
)
from worker.sync.route import Route


@dataclass
class CaughtUp:
    """What a round of acknowledging did."""

    acknowledged: int = 0
    older: int = 0
    """Rows that are older than the version that was carried: their database was restored."""
    held: bool = False
    """Whether another transaction held a row that should be acknowledged."""
    queued: bool = False
    """Whether such a row is queued: its delivery acknowledges it, unless it is taken back before."""
    absent: set[str] = field(default_factory=set)
    """Keys without a row, although they wait, were undone, or were asked for."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Key → outcome of the rows that were acknowledged, or would be."""
    refusals: Refusals = field(default_factory=lambda: Refusals("reply.refused"))
    """The replies that the workspace refused: they are skipped."""

    def add(self, other: CaughtUp) -> None:
        """Add the counts of more rows."""
        self.acknowledged += other.acknowledged
        self.older += other.older
        self.held |= other.held
        self.queued |= other.queued
        self.absent |= other.absent
        self.outcomes |= other.outcomes


@dataclass
class CatchUp:
    """Acknowledges outcomes from the ledger; queued rows are left to their delivery."""

    route: Route
    neon: Connection
    supabase: Connection
    run_id: str
    """The run id of the announced events."""
    dry_run: bool = False
    """Write nothing, and count."""
    done: CaughtUp = field(default_factory=CaughtUp)
    """Counts what was done."""

    async def all_after(self, ledger_id: int) -> CaughtUp:
        """Acknowledge every outcome after a ledger id that its row does not show yet.

        Raises:
            psycopg.Error: a database failed; retry.
        """
        route, neon, supabase, done = self.route, self.neon, self.supabase, self.done
        while chunk := await route.ledger.read_chunk(neon, ledger_id):
            ledger_id = chunk.last
            unacknowledged = await route.receipts.unacknowledged(supabase, chunk.latest, chunk.versions)
            done.queued = done.queued or bool(unacknowledged.queued)
            # Their delivery acknowledges the newer version only; the next pull reads what came after that.
            done.held |= bool(await _newer(route, neon, supabase, unacknowledged.queued))
            await self._wake_newer(unacknowledged.waiting)
            done.absent = (done.absent - chunk.latest.keys()) | (unacknowledged.absent & chunk.open)
            for batch in route.batches(unacknowledged.keys):
                await self.rows(batch)
        done.refusals.sum_up(route.entity)
        return done

    async def rows(self, keys: Sequence[str], *, wait: bool = False) -> None:
        """Acknowledge these rows. A row that the workspace refuses to change is skipped, except with ``wait``, where
        the error is raised.

        Args:
            keys: which.
            wait: wait for other transactions' locks; else a locked row is left for the next time.

        Raises:
            psycopg.Error: a database failed; retry.
        """
        if wait:
            await self._rows(keys, self.done, wait=True)
            return

        async def acknowledge(part: Sequence[str]) -> None:
            counts = CaughtUp()
            await self._rows(part, counts, wait=False)
            self.done.add(counts)

        async def refuse(key: str, error: psycopg.Error) -> None:
            self.done.refusals.add(self.route.entity, key, error)

        await for_each_accepted(self.supabase, acknowledge, keys, refuse)

    async def _rows(self, keys: Sequence[str], done: CaughtUp, *, wait: bool) -> None:
        route, neon, supabase = self.route, self.neon, self.supabase
        rows = await route.queue.lock(supabase, keys, read_only=self.dry_run, wait=wait)
        if wait:
            done.absent |= {key for key in keys if key not in rows}
        else:
            done.held |= len(rows) < len(keys)
        neon_states = await route.ledger.neon_states(neon, {key: row.claimed.receipt for key, row in rows.items()})
        fresh = await route.invalid.read(neon, list(rows)) if rows else {}
        replies: list[Reply] = []
        refreshes: list[Refresh] = []
        became: list[tuple[str, str, str | None]] = []
        for key, row in rows.items():
            neon_state = neon_states[key]
            if row.undelivered and not was_undone_in_this_version(row, neon_state):
                done.queued = True  # since a moment ago
                continue
            if (latest := missed_outcome(row, neon_state)) is None:
                continue
            if not neon_state.forgotten and was_acknowledged_before(row, latest):
                refreshes.append(with_receipt(row, latest))
                continue
            done.older += is_older(row.claimed, latest.sent)
            change = reply_to_missed(route.entity, row, neon_state, latest, fresh.get(key))
            if change is None:
                continue
            became.append((key, str(latest.outcome), None))
            if isinstance(change, Reply):
                replies.append(change)
            else:
                refreshes.append(change)
        done.acknowledged += len(became)
        done.outcomes |= {key: outcome for key, outcome, _ in became}
        if self.dry_run:
            await send(supabase, COMMIT)
            return
        steps: list[Step] = []
        if replies:
            steps.append(route.workspace.acknowledge(replies))
        if refreshes:
            steps.append(route.workspace.refresh(refreshes))
        steps += route.release.waiting_for([reply.key for reply in replies if reply.code == Code.PROMOTED])
        await send(supabase, *steps, *outcome_events_of(route, self.run_id, became), COMMIT)

    async def _wake_newer(self, keys: Sequence[str]) -> None:
        """Put waiting rows of which Neon knows a newer version back in the queue: their delivery acknowledges that."""
        found = await _newer(self.route, self.neon, self.supabase, keys)
        newer = [row.claimed.key for row, _ in found if row.code != Code.LOST]
        if newer and not self.dry_run:
            await transact(self.supabase, self.route.release.rows(newer))


async def acknowledge_missed(databases: Databases, entity: Entity, keys: Sequence[str] = ()) -> bool:
    """Acknowledge rows that could not be acknowledged when their batch was settled: these, or all since the last pull.

    Returns:
        Whether all are acknowledged: none was locked, or is on its way again.

    Raises:
        psycopg.Error: a database failed; retry.
    """
    run_id = new_run_id("tell")
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        catching_up = CatchUp(databases.routes[entity.name], neon, supabase, run_id)
        if keys:
            await catching_up.rows(keys)
            catching_up.done.refusals.sum_up(entity)
        else:
            position = await read_position(supabase, entity)
            await catching_up.all_after(position.ledger_id or 0)
    return not (catching_up.done.held or catching_up.done.queued)


async def older_than_carried(route: Route, neon: Connection, supabase: Connection, after: int) -> list[str]:
    """The keys of rows that are older than the version that was carried, according to the ledger after an id: their
    database was restored. Writes nothing.

    Raises:
        psycopg.Error: a database failed.
    """
    found: list[str] = []
    while chunk := await route.ledger.read_chunk(neon, after):
        after = chunk.last
        if not (keys := (await route.receipts.unacknowledged(supabase, chunk.latest, chunk.versions)).keys):
            continue
        found += [
            row.claimed.key
            for row, latest in await _newer(route, neon, supabase, keys)
            if latest and is_older(row.claimed, latest.sent) and not was_acknowledged_before(row, latest)
        ]
    return found


async def _newer(
    route: Route, neon: Connection, supabase: Connection, keys: Sequence[str]
) -> list[tuple[Row, LedgerOutcome | None]]:
    """The rows of which Neon knows a newer version, each with its latest outcome in the ledger."""
    found = await look_at(route, neon, supabase, keys)
    return [(row, neon_state.latest) for row, neon_state in found if newer_version(row, neon_state)]


async def look_at(
    route: Route, neon: Connection, supabase: Connection, keys: Sequence[str]
) -> list[tuple[Row, NeonState]]:
    """The rows with these keys, each with what Neon knows of it. Locks nothing.

    Raises:
        psycopg.Error: a database failed.
    """
    if not keys:
        return []
    rows = await route.queue.lock(supabase, keys, read_only=True)
    await send(supabase, COMMIT)
    neon_states = await route.ledger.neon_states(neon, {key: row.claimed.receipt for key, row in rows.items()})
    return [(row, neon_states[key]) for key, row in rows.items()]
