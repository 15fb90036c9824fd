"""The steps of a delivery: claim → merge → normalise → judge → settle → acknowledge. The only place that knows the
order. A batch is a list of records; a batch of one is normal.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import structlog

from worker.domain.model import Action, Data, Outcome, OutcomeSummary, State, new_run_id
from worker.domain.postponed import Cause, Postponed
from worker.domain.steps import Settled
from worker.entities.declaration import Entity
from worker.neon.books import Run
from worker.postgres.connection import Connection
from worker.postgres.errors import Restored, with_database
from worker.postgres.hints import hint_for, with_hint
from worker.postgres.transaction import Step
from worker.supabase import outbox
from worker.supabase.acknowledgement import Reply
from worker.supabase.position import last_counted
from worker.sync.acknowledge import Acknowledged, acknowledge, release_ready
from worker.sync.databases import Databases
from worker.sync.judging import judge
from worker.sync.replies import reply_to
from worker.sync.reporting import report_flagged
from worker.sync.route import Route
from worker.sync.settling import Blocked, settle_batch

log = structlog.get_logger("worker.delivery")

HELD = "another transaction holds the record or its master key"


@dataclass
class Tally:
    """What became of a batch."""

    run_id: str
    claimed: int = 0
    answered: int = 0
    """Records that left the queue."""
    missed: list[str] = field(default_factory=list)
    """Keys whose rows changed while they were on their way, and were not acknowledged."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Outcome, or ``gone``, ``busy``, ``changed`` → records."""
    summaries: list[OutcomeSummary] = field(default_factory=list)
    conflicts: Counter[str] = field(default_factory=Counter)
    """Winner → number of fields that both sides had changed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → how long it took."""
    postponed: int = 0
    """Records that were postponed, and are retried."""
    fault: psycopg.Error | None = None
    """Why Neon refuses every record of the entity."""

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began

    def count(
        self, batch: Sequence[Settled], replies: Sequence[Reply], acknowledged: Acknowledged, blocked: Blocked | None
    ) -> None:
        """Count what became of a batch, and of its replies."""
        self.answered = len(replies) - len(acknowledged.refused)
        self.postponed += len(acknowledged.refused)
        if acknowledged.missed:
            self.missed = [reply.key for reply in replies if reply.receipt]
        self.fault = blocked.error if blocked else None
        since = sum(self.seconds.values()) - self.seconds["claim"]
        became = [_became(one) for one in batch]
        self.outcomes.update([what for _, what, _ in became])
        for one, (key, what, code) in zip(batch, became, strict=True):
            answer, age = one.answer, one.claimed.age
            if answer.conflicts and answer.state is State.APPLIED:
                self.conflicts.update(conflict.winner for conflict in answer.conflicts)
            if not one.ended:
                continue
            fields = tuple(sorted(answer.errors)) if what == Outcome.FLAGGED else ()
            delay = None if age is None else age + since
            # Of a duplicate without the other key: it is counted by reason.
            reason = code.partition(" ")[0] if code else None
            self.summaries.append(OutcomeSummary(key, what, reason, fields, delay, one.claimed.enriched_by))


def _became(one: Settled) -> tuple[str, str, str | None]:
    """Key, outcome (or the state, if it has none) and reason code of a settled row."""
    answer, judged = one.answer, one.judged
    what = (answer.outcome if answer.outcome and answer.state is not State.GONE else answer.state).value
    code = answer.reason_code or judged.verdict.reason_code if answer.outcome is Outcome.FLAGGED else None
    return judged.claimed.key, what, code


def outcome_events(
    route: Route, run_id: str, batch: Sequence[Settled], *, promoted: Collection[str] = ()
) -> list[Step]:
    """The steps that announce the outcomes of a settled batch; none if nothing is announced.

    Args:
        route: of the batch.
        run_id: of the batch.
        batch: settled.
        promoted: keys that are gone because they were promoted, which was not announced then.
    """
    ended = [one for one in batch if one.ended]
    became = [(one.key, str(Outcome.PROMOTED), None) if one.key in promoted else _became(one) for one in ended]
    return outcome_events_of(route, run_id, became)


def outcome_events_of(route: Route, run_id: str, became: Sequence[tuple[str, str, str | None]]) -> list[Step]:
    """The steps that announce outcomes, by key, outcome and reason code; none if nothing is announced."""
    return outbox.outcomes(route.entity, run_id, became) if route.announces and became else []


