"""Neon → workspace: new and changed invalid records, by position or in full comparison."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog

from worker.domain.failures import Failures
from worker.domain.horizon import Horizon
from worker.domain.model import Action, new_run_id, utc_now
from worker.domain.progress import NO_PROGRESS, Heartbeat, Progress
from worker.domain.pulled import CountedPull, Pulled
from worker.entities.declaration import Entity
from worker.neon import books, open_transactions
from worker.neon.books import Run
from worker.neon.failures import WEEKS, count_failures
from worker.neon.invalid import Which
from worker.postgres.connection import Connection
from worker.postgres.errors import Restored, SetupMissing
from worker.postgres.transaction import COMMIT, ROLLBACK, Step, begin, begin_and_fetch, fetch_all, send
from worker.supabase import outbox
from worker.supabase.failures import save_failures
from worker.supabase.pause import Paused
from worker.supabase.position import (
    Position,
    brought_nothing,
    read_position,
    save_position,
    save_restored,
    take_position,
)
from worker.sync import staging
from worker.sync.databases import Databases, recall
from worker.sync.pull_run import STAGE_ROWS, PullRun, Stopped
from worker.sync.restore import Comparison
from worker.sync.revalidate import finish_carried, judge_pushed
from worker.sync.route import Route

log = structlog.get_logger("worker.pull")

FULL_EVERY = timedelta(days=1)


async def pull(
    databases: Databases,
    entity: Entity,
    *,
    full: bool = False,
    dry_run: bool = False,
    batch_size: int = STAGE_ROWS,
    progress: Progress = NO_PROGRESS,
) -> Pulled | None:
    """Pull one entity. Only one of several workers pulls; the others return at once.

    Args:
        databases: both databases.
        entity: which.
        full: compare every row; done automatically the first time and once a day.
        dry_run: write nothing and say what would happen.
        batch_size: rows of a batch.
        progress: informed of every batch.

    Returns:
        What was done; None if another worker is pulling, or this one stops.

    Raises:
        psycopg.Error: the next pull starts again from the old position; what arrived stays.
        Restored: the same; Neon was restored while it was read.
        Paused: the same; the entity is paused, or was between two batches.
        SetupMissing: the same; the workspace refuses records through no fault of theirs. The text says the fix.
    """
    route = databases.routes[entity.name]
    async with databases.supabase.connection() as guard:
        position = await (read_position if dry_run else take_position)(guard, entity)
        if position is None:
            return None
        full = full or dry_run or _full_is_due(position)
        pulled = Pulled(new_run_id("pull"), entity.name, full)
        run = Run(pulled.run_id, str(entity.invalid_table), str(entity.workspace_table))
        async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
            table = await staging.inspect_table(supabase, entity)
            task = PullRun(
                databases, route, pulled, run, neon, supabase, guard, position, dry_run, batch_size, progress, table
            )
            since, reached = await open_transactions.reach(neon, entity, position.horizon)
            found = await task.compare()
            # After a restore, what one side lacks may be older than the position. A worker that died between the two
            # commits of a pull cannot be distinguished from a workspace that was restored to before the pull.
            # Nor is it known what a pull brought that did not end.
            behind = position.counted.number < found.counts.last.number
            compare_all = bool(found.side or behind or position.unfinished)
            full = pulled.full = full or since is None or compare_all or table.vacant
            pulled.open_transactions = reached.listed()
            if full and progress.shown:
                totals = await fetch_all(neon, *route.invalid.totals)
                progress.expect(sum(row["records"] for row in totals if row["name"] == "invalid"))
            try:
                await task.bring_all(None if full else since, found)
                failures = Failures() if dry_run else await count_failures(neon, entity, position.failures, task.go_on)
            except (Stopped, Paused, SetupMissing) as error:
                if task.bringing and not (pulled.brought or position.unfinished):
                    await send(guard, brought_nothing(entity), COMMIT)
                if isinstance(error, Stopped):
                    return None
                raise
            if dry_run:
                return pulled
            changed = pulled.new + pulled.changed + pulled.withdrawn
            counted = CountedPull(max(position.counted.number, found.counts.last.number) + 1, pulled.run_id)
            count = route.pulls.count(counted, found.counts.last, position.counted.number)
            if not await begin_and_fetch(neon, begin(), count):
                await send(neon, ROLLBACK)
                await _overtaken(route, neon, found)
                return None
            _, now, _ = await send(neon, books.log_run(run, changed, changed, 0), route.invalid.totals, COMMIT)
            for row in now.fetchall():
                pulled.totals[row["name"]] = row["records"]
                pulled.estimated |= row["estimated"]
        counts = save_failures(entity, failures, weeks=WEEKS)
        await send(guard, *await _to_save(task, reached, found, counted), *counts, COMMIT)
    await recall(databases, entity)
    for one in reached.listed(excluding=position.horizon.open if position.horizon else ()):
        log.warning("pull.open_transaction", entity=entity.name, run_id=pulled.run_id, **one)
    judging = Run(new_run_id("revalidate"), str(entity.invalid_table), str(entity.master_table))
    heartbeat = Heartbeat(progress)
    judged = await judge_pushed(
        databases, entity, judging, apply=(Action.FLAG, Action.PROMOTE), which=Which.UNJUDGED, progress=heartbeat
    )
    judged.add(await finish_carried(databases, entity, judging, heartbeat))
    pulled.promoted = len(judged.promoted)
    pulled.judged = len(judged.promoted) + len(judged.failed)
    log.info(
        "pull.done", entity=entity.name, run_id=pulled.run_id, full=full, seen=pulled.seen, new=pulled.new,
        changed=pulled.changed, withdrawn=pulled.withdrawn, refused=pulled.refused,
        judged=pulled.judged,
    )  # fmt: skip
    return pulled


async def _overtaken(route: Route, neon: Connection, found: Comparison) -> None:
    """A pull was not counted. That is the end of it where another worker has pulled meanwhile.

    Raises:
        Restored: Neon was restored meanwhile.
    """
    now = await route.pulls.counts(neon, found.counts.last)
    if now.last.number <= found.counts.last.number or now.lacks(found.counts.last):
        raise Restored(route.entity.name, "Neon")


async def _to_save(task: PullRun, reached: Horizon, found: Comparison, counted: CountedPull) -> list[Step]:
    """The steps that save how far the pull came, and what it found."""
    entity, pulled, position = task.route.entity, task.pulled, task.position
    # Rows that were locked are read again.
    saved = reached.to_repeat(position.horizon) if task.held else reached
    acknowledged_to = found.counts.settled_id
    if task.held:
        # The old id says nothing of the ledger of a Neon that was restored.
        acknowledged_to = 0 if found.neon_restored else min(position.ledger_id or 0, acknowledged_to)
    steps = [
        save_position(
            entity, saved, counted, pulled.result, full=pulled.full and not task.held, ledger_id=acknowledged_to
        )
    ]
    if restored := await _restore_to_store(task.route, task.guard, position, found, held=task.held):
        steps.append(save_restored(entity, restored))
    if task.databases.announces:
        steps.append(outbox.pulled(entity, pulled.run_id, pulled.result))
    return steps


async def _restore_to_store(
    route: Route, guard: Connection, position: Position, found: Comparison, *, held: bool
) -> dict[str, Any] | None:
    """What the workspace stores about a restore until it is settled: until every row was checked, and no record is lost
    any more.
    """
    restored = found.stored if found.side else position.restored
    if not restored or restored.get("settled_at"):
        return None
    lost = len(await route.workspace.lost(guard, inside=True))
    held = held and found.neon_restored
    return {**restored, "lost": lost, "held": held, "settled_at": None if lost or held else utc_now().isoformat()}


def _full_is_due(position: Position) -> bool:
    if position.horizon is None or position.last_full_at is None:
        return True
    # A time in the future is from before the clock went back: its age is unknown.
    return not timedelta(minutes=-5) <= utc_now() - position.last_full_at < FULL_EVERY
