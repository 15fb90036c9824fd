"""Neon → workspace: new and changed invalid records, by position or in full comparison."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import structlog
from psycopg import sql

from worker import neon, outbox, staging, workspace
from worker.bridge import Bridge
from worker.database import COMMIT, Connection, begin, send
from worker.delivery import release_ready
from worker.entities import Entity
from worker.faults import Kind, in_one_line, kind_of
from worker.merge import merge
from worker.model import Action, Outcome, Status, new_run_id, utc_now
from worker.neon import Entry, Horizon, InvalidRow, Run, Which
from worker.progress import NOBODY, Progress, Pulse
from worker.revalidation import chunks, finish_carried, judge_pushed
from worker.staging import Position, Refresh

log = structlog.get_logger("worker.pull")

FULL_EVERY = timedelta(days=1)
STAGE_ROWS = 10_000
PATIENCE = 60.0
MOST_REFUSED = 50
"""How many records the workspace may refuse, before the pull takes it for the workspace's own fault."""
KEEP_ALIVE = sql.SQL("SELECT 1")
LEFT_NOTE = (
    "This record left Neon's invalid table by another way. Your edit is kept here, but there is nothing to carry it to."
)


@dataclass
class Pulled:
    """What a pull did."""

    run_id: str
    entity: str
    full: bool
    seen: int = 0
    new: int = 0
    changed: int = 0
    withdrawn: int = 0
    orphaned: int = 0
    refused: int = 0
    """Those that the workspace does not take."""
    released: int = 0
    judged: int = 0
    promoted: int = 0
    """Of those judged."""
    totals: dict[str, int] = field(default_factory=dict)
    """``invalid`` and ``master`` → how many records Neon holds."""
    estimated: bool = False
    """Whether a total is the planner's estimate."""
    keys: dict[str, str] = field(default_factory=dict)
    """Key → what would happen to it; only of a dry run."""

    @property
    def result(self) -> dict[str, Any]:
        """What is kept of it in the workspace, so that nobody has to ask Neon."""
        return {
            "full": self.full, "seen": self.seen, "new": self.new, "changed": self.changed,
            "withdrawn": self.withdrawn, "orphaned": self.orphaned, "released": self.released,
            **self.totals, "estimated": self.estimated,
        }  # fmt: skip


class _Stopped(Exception):
    """The worker stops; the position stays where it was."""


async def pull(
    bridge: Bridge,
    entity: Entity,
    *,
    full: bool = False,
    dry_run: bool = False,
    batch_size: int = STAGE_ROWS,
    progress: Progress = NOBODY,
) -> Pulled | None:
    """Pull one entity. Of several workers one pulls; the others return at once.

    Args:
        bridge: both databases.
        entity: which.
        full: compare every row; happens by itself the first time and once a day.
        dry_run: write nothing and say what would happen.
        batch_size: rows of a batch.
        progress: told of every batch.

    Returns:
        What was done; None where another worker is pulling, or this one stops.

    Raises:
        psycopg.Error: the next pull starts again from the old position; what arrived stays.
    """
    async with bridge.supabase.connection() as guard:
        position = await staging.take_position(guard, entity) if not dry_run else _FROM_THE_START
        if position is None:
            return None
        full = full or _full_is_due(position)
        pulled = Pulled(new_run_id("pull"), entity.name, full)
        run = Run(pulled.run_id, str(entity.invalid_table), str(entity.workspace_table))
        async with bridge.neon.connection() as there, bridge.supabase.connection() as here:
            task = _Pull(bridge, entity, pulled, run, there, here, guard, dry_run, Pulse(progress))
            reached = await neon.horizon(there, entity)
            if full and progress.shown:
                results = await send(there, *begin(read_only=True), neon.totals(entity), COMMIT)
                progress.expect(sum(row["records"] for row in results[2].fetchall() if row["name"] == "invalid"))
            try:
                await task.bring(None if full else position.horizon, batch_size, progress)
                if full and not task.began_vacant:
                    await task.withdraw()
                if dry_run:
                    return pulled
                await task.wake_waiting()
            except _Stopped:
                return None
            changed = pulled.new + pulled.changed + pulled.withdrawn
            results = await send(there, *begin(), neon.log_run(run, changed, changed, 0), neon.totals(entity), COMMIT)
            for row in results[-2].fetchall():
                pulled.totals[row["name"]] = row["records"]
                pulled.estimated |= row["estimated"]
        news = [outbox.pulled(entity, pulled.run_id, pulled.result)] if bridge.announces else []
        if task.held:
            reached, full = position.horizon or reached, False
        position_saved = staging.save_position(entity, reached, pulled.run_id, pulled.result, full=full)
        await send(guard, position_saved, *news, COMMIT)
    judging = Run(new_run_id("revalidate"), str(entity.invalid_table), str(entity.master_table))
    pulse = Pulse(progress)
    judged = await judge_pushed(
        bridge, entity, judging, apply=(Action.FLAG, Action.PROMOTE), which=Which.UNJUDGED, progress=pulse
    )
    judged.add(await finish_carried(bridge, entity, judging, pulse))
    pulled.promoted = len(judged.promoted)
    pulled.judged = len(judged.promoted) + len(judged.failed)
    log.info(
        "pull.done", entity=entity.name, run_id=pulled.run_id, full=full, seen=pulled.seen, new=pulled.new,
        changed=pulled.changed, withdrawn=pulled.withdrawn, refused=pulled.refused,
        judged=pulled.judged,
    )  # fmt: skip
    return pulled