async def deliver(
    databases: Databases,
    entity: Entity,
    *,
    limit: int | None = None,
    skip: int = 0,
    action: Action = Action.PROMOTE,
    among: Sequence[str] | None = None,
    claimed: Callable[[int], None] = lambda _records: None,
) -> Tally:
    """Carry one batch of an entity's work to Neon, and the outcomes back.

    Args:
        databases: both databases.
        entity: whose work.
        limit: maximum number of rows; by default a whole batch.
        skip: number of rows in the queue to skip.
        action: ``PROMOTE`` judges and promotes or flags; ``PUSH`` only carries.
        among: only rows with these keys, even if postponed; by default all that are not postponed.
        claimed: called with the number of claimed records, as soon as it is known.

    Raises:
        psycopg.Error: the batch is back in the queue; what took effect in Neon is recognised there.
        Restored: Neon was restored to an earlier moment; the batch is back in the queue.
    """
    tally = Tally(new_run_id("push" if action is Action.PUSH else "deliver"))
    target = entity.invalid_table if action is Action.PUSH else entity.master_table
    run = Run(tally.run_id, str(entity.workspace_table), str(target))
    route = databases.routes[entity.name]
    # Neon's connection first: no enricher's row is locked while a sleeping compute wakes.
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        with tally.timing("claim"):
            # An acknowledgement that is lost in a crash of Supabase is repeated from Neon's ledger. Only an event that
            # was already posted could not be recalled.
            rows = await route.queue.claim(
                supabase, limit or route.batch_size, skip=skip, durable=route.announces,
                postponed=route.postponed.row_versions(), among=among,
            )  # fmt: skip
        if among is not None:
            # Rows that are no longer work, or have another version, are treated like any other row.
            route.postponed.forget(set(among) - {row.key for row in rows})
        tally.claimed = len(rows)
        claimed(tally.claimed)
        if not rows:
            return tally
        with tally.timing("judge"):
            judged = [judge(entity, row, row.snapshot, row.snapshot_hash, action=action) for row in rows]
        with tally.timing("settle"):
            settled, blocked = await settle_batch(route, neon, judged, run)
            if any(map(_gone_without_trace, settled)):
                await check_restored(route, neon, supabase)
        replies = [reply for one in settled if (reply := reply_to(one))]
        promoted = keys_with(settled, Outcome.PROMOTED)
        events = outcome_events(route, tally.run_id, settled)
        tally.postponed = _postpone(route.postponed, settled, blocked)
        with tally.timing("acknowledge"):
            acknowledged = await acknowledge(route, supabase, replies, promoted, events)
        route.remember(reply.receipt for reply in replies if reply.key not in acknowledged.refused)
        tally.count(settled, replies, acknowledged, blocked)
        # What a record waits for may have come between the settlement and the acknowledgement.
        if waiting := waiting_in(settled):
            await release_ready(route, neon, supabase, waiting)
    took = {f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in tally.seconds.items()}
    fields = {**tally.outcomes, **report_flagged(entity.name, tally.run_id, tally.summaries), **took}
    log.info("delivery.batch", entity=entity.name, run_id=tally.run_id, claimed=tally.claimed, **fields)
    return tally


def _postpone(postponed: Postponed, settled: Sequence[Settled], blocked: Blocked | None) -> int:
    """Postpone what cannot be settled now, so that it blocks nothing behind it.

    Returns:
        How many records were postponed.
    """
    late = [one for one in settled if one.answer.state is State.BUSY]
    faulty = [(one.key, one.claimed.version) for one in late if blocked and one.key in blocked.keys]
    held = [(one.key, one.claimed.version) for one in late if not (blocked and one.key in blocked.keys)]
    put = postponed.put(Cause.HELD, held, HELD)
    if blocked:
        put += postponed.put(Cause.FAULT, faulty, with_hint(with_database(blocked.error), hint_for(blocked.error)))
    return put


def waiting_in(settled: Sequence[Settled]) -> dict[str, Data]:
    """Key → data of the settled rows that wait for another record."""
    return {one.key: one.judged.merged.data for one in settled if one.answer.waits_for}


def _gone_without_trace(one: Settled) -> bool:
    answer = one.answer
    return answer.state is State.GONE and answer.outcome is None and not answer.in_master and one.claimed.pulled


async def check_restored(route: Route, neon: Connection, supabase: Connection) -> None:
    """Check whether Neon has forgotten the last pull that the workspace counts, and with it the records of that pull.

    Raises:
        Restored: it has.
    """
    kept = await last_counted(supabase, route.entity)
    if (await route.pulls.counts(neon, kept)).lacks(kept):
        raise Restored(route.entity.name, "Neon")


def keys_with(batch: Sequence[Settled], outcome: Outcome) -> list[str]:
    """The keys of a settled batch that had this outcome."""
    return [one.key for one in batch if one.answer.outcome is outcome and one.answer.state is not State.GONE]
