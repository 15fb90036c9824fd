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
from worker.neon import invalid, ledger
from worker.neon.ledger import LedgerOutcome
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, Step, send, transact
from worker.supabase import acknowledgement, queue, receipts, release, workspace
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


async def catch_up(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    after: int,
    run_id: str,
    *,
    dry_run: bool = False,
) -> CaughtUp:
    """Acknowledge every outcome after a ledger id that its row does not show yet.

    Args:
        databases: both databases.
        neon: to Neon.
        supabase: to Supabase.
        entity: whose rows.
        after: the ledger id.
        run_id: the run id of the announced events.
        dry_run: write nothing, and count.

    Raises:
        psycopg.Error: a database failed; retry.
    """
    caught_up = CaughtUp()
    while chunk := await ledger.read_chunk(neon, entity, after):
        after = chunk.last
        unacknowledged = await receipts.unacknowledged(supabase, entity, chunk.latest, chunk.versions)
        keys, caught_up.queued = unacknowledged.keys, caught_up.queued or bool(unacknowledged.queued)
        # Their delivery acknowledges the newer version only; the next pull reads what came after that.
        caught_up.held |= bool(await _newer(neon, supabase, entity, unacknowledged.queued))
        await _wake_newer(neon, supabase, entity, unacknowledged.waiting, dry_run=dry_run)
        caught_up.absent = (caught_up.absent - chunk.latest.keys()) | (unacknowledged.absent & chunk.open)
        for batch in databases.batches(keys):
            await catch_up_rows(
                databases,
                neon,
                supabase,
                entity,
                batch,
                run_id,
                caught_up,
                dry_run=dry_run,
            )
    caught_up.refusals.sum_up(entity)
    return caught_up


async def acknowledge_missed(databases: Databases, entity: Entity, keys: Sequence[str] = ()) -> bool:
    """Acknowledge rows that could not be acknowledged when their batch was settled: these, or all since the last pull.

    Returns:
        Whether all are acknowledged: none was locked, or is on its way again.

    Raises:
        psycopg.Error: a database failed; retry.
    """
    run_id = new_run_id("tell")
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        if keys:
            caught_up = CaughtUp()
            await catch_up_rows(databases, neon, supabase, entity, keys, run_id, caught_up)
            caught_up.refusals.sum_up(entity)
        else:
            position = await read_position(supabase, entity)
            caught_up = await catch_up(databases, neon, supabase, entity, position.ledger_id or 0, run_id)
    return not (caught_up.held or caught_up.queued)


async def catch_up_rows(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    keys: Sequence[str],
    run_id: str,
    caught_up: CaughtUp,
    *,
    dry_run: bool = False,
    wait: bool = False,
) -> None:
    """Acknowledge these rows from the ledger; queued ones are left to their delivery. A row that the workspace refuses
    to change is skipped, except with ``wait``, where the error is raised.

    Args:
        databases: both databases.
        neon: to Neon.
        supabase: to Supabase.
        entity: whose rows.
        keys: which.
        run_id: the run id of the announced events.
        caught_up: counts what was done.
        dry_run: write nothing, and count.
        wait: wait for other transactions' locks; else a locked row is left for the next time.

    Raises:
        psycopg.Error: a database failed; retry.
    """
    if wait:
        await _catch_up_rows(databases, neon, supabase, entity, keys, run_id, caught_up, dry_run=dry_run, wait=True)
        return

    async def acknowledge(part: Sequence[str]) -> None:
        counts = CaughtUp()
        await _catch_up_rows(databases, neon, supabase, entity, part, run_id, counts, dry_run=dry_run, wait=False)
        caught_up.add(counts)

    async def refuse(key: str, error: psycopg.Error) -> None:
        caught_up.refusals.add(entity, key, error)

    await for_each_accepted(supabase, acknowledge, keys, refuse)


async def _catch_up_rows(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    keys: Sequence[str],
    run_id: str,
    caught_up: CaughtUp,
    *,
    dry_run: bool,
    wait: bool,
) -> None:
    rows = await queue.lock(supabase, entity, keys, read_only=dry_run, wait=wait)
    if wait:
        caught_up.absent |= {key for key in keys if key not in rows}
    else:
        caught_up.held |= len(rows) < len(keys)
    neon_states = await ledger.neon_states(neon, entity, {key: row.claimed.receipt for key, row in rows.items()})
    fresh = await invalid.read(neon, entity, list(rows)) if rows else {}
    replies: list[Reply] = []
    refreshes: list[Refresh] = []
    became: list[tuple[str, str, str | None]] = []
    for key, row in rows.items():
        neon_state = neon_states[key]
        if row.queued and not was_undone_in_this_version(row, neon_state):
            caught_up.queued = True  # since a moment ago
            continue
        if (latest := missed_outcome(row, neon_state)) is None:
            continue
        if not neon_state.forgotten and was_acknowledged_before(row, latest):
            refreshes.append(with_receipt(row, latest))
            continue
        caught_up.older += is_older(row.claimed, latest.sent)
        change = reply_to_missed(entity, row, neon_state, latest, fresh.get(key))
        if change is None:
            continue
        became.append((key, str(latest.outcome), None))
        if isinstance(change, Reply):
            replies.append(change)
        else:
            refreshes.append(change)
    caught_up.acknowledged += len(became)
    caught_up.outcomes |= {key: outcome for key, outcome, _ in became}
    if dry_run:
        await send(supabase, COMMIT)
        return
    steps: list[Step] = []
    if replies:
        steps.append(acknowledgement.acknowledge(entity, replies))
    if refreshes:
        steps.append(workspace.refresh(entity, refreshes))
    promoted = [reply.key for reply in replies if reply.code == Code.PROMOTED]
    steps += release.releases(entity, promoted)
    await send(supabase, *steps, *outcome_events_of(databases, entity, run_id, became), COMMIT)


async def older_than_carried(neon: Connection, supabase: Connection, entity: Entity, after: int) -> list[str]:
    """The keys of rows that are older than the version that was carried, according to the ledger after an id: their
    database was restored. Writes nothing.

    Raises:
        psycopg.Error: a database failed.
    """
    found: list[str] = []
    while chunk := await ledger.read_chunk(neon, entity, after):
        after = chunk.last
        if not (keys := (await receipts.unacknowledged(supabase, entity, chunk.latest, chunk.versions)).keys):
            continue
        found += [
            row.claimed.key
            for row, latest in await _newer(neon, supabase, entity, keys)
            if latest and is_older(row.claimed, latest.sent) and not was_acknowledged_before(row, latest)
        ]
    return found


async def _wake_newer(
    neon: Connection, supabase: Connection, entity: Entity, keys: Sequence[str], *, dry_run: bool
) -> None:
    """Put waiting rows of which Neon knows a newer version back in the queue: their delivery acknowledges that."""
    newer = [row.claimed.key for row, _ in await _newer(neon, supabase, entity, keys) if row.code != Code.LOST]
    if newer and not dry_run:
        await transact(supabase, release.release(entity, newer, by=entity.key))


async def _newer(
    neon: Connection, supabase: Connection, entity: Entity, keys: Sequence[str]
) -> list[tuple[Row, LedgerOutcome | None]]:
    """The rows of which Neon knows a newer version, each with its latest outcome in the ledger."""
    if not keys:
        return []
    rows = await queue.lock(supabase, entity, keys, read_only=True)
    await send(supabase, COMMIT)
    neon_states = await ledger.neon_states(neon, entity, {key: row.claimed.receipt for key, row in rows.items()})
    return [(row, neon_states[key].latest) for key, row in rows.items() if newer_version(row, neon_states[key])]