_FROM_THE_START = Position(None, None, None)


def _full_is_due(position: Position) -> bool:
    if position.horizon is None or position.last_full_at is None:
        return True
    # One that is still to come was dated by a clock that went back since: how long ago it was nobody knows.
    return not timedelta(minutes=-5) <= utc_now() - position.last_full_at < FULL_EVERY


@dataclass
class _Pull:
    """One pull under way, with its connections."""

    bridge: Bridge
    entity: Entity
    pulled: Pulled
    run: Run
    there: Connection
    here: Connection
    guard: Connection
    dry_run: bool
    pulse: Pulse
    held: bool = False
    """Whether somebody held a row that was to be brought up to date."""
    began_vacant: bool = False
    """Whether the workspace was empty: all that it holds by now is from this very look at Neon."""

    async def _go_on(self) -> None:
        """Between batches: stop if asked to, and prove that this is still the only puller."""
        self.pulse.advance(0)
        if self.bridge.stop.is_set():
            raise _Stopped
        if not self.dry_run:
            await send(self.guard, (KEEP_ALIVE, None))

    async def bring(self, since: Horizon | None, batch_size: int, progress: Progress) -> None:
        """Stream what changed since, batch by batch."""
        direct = False
        if since is None and not self.dry_run:
            self.began_vacant, direct = await staging.vacancy(self.here, self.entity)
        async with self.bridge.neon.connection() as source:
            # What changed is looked up by index, also where no ANALYZE has told the planner that it is little.
            planner = () if since is None else ("enable_seqscan",)
            await send(source, *begin(read_only=True, repeatable=True, statement=0, idle=0, planner=planner))
            # Closed at once when a batch fails: an open COPY would keep its connection, and the pull, for ever.
            async with aclosing(neon.stream(source, self.entity, since, patience=PATIENCE)) as rows:
                batches = staging.Batches(rows, batch_size)
                while await batches.more():
                    staged = await staging.stage(
                        self.here, self.entity, batches.batch(), self._refused, dry_run=self.dry_run, direct=direct
                    )
                    direct = staged.direct
                    self.pulled.seen += batches.rows
                    self.pulled.new += staged.new
                    self.pulled.keys |= dict.fromkeys(staged.new_keys, "new: would be pulled")
                    for keys in chunks(staged.changed, self.bridge.batch_size):
                        await self._in_parts(self._refresh, list(keys))
                        await self._go_on()
                    progress.advance(batches.rows)
                    await self._go_on()
            await send(source, COMMIT)

    def _refused(self, key: str, error: psycopg.Error) -> None:
        """One record that the workspace does not take holds up no other; many are no record's fault.

        Raises:
            psycopg.Error: there are too many.
        """
        self.pulled.refused += 1
        if self.pulled.refused > MOST_REFUSED:
            raise error
        log.warning("pull.refused", entity=self.entity.name, key=key, error=in_one_line(error))

    async def _in_parts(self, step: Callable[[list[str]], Awaitable[None]], keys: list[str]) -> None:
        """Do a step for these rows; where the workspace refuses one of them, for all the others."""
        try:
            await step(keys)
        except psycopg.Error as error:
            if kind_of(error) is not Kind.REFUSED:
                raise
            await send(self.here, (sql.SQL("ROLLBACK"), None))
            if len(keys) == 1:
                self._refused(keys[0], error)
                return
            for part in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                await self._in_parts(step, part)

    async def _refresh(self, keys: list[str]) -> None:
        """Bring changed records to their rows, from a fresh read under the rows' locks."""
        # A row that an enricher's open transaction holds is left to the next pull, which starts where this one did.
        rows = await workspace.lock(self.here, self.entity, keys, look=self.dry_run, wait=False)
        self.held |= len(rows) < len(keys)
        fresh = await neon.read(self.there, self.entity, keys)
        refreshed: list[Refresh] = []
        entries: list[Entry] = []
        for key, row in rows.items():
            # Left to the delivery: what is on its way, and what is no longer there.
            if row.queued or key not in fresh:
                continue
            refresh, entry = _bring_up_to_date(self.entity, row, fresh[key])
            refreshed.append(refresh)
            entries += entry
        if self.dry_run:
            self.pulled.keys |= dict.fromkeys((r.key for r in refreshed), "changed: would be merged")
            await send(self.here, COMMIT)
        else:
            # The ledger hears of what the workspace took, and before that is for good.
            await send(self.here, staging.refresh(self.entity, refreshed))
            await neon.book(self.there, self.entity, self.run.run_id, entries)
            await send(self.here, COMMIT)
        self.pulled.changed += len(refreshed)

    async def withdraw(self) -> None:
        """Remove untouched rows whose record left the invalid table; tell the others."""
        after = ""
        while keys := await staging.pulled_keys(self.here, self.entity, after, STAGE_ROWS):
            after = keys[-1]
            gone = await neon.missing(self.there, self.entity, keys)
            for some in chunks(gone, self.bridge.batch_size):
                await self._in_parts(self._withdraw, list(some))
            await self._go_on()

    async def _withdraw(self, keys: list[str]) -> None:
        rows = await workspace.lock(self.here, self.entity, keys, look=self.dry_run, wait=False)
        still = await neon.missing(self.there, self.entity, keys)
        rows = {key: rows[key] for key in still if key in rows and not rows[key].queued}
        gone = [key for key, row in rows.items() if row.untouched]
        orphans = [key for key, row in rows.items() if not row.untouched and row.note != LEFT_NOTE and not row.promoted]
        if self.dry_run:
            self.pulled.keys |= dict.fromkeys(gone, "left Neon: would be withdrawn")
            self.pulled.keys |= dict.fromkeys(orphans, "left Neon, but edited here: would be kept with a note")
            await send(self.here, COMMIT)
        else:
            await self._remove(gone, orphans, rows)
        self.pulled.withdrawn += len(gone)
        self.pulled.orphaned += len(orphans)

    async def _remove(self, gone: list[str], orphans: list[str], rows: dict[str, workspace.Row]) -> None:
        events = [(key, str(Outcome.WITHDRAWN), None) for key in gone]
        await send(
            self.here,
            staging.remove(self.entity, gone),
            staging.note(self.entity, orphans, LEFT_NOTE),
            *(outbox.outcomes(self.entity, self.run.run_id, events) if self.bridge.announces else ()),
        )
        await neon.book(
            self.there, self.entity, self.run.run_id,
            [
                Entry(key, Outcome.WITHDRAWN, f"{key}|{rows[key].delivery.version}", rows[key].delivery.data,
                      note="left the invalid table by another way")
                for key in gone
            ],
        )  # fmt: skip
        await send(self.here, COMMIT)

    async def wake_waiting(self) -> None:
        """Put waiting rows back in the queue whose company came by another way."""
        if self.entity.requirements and (waits := await workspace.waiting(self.here, self.entity)):
            self.pulled.released = len(await release_ready(self.there, self.here, self.entity, waits))


