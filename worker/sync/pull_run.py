"""One running pull: what it brings, withdraws and releases, batch by batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import psycopg
from psycopg import sql

from worker.domain import messages
from worker.domain.horizon import Since
from worker.domain.model import Code, Outcome
from worker.domain.progress import Progress
from worker.domain.pulled import Pulled
from worker.neon import open_transactions
from worker.neon.books import Entry, Run
from worker.neon.invalid import Form
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, begin, roll_back_refusal, send
from worker.schema.causes import common_cause
from worker.supabase.bisect import Refusals, for_each_accepted
from worker.supabase.pause import require_running
from worker.supabase.position import Position, mark_bringing
from worker.supabase.queue import Row
from worker.supabase.workspace import Refresh
from worker.sync.batches import Batches, ReadAhead
from worker.sync.catch_up import CatchUp
from worker.sync.databases import Databases
from worker.sync.deliver import outcome_events_of
from worker.sync.recovery import bring_together
from worker.sync.refresh import MissingRows, bring_up_to_date, sort_missing, turned_invalid_again
from worker.sync.restore import Comparison, recognise
from worker.sync.route import Route
from worker.sync.staging import WorkspaceTable, key_of
from worker.sync.waiting import release_waiting

T = TypeVar("T")

STAGE_ROWS = 10_000
PATIENCE = 60.0


class Stopped(Exception):
    """The worker stops, or another one has become the puller; the position stays unchanged."""


@dataclass
class PullRun:
    """One running pull, with its connections."""

    databases: Databases
    route: Route
    pulled: Pulled
    run: Run
    neon: Connection
    supabase: Connection
    guard: Connection
    """Its transaction holds the position, so that no other worker pulls."""
    position: Position
    """As it was taken."""
    dry_run: bool
    batch_size: int
    progress: Progress
    table: WorkspaceTable
    """The workspace table at the start. If it was empty, all its rows now are from this pull's own read of Neon."""
    bringing: bool = False
    """Whether it is marked that this pull began to bring records."""
    held: bool = False
    """Whether another transaction held a row that should be brought up to date."""
    refusals: Refusals = field(default_factory=lambda: Refusals("pull.refused"))

    async def go_on(self) -> None:
        """Between batches: stop if asked to. It keeps the guard's transaction alive, so that no other worker pulls."""
        self.progress.advance(0)
        if self.databases.stop.is_set():
            raise Stopped
        if not self.dry_run:
            await require_running(self.guard, [self.route.entity])

    async def _mark_bringing(self) -> None:
        """Before the first record is brought: what a pull brought that never ends is in no count."""
        if self.bringing or self.dry_run:
            return
        if not await mark_bringing(self.guard, self.route.entity, self.pulled.run_id, self.position):
            raise Stopped
        self.bringing = True

    async def compare(self) -> Comparison:
        """Before a snapshot is trusted: check whether a database was restored, and acknowledge missed outcomes."""
        if self.dry_run:
            found = await recognise(self.route, self.position, self.neon, self.supabase)
            self.pulled.keys |= dict.fromkeys(
                found.forgotten, "Neon has forgotten its outcome: would be brought together"
            )
        else:
            found = await bring_together(self.route, self.position, self.neon, self.supabase, self.run)
            self.held |= found.held
        self.pulled.told = found.caught_up.acknowledged
        self.pulled.lost += found.lost
        self.pulled.restored = found.in_words() if found.side else None
        return found

    async def bring_all(self, since: Since | None, found: Comparison) -> None:
        """Bring what changed since, or everything, and settle what that shows."""
        await self._bring(since)
        await self._bring_open(found)
        if self.pulled.full and not self.table.vacant:
            await self._withdraw_missing(found)
        if not self.dry_run:
            await self._release_waiting()
            self.refusals.sum_up(self.route.entity)

    async def _bring(self, since: Since | None) -> None:
        """Stream what changed since, batch by batch."""
        if self.table.vacant and since is None and not self.dry_run:
            if await self._loaded():
                return
            # The rows that have arrived are found to exist.
            self.progress.expect(self.pulled.seen)
            self.pulled.seen = 0
        # Changed rows are looked up by index, even if no ANALYZE has told the planner that they are few.
        by_index = since is not None and since.xid is None
        where = open_transactions.changed(since) if since else None
        await self._stream(where, self._stage, by_index=by_index)

    async def _loaded(self) -> bool:
        """Put all rows straight into the workspace; returns whether it took every row."""
        try:
            await self._stream(None, self._load, form=self.table.form)
        except psycopg.Error as error:
            await roll_back_refusal(self.supabase, error)
            return False
        return self.pulled.new == self.pulled.seen

    async def _stream(
        self, where: sql.Composable | None, take: Callable[[Batches], Awaitable[None]], *,
        form: Form = Form.COMPARED, by_index: bool = False,
    ) -> None:  # fmt: skip
        async with self.databases.neon.connection() as source:
            planner = ("enable_seqscan",) if by_index else ()
            await send(source, *begin(read_only=True, repeatable=True, statement=0, idle=0, planner=planner))
            # Closed at once when a batch fails: an open COPY would block its connection, and the pull, for ever.
            rows = self.route.invalid.stream(source, where, patience=PATIENCE, form=form)
            async with ReadAhead(rows) as blocks:
                batches = Batches(blocks, self.batch_size)
                while await batches.more():
                    await self._mark_bringing()
                    await take(batches)
                    self.pulled.seen += batches.rows
                    self.progress.advance(batches.rows)
                    await self.go_on()
            await send(source, COMMIT)

    async def _load(self, batches: Batches) -> None:
        rows = await self.table.load(self.supabase, batches)
        self.pulled.new += rows
        self.refusals.taken += rows

    async def _stage(self, batches: Batches) -> None:
        changed: list[str] = []

        async def stage(rows: Sequence[bytes]) -> None:
            staged = await self.table.stage(self.supabase, rows, dry_run=self.dry_run)
            self.pulled.new += staged.new or len(staged.would_be)
            self.pulled.keys |= dict.fromkeys(staged.would_be, "new: would be pulled")
            changed.extend(staged.changed)

        await self._for_each_accepted(stage, await batches.next_batch(), key_of)
        for keys in self.route.batches(sorted(changed)):
            await self._for_each_accepted(self._refresh, keys, str)
            await self.go_on()

    async def _for_each_accepted(
        self, step: Callable[[Sequence[T]], Awaitable[None]], items: Sequence[T], key: Callable[[T], str]
    ) -> None:
        """Do a step for these; if the workspace refuses one of them, for all others.

        Raises:
            SetupMissing: the refusal is not the record's fault.
        """
        checked_cause = bool(self.refusals.refused)

        async def refuse(item: T, error: psycopg.Error) -> None:
            nonlocal checked_cause
            if not checked_cause and (cause := await common_cause(self.supabase, self.route.entity)):
                raise cause from error
            checked_cause = True
            self.pulled.refused += 1
            self.refusals.add(self.route.entity, key(item), error)
            self.refusals.check(self.route.entity)

        async def take(some: Sequence[T]) -> None:
            await step(some)
            self.refusals.taken += len(some)

        await for_each_accepted(self.supabase, take, items, refuse)

    async def _refresh(self, keys: Sequence[str]) -> None:
        """Write changed records into their rows, from a fresh read while the rows are locked."""
        # A row that an enricher's open transaction holds is left to the next pull, which starts where this one started.
        rows = await self.route.queue.lock(self.supabase, keys, read_only=self.dry_run, wait=False)
        self.held |= len(rows) < len(keys)
        shown = {key: row.claimed.receipt for key, row in rows.items()}
        neon_states = await self.route.ledger.neon_states(self.neon, shown)
        fresh = await self.route.invalid.read(self.neon, keys)
        refreshed: list[Refresh] = []
        entries: list[Entry] = []
        for key, row in rows.items():
            # Left to the delivery: queued rows, and rows whose record is gone.
            if key not in fresh or (row.undelivered and row.code != Code.LOST):
                continue
            if row.promoted and not turned_invalid_again(row, neon_states[key]):
                self.held = True  # it was locked when rows were acknowledged and both databases brought together
                continue
            refresh, entry = bring_up_to_date(self.route.entity, row, fresh[key], neon_states[key])
            refreshed.append(refresh)
            entries += entry
        if self.dry_run:
            self.pulled.keys |= dict.fromkeys((r.key for r in refreshed), "changed: would be merged")
            await send(self.supabase, COMMIT)
        else:
            # The ledger books only what the workspace has taken, and before that is committed.
            await send(self.supabase, self.route.workspace.refresh(refreshed))
            await self.route.ledger.book(self.neon, self.run.run_id, entries)
            await send(self.supabase, COMMIT)
        self.pulled.changed += len(refreshed)

    async def _bring_open(self, found: Comparison) -> None:
        """Bring the records that wait, or were undone, and have no row: it is missing from a backup, or was removed by
        retention or by hand. What the enricher had sent comes back with them.
        """
        keys = sorted(found.caught_up.absent)
        if self.dry_run or not keys:
            return
        if not self.pulled.full:
            await self._stream(self.route.invalid.among(keys), self._stage, by_index=True)
        catching_up = CatchUp(self.route, self.neon, self.supabase, self.run.run_id, done=found.caught_up)
        for some in self.route.batches(keys):
            await catching_up.rows(some)

    async def _withdraw_missing(self, found: Comparison) -> None:
        """Remove untouched rows whose record left the invalid table; leave a note on the others."""
        after: str | None = None
        queued = found.neon_restored
        while keys := await self.route.workspace.pulled_keys(self.supabase, after, STAGE_ROWS, queued=queued):
            after = keys[-1]
            gone = await self.route.invalid.missing(self.neon, keys)
            for some in self.route.batches(gone):
                await self._for_each_accepted(partial(self._withdraw, found=found), some, str)
            await self.go_on()

    async def _withdraw(self, keys: Sequence[str], found: Comparison) -> None:
        await self._mark_bringing()
        rows = await self.route.queue.lock(self.supabase, keys, read_only=self.dry_run, wait=False)
        still = await self.route.invalid.missing(self.neon, keys)
        self.held |= found.neon_restored and any(key not in rows for key in still)
        rows = {key: rows[key] for key in still if key in rows and (found.neon_restored or not rows[key].undelivered)}
        shown = {key: row.claimed.receipt for key, row in rows.items()}
        left = sort_missing(rows, await self.route.ledger.neon_states(self.neon, shown), found)
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

    async def _remove(self, left: MissingRows, rows: dict[str, Row]) -> None:
        events = [(key, str(Outcome.WITHDRAWN), None) for key in left.gone]
        route, workspace = self.route, self.route.workspace
        await send(
            self.supabase,
            workspace.remove(left.gone),
            workspace.note(left.orphans, messages.LEFT, Code.LEFT),
            workspace.note(left.strangers, messages.NEVER_PULLED, Code.GONE),
            workspace.await_return(left.lost, messages.LOST),
            workspace.acknowledge(left.promoted),
            *route.release.waiting_for([reply.key for reply in left.promoted]),
            *outcome_events_of(route, self.run.run_id, events),
        )
        await route.ledger.book(
            self.neon, self.run.run_id,
            [
                Entry(key, Outcome.WITHDRAWN, f"{key}|{rows[key].claimed.version}", rows[key].claimed.data,
                      note="left the invalid table by another way")
                for key in left.gone
            ],
        )  # fmt: skip
        await send(self.supabase, COMMIT)

    async def _release_waiting(self) -> None:
        """Put waiting rows back in the queue if their company came by another way, or Neon has corrected them."""
        self.pulled.released = await release_waiting(self.route, self.neon, self.supabase, self.refusals, self.go_on)
