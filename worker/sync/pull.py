"""Neon → workspace: new and changed invalid records, by position or in full comparison."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import sql

from worker.domain import messages
from worker.domain.horizon import Since
from worker.domain.model import Action, Code, Outcome, new_run_id, utc_now
from worker.domain.progress import NOBODY, Progress, Pulse
from worker.domain.pulled import Pulled
from worker.entities.declaration import Entity
from worker.neon import invalid, ledger, open_transactions
from worker.neon.invalid import Entry, Run, Which
from worker.postgres.connection import Connection
from worker.postgres.errors import Kind, kind_of
from worker.postgres.transaction import COMMIT, ROLLBACK, begin, fetch_all, send, transact
from worker.schema.causes import common_cause
from worker.supabase import outbox, queue, workspace
from worker.supabase.bisect import Refusals, in_parts
from worker.supabase.position import Position, read_position, save_position, save_restored, take_position
from worker.supabase.workspace import Refresh
from worker.sync import staging
from worker.sync.catch_up import catch_up_rows
from worker.sync.databases import Databases, recall
from worker.sync.deliver import outcome_events_of
from worker.sync.refresh import Left, bring_up_to_date, hears_of_it_here, part
from worker.sync.restore import Comparison, bring_together, recognise
from worker.sync.revalidate import chunks, finish_carried, judge_pushed
from worker.sync.staging import Batches, Ground
from worker.sync.waiting import wake_waiting

log = structlog.get_logger("worker.pull")

T = TypeVar("T")

FULL_EVERY = timedelta(days=1)
STAGE_ROWS = 10_000
PATIENCE = 60.0
KEEP_ALIVE = sql.SQL("SELECT 1")


class _Stopped(Exception):
    """The worker stops; the position stays where it was."""


async def pull(
    databases: Databases,
    entity: Entity,
    *,
    full: bool = False,
    dry_run: bool = False,
    batch_size: int = STAGE_ROWS,
    progress: Progress = NOBODY,
) -> Pulled | None:
    """Pull one entity. Of several workers one pulls; the others return at once.

    Args:
        databases: both databases.
        entity: which.
        full: compare every row; happens by itself the first time and once a day.
        dry_run: write nothing and say what would happen.
        batch_size: rows of a batch.
        progress: told of every batch.

    Returns:
        What was done; None where another worker is pulling, or this one stops.

    Raises:
        psycopg.Error: the next pull starts again from the old position; what arrived stays.
        SetupMissing: the same; the workspace refuses what is no record's fault, and its text says what fixes that.
    """
    async with databases.supabase.connection() as guard:
        position = await (read_position if dry_run else take_position)(guard, entity)
        if position is None:
            return None
        full = full or dry_run or _full_is_due(position)
        pulled = Pulled(new_run_id("pull"), entity.name, full)
        run = Run(pulled.run_id, str(entity.invalid_table), str(entity.workspace_table))
        async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
            ground = await staging.ground(supabase, entity)
            task = _Pull(databases, entity, pulled, run, neon, supabase, guard, dry_run, Pulse(progress), ground)
            since, reached = await open_transactions.reach(neon, entity, position.horizon)
            found = await task.compare(position)
            # After a restore what one side lacks need not be dated after anything that the other remembers. Who died
            # between the two ends of a pull is not told from a workspace restored to before it.
            apart = found.side is not None or position.pulls < found.counts.pulls
            full = pulled.full = full or since is None or apart or ground.vacant
            pulled.open_transactions = reached.shown()
            if full and progress.shown:
                totals = await fetch_all(neon, *invalid.totals(entity))
                progress.expect(sum(row["records"] for row in totals if row["name"] == "invalid"))
            try:
                await task.bring(None if full else since, batch_size, progress)
                await task.bring_open(found, batch_size, progress)
                if full and not ground.vacant:
                    await task.withdraw(found)
                if dry_run:
                    return pulled
                await task.wake_waiting()
                task.refusals.sum_up(entity)
            except _Stopped:
                return None
            changed = pulled.new + pulled.changed + pulled.withdrawn
            number = max(position.pulls, found.counts.pulls) + 1
            counted = ledger.count_pull(entity, number, position.pulls)
            logged = invalid.log_run(run, changed, changed, 0)
            *_, now = await transact(neon, counted, logged, invalid.totals(entity))
            for row in now.fetchall():
                pulled.totals[row["name"]] = row["records"]
                pulled.estimated |= row["estimated"]
        outcome_events = [outbox.pulled(entity, pulled.run_id, pulled.result)] if databases.announces else []
        # Rows that somebody held are read again.
        saved = reached.again(position.horizon) if task.held else reached
        heard_to = found.counts.settled_id if not task.held else min(position.ledger_id or 0, found.counts.settled_id)
        steps = [
            save_position(
                entity, saved, pulled.run_id, pulled.result, full=full and not task.held, pulls=number,
                ledger_id=heard_to,
            )
        ]  # fmt: skip
        if restored := await _to_keep_in_mind(guard, entity, position, found, held=task.held):
            steps.append(save_restored(entity, restored))
        await send(guard, *steps, *outcome_events, COMMIT)
    await recall(databases, entity)
    for one in reached.shown(but=position.horizon.open if position.horizon else ()):
        log.warning("pull.open_transaction", entity=entity.name, run_id=pulled.run_id, **one)
    judging = Run(new_run_id("revalidate"), str(entity.invalid_table), str(entity.master_table))
    pulse = Pulse(progress)
    judged = await judge_pushed(
        databases, entity, judging, apply=(Action.FLAG, Action.PROMOTE), which=Which.UNJUDGED, progress=pulse
    )
    judged.add(await finish_carried(databases, entity, judging, pulse))
    pulled.promoted = len(judged.promoted)
    pulled.judged = len(judged.promoted) + len(judged.failed)
    log.info(
        "pull.done", entity=entity.name, run_id=pulled.run_id, full=full, seen=pulled.seen, new=pulled.new,
        changed=pulled.changed, withdrawn=pulled.withdrawn, refused=pulled.refused,
        judged=pulled.judged,
    )  # fmt: skip
    return pulled


async def _to_keep_in_mind(
    guard: Connection, entity: Entity, position: Position, found: Comparison, *, held: bool
) -> dict[str, Any] | None:
    """What the workspace keeps of a restore until it is settled: until every row was looked at, and no record is lost
    any more.
    """
    restored = found.kept_in_mind if found.side else position.restored
    if not restored or restored.get("settled_at"):
        return None
    lost = len(await workspace.lost(guard, entity, inside=True))
    held = held and found.neon_restored
    return {**restored, "lost": lost, "held": held, "settled_at": None if lost or held else utc_now().isoformat()}


def _full_is_due(position: Position) -> bool:
    if position.horizon is None or position.last_full_at is None:
        return True
    # One that is still to come was dated by a clock that went back since: how long ago it was nobody knows.
    return not timedelta(minutes=-5) <= utc_now() - position.last_full_at < FULL_EVERY


@dataclass
class _Pull:
    """One pull under way, with its connections."""

    databases: Databases
    entity: Entity
    pulled: Pulled
    run: Run
    neon: Connection
    supabase: Connection
    guard: Connection
    dry_run: bool
    pulse: Pulse
    ground: Ground
    """What the workspace was like. Where it was empty, all that it holds by now is from this very look at Neon."""
    held: bool = False
    """Whether somebody held a row that was to be brought up to date."""
    refusals: Refusals = field(default_factory=lambda: Refusals("pull.refused"))

    async def _go_on(self) -> None:
        """Between batches: stop if asked to, and prove that this is still the only puller."""
        self.pulse.advance(0)
        if self.databases.stop.is_set():
            raise _Stopped
        if not self.dry_run:
            await send(self.guard, (KEEP_ALIVE, None))

    async def compare(self, position: Position) -> Comparison:
        """Before a snapshot is trusted: look whether a database was restored, and tell rows that were never told."""
        if self.dry_run:
            found = await recognise(self.entity, position, self.neon, self.supabase)
            self.pulled.keys |= dict.fromkeys(
                found.forgotten, "Neon has forgotten its outcome: would be brought together"
            )
        else:
            found = await bring_together(self.databases, self.entity, position, self.neon, self.supabase, self.run)
            self.held |= found.held
        self.pulled.told = found.caught_up.told
        self.pulled.lost += found.lost
        self.pulled.restored = found.in_words() if found.side else None
        return found

    async def bring(self, since: Since | None, batch_size: int, progress: Progress) -> None:
        """Stream what changed since, batch by batch."""
        if self.ground.vacant and self.ground.direct and since is None and not self.dry_run:
            if await self._loaded(batch_size, progress):
                return
            # What has arrived is found to be there.
            progress.expect(self.pulled.seen)
            self.pulled.seen = 0
        # What changed is looked up by index, also where no ANALYZE has told the planner that it is little.
        by_index = since is not None and since.xid is None
        where = open_transactions.changed(since) if since else None
        await self._stream(where, batch_size, progress, self._stage, by_index=by_index)

    async def _loaded(self, batch_size: int, progress: Progress) -> bool:
        """Copy all of it straight into the workspace; tell whether it takes every row."""
        try:
            await self._stream(None, batch_size, progress, self._load)
        except psycopg.Error as error:
            if kind_of(error) is Kind.TRANSIENT:
                raise
            await send(self.supabase, ROLLBACK)
            return False
        return True

    async def _stream(
        self,
        where: sql.Composable | None,
        batch_size: int,
        progress: Progress,
        take: Callable[[Batches], Awaitable[None]],
        *,
        by_index: bool = False,
    ) -> None:
        async with self.databases.neon.connection() as source:
            planner = ("enable_seqscan",) if by_index else ()
            await send(source, *begin(read_only=True, repeatable=True, statement=0, idle=0, planner=planner))
            as_json = take == self._stage
            # Closed at once when a batch fails: an open COPY would keep its connection, and the pull, for ever.
            async with aclosing(invalid.stream(source, self.entity, where, patience=PATIENCE, as_json=as_json)) as rows:
                batches = Batches(rows, batch_size)
                while await batches.more():
                    await take(batches)
                    self.pulled.seen += batches.rows
                    progress.advance(batches.rows)
                    await self._go_on()
            await send(source, COMMIT)

    async def _load(self, batches: Batches) -> None:
        rows = await staging.load(self.supabase, self.entity, batches.blocks())
        self.pulled.new += rows
        self.refusals.taken += rows

    async def _stage(self, batches: Batches) -> None:
        changed: list[str] = []

        async def stage(rows: Sequence[bytes]) -> None:
            staged = await staging.stage(self.supabase, self.entity, self.ground.types, rows, dry_run=self.dry_run)
            self.pulled.new += staged.new or len(staged.would_be)
            self.pulled.keys |= dict.fromkeys(staged.would_be, "new: would be pulled")
            changed.extend(staged.changed)

        await self._in_parts(stage, await batches.whole(), staging.key_of)
        for keys in chunks(sorted(changed), self.databases.batch_size):
            await self._in_parts(self._refresh, keys, str)
            await self._go_on()

    async def _in_parts(
        self, step: Callable[[Sequence[T]], Awaitable[None]], items: Sequence[T], key: Callable[[T], str]
    ) -> None:
        """Do a step for these; where the workspace refuses one of them, for all the others.

        Raises:
            SetupMissing: that is no record's fault.
        """
        looked = bool(self.refusals.refused)

        async def refuse(item: T, error: psycopg.Error) -> None:
            nonlocal looked
            if not looked and (cause := await common_cause(self.supabase, self.entity)):
                raise cause from error
            looked = True
            self.pulled.refused += 1
            self.refusals.add(self.entity, key(item), error)
            self.refusals.check(self.entity)

        async def take(some: Sequence[T]) -> None:
            await step(some)
            self.refusals.taken += len(some)

        await in_parts(self.supabase, take, items, refuse)

    async def _refresh(self, keys: Sequence[str]) -> None:
        """Bring changed records to their rows, from a fresh read under the rows' locks."""
        # A row that an enricher's open transaction holds is left to the next pull, which starts where this one did.
        rows = await queue.lock(self.supabase, self.entity, keys, read_only=self.dry_run, wait=False)
        self.held |= len(rows) < len(keys)
        told = {key: row.claimed.receipt for key, row in rows.items()}
        standings = await ledger.standings(self.neon, self.entity, told)
        fresh = await invalid.read(self.neon, self.entity, keys)
        refreshed: list[Refresh] = []
        entries: list[Entry] = []
        for key, row in rows.items():
            # Left to the delivery: what is on its way, and what is no longer there.
            if key not in fresh or (row.queued and row.code != Code.LOST):
                continue
            if row.promoted and not hears_of_it_here(row, standings[key]):
                self.held = True  # somebody held it when rows were told, and both databases brought together
                continue
            refresh, entry = bring_up_to_date(self.entity, row, fresh[key], standings[key])
            refreshed.append(refresh)
            entries += entry
        if self.dry_run:
            self.pulled.keys |= dict.fromkeys((r.key for r in refreshed), "changed: would be merged")
            await send(self.supabase, COMMIT)
        else:
            # The ledger hears of what the workspace took, and before that is for good.
            await send(self.supabase, workspace.refresh(self.entity, refreshed))
            await invalid.book(self.neon, self.entity, self.run.run_id, entries)
            await send(self.supabase, COMMIT)
        self.pulled.changed += len(refreshed)

    async def bring_open(self, found: Comparison, batch_size: int, progress: Progress) -> None:
        """Bring the records that wait, or were taken back, and have no row: it is from before a backup, or retention or
        somebody's hand removed it. What the enricher had sent comes back with them.
        """
        keys = sorted(found.caught_up.absent)
        if self.dry_run or not keys:
            return
        if not self.pulled.full:
            await self._stream(invalid.among(self.entity, keys), batch_size, progress, self._stage, by_index=True)
        for some in chunks(keys, self.databases.batch_size):
            await catch_up_rows(
                self.databases, self.neon, self.supabase, self.entity, some, self.run.run_id, found.caught_up
            )

    async def withdraw(self, found: Comparison) -> None:
        """Remove untouched rows whose record left the invalid table; tell the others."""
        after = ""
        queued = found.neon_restored
        while keys := await workspace.pulled_keys(self.supabase, self.entity, after, STAGE_ROWS, queued=queued):
            after = keys[-1]
            gone = await self._missing(keys)
            for some in chunks(gone, self.databases.batch_size):
                await self._in_parts(partial(self._withdraw, found=found), some, str)
            await self._go_on()

    async def _missing(self, keys: Sequence[str]) -> list[str]:
        return await invalid.missing(self.neon, self.entity.invalid_table, self.entity.key, keys)

    async def _withdraw(self, keys: Sequence[str], found: Comparison) -> None:
        rows = await queue.lock(self.supabase, self.entity, keys, read_only=self.dry_run, wait=False)
        still = await self._missing(keys)
        self.held |= found.neon_restored and any(key not in rows for key in still)
        rows = {key: rows[key] for key in still if key in rows and (found.neon_restored or not rows[key].queued)}
        told = {key: row.claimed.receipt for key, row in rows.items()}
        left = part(rows, await ledger.standings(self.neon, self.entity, told), found)
        if self.dry_run:
            self.pulled.keys |= left.in_words()
            await send(self.supabase, COMMIT)
        else:
            await self._remove(left, rows)
        self.pulled.withdrawn += len(left.gone)
        self.pulled.orphaned += len(left.orphans)
        self.pulled.told += len(left.promoted)
        self.pulled.lost += left.lost
        found.lost += left.lost

    async def _remove(self, left: Left, rows: dict[str, queue.Row]) -> None:
        events = [(key, str(Outcome.WITHDRAWN), None) for key in left.gone]
        keys = [reply.key for reply in left.promoted]
        await send(
            self.supabase,
            workspace.remove(self.entity, left.gone),
            workspace.note(self.entity, left.orphans, messages.LEFT, Code.LEFT),
            workspace.note(self.entity, left.strangers, messages.NEVER_PULLED, Code.GONE),
            workspace.await_return(self.entity, left.lost, messages.LOST),
            queue.acknowledge(self.entity, left.promoted),
            *queue.releases(self.entity, keys),
            *outcome_events_of(self.databases, self.entity, self.run.run_id, events),
        )
        await invalid.book(
            self.neon, self.entity, self.run.run_id,
            [
                Entry(key, Outcome.WITHDRAWN, f"{key}|{rows[key].claimed.version}", rows[key].claimed.data,
                      note="left the invalid table by another way")
                for key in left.gone
            ],
        )  # fmt: skip
        await send(self.supabase, COMMIT)

    async def wake_waiting(self) -> None:
        """Put waiting rows back in the queue, whose company came by another way, or which Neon has corrected."""
        self.pulled.released = await wake_waiting(self.neon, self.supabase, self.entity, self.refusals)