def _bring_up_to_date(entity: Entity, row: workspace.Row, fresh: InvalidRow) -> tuple[Refresh, list[Entry]]:
    """Merge Neon's record into a workspace row. Pure."""
    mine = row.delivery
    merged = merge(mine.snapshot, mine.data, fresh.data, mine.version, fresh.updated_at, entity.rules.normalise)
    reopened = row.promoted
    first_seen = reopened or mine.status == Status.PENDING
    lost = [c.field for c in merged.conflicts if c.winner == "neon"]
    note = None
    if reopened:
        note = "This record turned invalid again after it was promoted: see original_validation_errors."
    elif lost:
        note = f"Your change to {', '.join(lost)} was not kept: Neon has a newer value."
    refresh = Refresh(
        key=mine.key,
        neon_id=fresh.id,
        data=merged.data,
        snapshot=fresh.data,
        # A status that somebody wrote before the CHECK was there starts over.
        status=Status.PENDING if reopened or mine.status not in set(Status) else mine.status,
        original_errors=fresh.errors if first_seen else None,
        original_warnings=fresh.warnings if first_seen else None,
        reason_code=fresh.reason_code if first_seen else None,
        reopened=reopened,
        note=note,
    )
    if not merged.conflicts:
        return refresh, []
    seal = f"{mine.key}|{mine.delivery_hash}|{fresh.hash}"
    return refresh, [Entry(mine.key, Outcome.MERGED, seal, merged.data, merged.conflicts)]
