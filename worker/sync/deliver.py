"""The way of a record: claim → merge → normalise → judge → settle → acknowledge. The only place that
knows the order. A batch is a list of records, and one is a batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import structlog

from worker.domain.model import Action, Delivery, Outcome, OutcomeSummary, State, new_run_id
from worker.domain.postponed import Cause
from worker.entities.declaration import Entity
from worker.neon import ledger
from worker.neon.invalid import Run
from worker.postgres.connection import Connection
from worker.postgres.errors import Restored, with_database
from worker.postgres.hints import hint_for, with_hint
from worker.postgres.transaction import Step
from worker.supabase import outbox, queue, receipts
from worker.supabase.queue import Reply
from worker.sync.acknowledge import acknowledge, release_ready
from worker.sync.databases import Databases
from worker.sync.judging import judge
from worker.sync.replies import reply_to
from worker.sync.reporting import report_flagged
from worker.sync.settling import Blocked, settle_batch

log = structlog.get_logger("worker.delivery")

HELD = "another transaction holds the record or its master key"


@dataclass
class Tally:
    """What became of a batch."""

    run_id: str
    claimed: int = 0
    answered: int = 0
    """Those that left the queue."""
    missed: list[str] = field(default_factory=list)
    """Keys whose rows were changed while they were on their way, and have not heard."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Outcome, or ``gone``, ``busy``, ``changed`` → records."""
    told: list[OutcomeSummary] = field(default_factory=list)
    conflicts: Counter[str] = field(default_factory=Counter)
    """Who won → fields that both sides had changed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → how long it took."""
    postponed: int = 0
    """Those that were put aside, to be tried again by themselves."""
    fault: psycopg.Error | None = None
    """Cause Neon refuses every record of the entity."""

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began

    def count(self, batch: Sequence[Delivery]) -> None:
        """Count what became of a batch."""
        since = sum(self.seconds.values()) - self.seconds["claim"]
        for delivery in batch:
            said = delivery.answer
            assert said is not None
            _, what, code = _became(delivery)
            self.outcomes[what] += 1
            if said.state is State.APPLIED:
                self.conflicts.update(conflict.winner for conflict in said.conflicts)
            if said.state in (State.CHANGED, State.BUSY):
                continue
            flagged = what == Outcome.FLAGGED
            delay = None if delivery.age is None else delivery.age + since
            fields = tuple(sorted(said.errors)) if flagged else ()
            self.told.append(OutcomeSummary(delivery.key, what, code, fields, delay))


def _became(delivery: Delivery) -> tuple[str, str, str | None]:
    """Key, outcome (or the state, where it has none) and reason code of a settled delivery."""
    said, verdict = delivery.answer, delivery.verdict
    assert said is not None
    what = str(said.outcome if said.outcome and said.state is not State.GONE else said.state)
    code = said.reason_code or (verdict.reason_code if verdict else None)
    return delivery.key, what, code if what == Outcome.FLAGGED else None


def outcome_events(
    databases: Databases, entity: Entity, run_id: str, batch: Sequence[Delivery], *, promoted: Collection[str] = ()
) -> list[Step]:
    """The steps that announce what became of a settled batch; none where nobody wants to know.

    Args:
        databases: whether somebody does.
        entity: of the batch.
        run_id: of the batch.
        batch: settled.
        promoted: keys that are gone because they were promoted, which nobody could announce.
    """
    ended = [d for d in batch if d.answer and d.answer.state not in (State.CHANGED, State.BUSY)]
    became = [(d.key, str(Outcome.PROMOTED), None) if d.key in promoted else _became(d) for d in ended]
    return outcome_events_of(databases, entity, run_id, became)


