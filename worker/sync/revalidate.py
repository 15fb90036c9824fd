"""Judge records that are in Neon: what ``revalidate`` and ``promote`` do, and a pull for records that were pushed by
hand. The steps are those of a delivery, but they start in Neon.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field

from worker.domain.model import Action, Outcome, Status
from worker.domain.progress import NO_PROGRESS, Progress
from worker.domain.steps import Judged, Settled, Verdict
from worker.entities.declaration import Entity
from worker.neon import demands
from worker.neon.books import Run
from worker.neon.invalid import InvalidRow, Which
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, send
from worker.supabase.pause import require_running
from worker.supabase.queue import Row
from worker.sync.acknowledge import acknowledge, release_ready
from worker.sync.databases import Databases
from worker.sync.deliver import keys_with, outcome_events, waiting_in
from worker.sync.judging import judge
from worker.sync.rehearsal import Pushable, Rehearsal, Revalidated, begin_in_neon, count_settled, in_words
from worker.sync.replies import reply_to
from worker.sync.route import Route
from worker.sync.settling import flagged, raise_blocked, settle_batch


@dataclass(frozen=True, slots=True)
class Judging:
    """Judges what lies in Neon: on which connections, in which run, and what is done about it."""

    route: Route
    neon: Connection
    supabase: Connection
    run: Run
    """The run that the ledger and the log book it under."""
    apply: Collection[Action]
    """The actions to carry out. Promotions that are not among them are rehearsed, as are all in a dry run."""
    rebook: bool = False
    """Whether what fails as it did before gets an entry of this version of the rules; else it is left as it is."""
    dry_run: bool = False
    pushed: Pushable = field(default_factory=dict)
    """In the dry run of a pipeline: what would have been pushed before."""

    async def rows(self, rows: Mapping[str, InvalidRow], assumed: Set[str] = frozenset()) -> Revalidated:
        """Judge a batch of invalid rows, settle those whose action is to be carried out, and acknowledge their
        workspace rows.

        Args:
            rows: by key.
            assumed: the keys of records of other entities that pass in the same run.

        Raises:
            psycopg.Error: nothing is lost; retry.
        """
        route, found = self.route, Revalidated()
        at = await route.queue.lock(self.supabase, list(rows), read_only=self.dry_run)
        judgements = _judge(route.entity, rows, at, found)
        # What the rules refuse, the master may refuse for more reasons: told together, as a settlement tells them.
        unmet = await demands.ask(self.neon, route.settlement.demands, judgements)
        judgements = [demands.with_unmet(judged, unmet) for judged in judgements]
        if self.dry_run or Action.PROMOTE not in self.apply:
            judgements = await Rehearsal(route, self.neon, self.run, self.pushed).ask(judgements, found, assumed)
        batch, unacknowledged = self._to_settle(judgements, rows, at, found)
        if self.dry_run or not (batch or unacknowledged):
            await send(self.supabase, COMMIT)
            return found
        settled, blocked = await settle_batch(route, self.neon, batch, self.run, self.apply)
        for one in settled:
            count_settled(found, one)
        answered = unacknowledged + [one for one in settled if one.key in at]
        replies = [reply for one in answered if (reply := reply_to(one, at[one.key].claimed.data))]
        promoted = keys_with(settled, Outcome.PROMOTED)
        # A worker that died before it could acknowledge a row did not announce it, either.
        events = outcome_events(route, self.run.run_id, [*settled, *unacknowledged])
        await acknowledge(route, self.supabase, replies, promoted, events)
        if waiting := waiting_in(answered):
            await release_ready(route, self.neon, self.supabase, waiting)
        raise_blocked(blocked)
        return found

    def _to_settle(
        self,
        judgements: Sequence[Judged],
        rows: Mapping[str, InvalidRow],
        at: Mapping[str, Row],
        found: Revalidated,
    ) -> tuple[list[Judged], list[Settled]]:
        """Count what was judged, and pick what is to be settled, and what only has to be answered."""
        batch: list[Judged] = []
        unacknowledged: list[Settled] = []
        for judged in judgements:
            key, row = judged.key, rows[judged.key]
            if judged.verdict.passed:
                found.passed.append(key)
            else:
                found.failed[key] = in_words(judged.verdict.errors)
                if row.still_invalid and row.errors != judged.verdict.errors:
                    found.otherwise.append(key)
            if judged.action not in self.apply:
                continue
            if self.rebook or not _is_already_flagged(row, judged.verdict):
                batch.append(judged)
            elif key in at and judged.claimed.status == Status.COMPLETE:
                # Flagged before, by a worker that could not tell the row any more.
                unacknowledged.append(Settled(judged, flagged(row, row.errors, row.warnings, row.reason_code)))
        return batch, unacknowledged

    async def gone(self, keys: Sequence[str]) -> None:
        """Acknowledge rows that were carried, and whose records have left the invalid table since.

        Raises:
            psycopg.Error: nothing is lost; retry.
        """
        if not keys:
            return
        route = self.route
        at = await route.queue.lock(self.supabase, keys)
        carried = [row.claimed for row in at.values() if row.carried]
        batch = [judge(route.entity, claimed, claimed.snapshot, claimed.snapshot_hash) for claimed in carried]
        settled, blocked = await settle_batch(route, self.neon, batch, self.run)
        promoted = [one.key for one in settled if one.answer.outcome is Outcome.PROMOTED]
        replies = [reply for one in settled if (reply := reply_to(one))]
        events = outcome_events(route, self.run.run_id, settled, promoted=promoted)
        await acknowledge(route, self.supabase, replies, promoted, events)
        raise_blocked(blocked)


def _judge(entity: Entity, rows: Mapping[str, InvalidRow], at: Mapping[str, Row], found: Revalidated) -> list[Judged]:
    """Judge the rows, but for those that an enricher works on."""
    judgements: list[Judged] = []
    for key, row in rows.items():
        if key in at and at[key].undelivered:
            found.left[key] = "the workspace has a newer edit on its way: push that first"
        elif key in at and at[key].taken_back:
            found.left[key] = "an enricher has taken it back: what he types now is carried when he sets complete again"
        else:
            judgements.append(begin_in_neon(entity, row, at.get(key)))
    return judgements


def _is_already_flagged(row: InvalidRow, verdict: Verdict) -> bool:
    """Whether Neon already tells this failure, so that judging again changes nothing there."""
    return (
        not verdict.passed
        and row.still_invalid
        and (row.errors, row.warnings, row.reason_code) == (verdict.errors, verdict.warnings, verdict.reason_code)
    )


async def judge_pushed(
    databases: Databases,
    entity: Entity,
    run: Run,
    *,
    apply: Collection[Action],
    which: Which = Which.ALL,
    dry_run: bool = False,
    assumed: Set[str] = frozenset(),
    pushed: Pushable | None = None,
    progress: Progress = NO_PROGRESS,
) -> Revalidated:
    """Judge every record in Neon that is marked ``complete``, batch by batch.

    Args:
        databases: both databases.
        entity: which.
        run: the run that the ledger and the log book it under.
        apply: the actions to carry out: only ``FLAG``, or ``FLAG`` and ``PROMOTE``.
        which: which of those records.
        dry_run: write nothing.
        assumed: the keys of records of other entities that pass in the same run.
        pushed: in the dry run of a pipeline, what would have been pushed before.
        progress: answered of every batch.

    Raises:
        Paused: the entity is paused, or was between two batches; what was judged stays so.
        psycopg.Error: nothing is lost; retry.
    """
    route, total = databases.routes[entity.name], Revalidated()
    after: str | None = None
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        judging = Judging(
            route, neon, supabase, run, apply, rebook=which is Which.STALE, dry_run=dry_run, pushed=pushed or {}
        )
        while not databases.stop.is_set():
            if not dry_run:
                await require_running(supabase, [entity])
            rows = await route.invalid.read_pushed(neon, after, route.batch_size, which=which)
            if not rows:
                break
            after = rows[-1].key
            total.add(await judging.rows({row.key: row for row in rows}, assumed))
            progress.advance(len(rows))
    return total


async def finish_carried(
    databases: Databases, entity: Entity, run: Run, progress: Progress = NO_PROGRESS
) -> Revalidated:
    """Finish what a stage carried to Neon and left there: otherwise, if a worker died after it had settled a record and
    before it could acknowledge the row, the enricher would wait for ever.

    Raises:
        Paused: the entity was paused between two batches.
        psycopg.Error: nothing is lost; the next pull tries again.
    """
    route, total, after = databases.routes[entity.name], Revalidated(), 0
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        judging = Judging(route, neon, supabase, run, apply=(Action.FLAG, Action.PROMOTE))
        while not databases.stop.is_set():
            await require_running(supabase, [entity])
            some = await route.queue.carried(supabase, after, route.batch_size)
            if not some:
                break
            after = max(some)
            keys = list(some.values())
            rows = await route.invalid.read(neon, keys)
            if rows:
                total.add(await judging.rows(rows))
            await judging.gone([key for key in keys if key not in rows])
            progress.advance(len(keys))
    return total