def outcome_events_of(
    databases: Databases, entity: Entity, run_id: str, became: Sequence[tuple[str, str, str | None]]
) -> list[Step]:
    """The steps that announce outcomes, by key, outcome and reason code; none where nobody wants to know."""
    return outbox.outcomes(entity, run_id, became) if databases.announces and became else []


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
    """Carry one batch of an entity's work to Neon and its outcome back.

    Args:
        databases: both databases.
        entity: whose work.
        limit: rows at most; by default a whole batch.
        skip: rows of the queue to pass over.
        action: ``PROMOTE`` judges and promotes or flags; ``PUSH`` only carries.
        among: only rows with these keys, also if they were put aside; by default all that were not.
        claimed: told how many records were claimed, as soon as they are.

    Raises:
        psycopg.Error: the batch is back in the queue; what took effect in Neon is recognised there.
        Restored: Neon was restored to an earlier moment; the batch is back in the queue.
    """
    tally = Tally(new_run_id("push" if action is Action.PUSH else "deliver"))
    target = entity.invalid_table if action is Action.PUSH else entity.master_table
    run = Run(tally.run_id, str(entity.workspace_table), str(target))
    # Neon's connection first: while a sleeping compute wakes, no enricher's row is locked.
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        with tally.timing("claim"):
            # An acknowledgement that a crash of Supabase takes back is given anew, from Neon's ledger. Only what was
            # announced could not be called back.
            durable = databases.announces
            batch = await queue.claim(
                supabase, entity, limit or databases.batch_size, skip=skip, durable=durable,
                postponed=databases.postponed[entity.name].row_versions(), among=among,
            )  # fmt: skip
            if among is not None:
                # What is no work any more, or another version, is as any other row.
                databases.postponed[entity.name].forget(set(among) - {delivery.key for delivery in batch})
        tally.claimed = len(batch)
        claimed(tally.claimed)
        if not batch:
            return tally
        with tally.timing("judge"):
            for delivery in batch:
                judge(entity, delivery, delivery.snapshot, delivery.snapshot_hash, action=action)
        with tally.timing("settle"):
            blocked = await settle_batch(databases, neon, entity, batch, run)
            if any(_gone_without_trace(delivery) for delivery in batch):
                await check_restored(neon, supabase, entity)
        replies = [reply for delivery in batch if (reply := reply_to(delivery))]
        tally.postponed = _put_aside(databases, entity, batch, blocked)
        tally.fault = blocked.error if blocked else None
        promoted = keys_with(batch, Outcome.PROMOTED)
        with tally.timing("acknowledge"):
            acknowledged = await acknowledge(
                databases, supabase, entity, replies, promoted, outcome_events(databases, entity, tally.run_id, batch)
            )
        remember(databases, entity, [reply for reply in replies if reply.key not in acknowledged.refused])
        tally.answered = len(replies) - len(acknowledged.refused)
        tally.postponed += len(acknowledged.refused)
        if acknowledged.missed:
            tally.missed = [reply.key for reply in replies if reply.receipt]
        tally.count(batch)
        # What it waits for may have come between the settlement and the acknowledgement.
        if waits := {d.key: d.data for d in batch if d.answer and d.answer.waits_for}:
            await release_ready(neon, supabase, entity, waits)
    took = {f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in tally.seconds.items()}
    fields = {**tally.outcomes, **report_flagged(entity.name, tally.run_id, tally.told), **took}
    log.info("delivery.batch", entity=entity.name, run_id=tally.run_id, claimed=tally.claimed, **fields)
    return tally


def _put_aside(databases: Databases, entity: Entity, batch: Sequence[Delivery], blocked: Blocked | None) -> int:
    """Let what cannot be settled now hold up nothing behind it.

    Returns:
        How many records were put aside.
    """
    keys = blocked.keys if blocked else set()
    busy = [(d.key, d.version) for d in batch if d.answer and d.answer.state is State.BUSY and d.key not in keys]
    put = databases.postponed[entity.name].put(Cause.HELD, busy, HELD)
    if blocked:
        reason = with_hint(with_database(blocked.error), hint_for(blocked.error))
        rows = [(d.key, d.version) for d in batch if d.key in keys]
        put += databases.postponed[entity.name].put(Cause.FAULT, rows, reason)
    return put


def _gone_without_trace(delivery: Delivery) -> bool:
    said = delivery.answer
    return bool(said and said.state is State.GONE and said.outcome is None and not said.in_master and delivery.pulled)


async def check_restored(neon: Connection, supabase: Connection, entity: Entity) -> None:
    """Look whether Neon has forgotten a pull that the workspace remembers, and with it the records that it brought.

    Raises:
        Restored: it has.
    """
    if await receipts.pulls_kept(supabase, entity) > (await ledger.counts(neon, entity)).pulls:
        raise Restored(entity.name, "Neon")


def remember(databases: Databases, entity: Entity, replies: Sequence[Reply]) -> None:
    """Keep the latest ledger row that the workspace is known to have been told of."""
    known = databases.known.get(entity.name)
    for reply in replies:
        if reply.receipt and (known is None or reply.receipt.id > known.id):
            known = reply.receipt
    if known:
        databases.known[entity.name] = known


def keys_with(batch: Sequence[Delivery], outcome: Outcome) -> list[str]:
    """The keys of a settled batch that had this outcome."""
    return [d.key for d in batch if d.answer and d.answer.outcome is outcome and d.answer.state is not State.GONE]
