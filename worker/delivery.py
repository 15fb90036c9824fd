"""The way of a record: claim → merge → normalise → judge → settle → acknowledge. The only place that
knows the order. A batch is a list of records, and one is a batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import psycopg
import structlog
from psycopg import sql

from worker import neon, outbox, receipts, workspace
from worker.apart import settle_apart
from worker.bridge import Bridge
from worker.catalogue import SWALLOWED, Refusal, explain_refusal
from worker.database import COMMIT, Connection, Step, begin, send
from worker.entities import Entity
from worker.faults import Kind, Restored, in_one_line, kind_of
from worker.merge import merge
from worker.model import Action, Answer, Data, Delivery, Merged, Outcome, State, Told, Verdict, new_run_id
from worker.neon import Entry, InvalidRow, Run
from worker.replies import KEPT, reply_to
from worker.reporting import report_flagged
from worker.settlement import settle
from worker.workspace import Reply

log = structlog.get_logger("worker.delivery")

ROUNDS = 5
"""How often a batch follows a Neon row that keeps moving under it, before it leaves it for the next."""
REFUSED = "REFUSED_BY_MASTER"
STUCK = "the invalid table does not take the flag"
_BOOKS = ("enrichment_ledger", "shq_validation_log")


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
    told: list[Told] = field(default_factory=list)
    conflicts: Counter[str] = field(default_factory=Counter)
    """Who won → fields that both sides had changed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → how long it took."""

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
            self.told.append(Told(delivery.key, what, code, fields, delay))


def _became(delivery: Delivery) -> tuple[str, str, str | None]:
    """Key, outcome (or the state, where it has none) and reason code of a settled delivery."""
    said, verdict = delivery.answer, delivery.verdict
    assert said is not None
    what = str(said.outcome if said.outcome and said.state is not State.GONE else said.state)
    code = said.reason_code or (verdict.reason_code if verdict else None)
    return delivery.key, what, code if what == Outcome.FLAGGED else None


def news(
    bridge: Bridge, entity: Entity, run_id: str, batch: Sequence[Delivery], *, promoted: Collection[str] = ()
) -> list[Step]:
    """The steps that announce what became of a settled batch; none where nobody wants to know.

    Args:
        bridge: whether somebody does.
        entity: of the batch.
        run_id: of the batch.
        batch: settled.
        promoted: keys that are gone because they were promoted, which nobody could announce.
    """
    ended = [d for d in batch if d.answer and d.answer.state not in (State.CHANGED, State.BUSY)]
    became = [(d.key, str(Outcome.PROMOTED), None) if d.key in promoted else _became(d) for d in ended]
    return news_of(bridge, entity, run_id, became)


def news_of(bridge: Bridge, entity: Entity, run_id: str, became: Sequence[tuple[str, str, str | None]]) -> list[Step]:
    """The steps that announce outcomes, by key, outcome and reason code; none where nobody wants to know."""
    return outbox.outcomes(entity, run_id, became) if bridge.announces and became else []


async def deliver(
    bridge: Bridge,
    entity: Entity,
    *,
    limit: int | None = None,
    skip: int = 0,
    action: Action = Action.PROMOTE,
    claimed: Callable[[int], None] = lambda _records: None,
) -> Tally:
    """Carry one batch of an entity's work to Neon and its outcome back.

    Args:
        bridge: both databases.
        entity: whose work.
        limit: rows at most; by default a whole batch.
        skip: rows of the queue to pass over.
        action: ``PROMOTE`` judges and promotes or flags; ``PUSH`` only carries.
        claimed: told how many records were claimed, as soon as they are.

    Raises:
        psycopg.Error: the batch is back in the queue; what took effect in Neon is recognised there.
        Restored: Neon was restored to an earlier moment; the batch is back in the queue.
    """
    tally = Tally(new_run_id("push" if action is Action.PUSH else "deliver"))
    target = entity.invalid_table if action is Action.PUSH else entity.master_table
    run = Run(tally.run_id, str(entity.workspace_table), str(target))
    # Neon's connection first: while a sleeping compute wakes, no enricher's row is locked.
    async with bridge.neon.connection() as there, bridge.supabase.connection() as here:
        with tally.timing("claim"):
            # An acknowledgement that a crash of Supabase takes back is given anew, from Neon's ledger. Only what was
            # announced could not be called back.
            durable = bridge.announces
            batch = await workspace.claim(here, entity, limit or bridge.batch_size, skip=skip, durable=durable)
        tally.claimed = len(batch)
        claimed(tally.claimed)
        if not batch:
            return tally
        with tally.timing("judge"):
            for delivery in batch:
                judge(entity, delivery, delivery.snapshot, delivery.snapshot_hash, action=action)
        with tally.timing("settle"):
            await settle_batch(bridge, there, entity, batch, run)
            if any(_gone_without_trace(delivery) for delivery in batch):
                await check_restored(there, here, entity)
        replies = [reply for delivery in batch if (reply := reply_to(delivery))]
        tally.answered = len(replies)
        promoted = keys_with(batch, Outcome.PROMOTED)
        with tally.timing("acknowledge"):
            missed = await tell(here, entity, replies, promoted, news(bridge, entity, tally.run_id, batch))
        remember(bridge, entity, replies)
        if missed:
            tally.missed = [reply.key for reply in replies if reply.receipt]
        tally.count(batch)
        # What it waits for may have come between the settlement and the acknowledgement.
        if waits := {d.key: d.data for d in batch if d.answer and d.answer.waits_for}:
            await release_ready(there, here, entity, waits)
    took = {f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in tally.seconds.items()}
    fields = {**tally.outcomes, **report_flagged(entity.name, tally.run_id, tally.told), **took}
    log.info("delivery.batch", entity=entity.name, run_id=tally.run_id, claimed=tally.claimed, **fields)
    return tally


def _gone_without_trace(delivery: Delivery) -> bool:
    said = delivery.answer
    return bool(said and said.state is State.GONE and said.outcome is None and not said.in_master and delivery.pulled)


async def check_restored(there: Connection, here: Connection, entity: Entity) -> None:
    """Look whether Neon has forgotten a pull that the workspace remembers, and with it the records that it brought.

    Raises:
        Restored: it has.
    """
    if await receipts.pulls_kept(here, entity) > (await receipts.counts(there, entity)).pulls:
        raise Restored(entity.name, "Neon")


def remember(bridge: Bridge, entity: Entity, replies: Sequence[Reply]) -> None:
    """Keep the latest ledger row that the workspace is known to have been told of."""
    known = bridge.known.get(entity.name)
    for reply in replies:
        if reply.receipt and (known is None or reply.receipt.id > known.id):
            known = reply.receipt
    if known:
        bridge.known[entity.name] = known


def judge(
    entity: Entity,
    delivery: Delivery,
    theirs: Data,
    theirs_hash: str | None,
    theirs_at: datetime | None = None,
    action: Action = Action.PROMOTE,
    standing: receipts.Standing | None = None,
) -> None:
    """Merge with Neon's side, normalise, judge, and say what is to be done. Pure, but for the log.

    Rules that crash on a record flag that record, and no other.

    Args:
        entity: whose record.
        delivery: as it was claimed.
        theirs: Neon's data columns.
        theirs_hash: their MD5, which the settlement compares.
        theirs_at: when Neon's row last changed; UTC, without zone.
        action: ``PROMOTE`` or ``PUSH``.
        standing: what Neon knows of the record; without it, the row's snapshot is what both sides last agreed on.
    """
    rules, delivery.note = entity.rules, None
    delivery.expected_hash = theirs_hash
    try:
        agreed, typed = delivery.snapshot, delivery.data
        if standing:
            agreed = agreed_on(entity, delivery, theirs, standing)
            theirs_at = standing.moved_at(theirs_at)
            if standing.is_newer_than(delivery.version):
                # In a restored workspace the row may be older than what was carried last: that is his word then.
                typed = {**typed, **standing.written}
        merged = merge(agreed, typed, theirs, delivery.version, theirs_at, rules.normalise)
        delivery.merged = replace(merged, data=rules.normalise(merged.data))
        delivery.verdict = rules.judge(delivery.merged.data)
    except Exception as error:
        log.exception("rules.crashed", entity=entity.name, key=delivery.key, error=type(error).__name__)
        delivery.merged, delivery.note = Merged(theirs), KEPT
        delivery.verdict = Verdict(
            {"record": "the rules could not judge this record; tell the operator"}, {}, "RULES_CRASHED"
        )
    carried = delivery.verdict.passed or (action is Action.PUSH and delivery.note != KEPT)
    delivery.action = action if carried else Action.FLAG


async def settle_batch(
    bridge: Bridge,
    there: Connection,
    entity: Entity,
    batch: Sequence[Delivery],
    run: Run,
    apply: Collection[Action] = frozenset(Action),
) -> None:
    """Settle a batch in Neon; a record whose row moved on meanwhile is merged and judged again.

    Where the second judgement asks for an action that is not in ``apply``, its answer stays ``CHANGED``.
    """
    asked = {delivery.key: delivery.action for delivery in batch}
    todo = list(batch)
    for _ in range(ROUNDS):
        if not todo:
            return
        await _settle_or_split(bridge, there, entity, todo, run)
        todo = [d for d in todo if d.answer is not None and d.answer.state is State.CHANGED]
        standings = await receipts.standings(there, entity, {d.key: d.receipt for d in todo})
        for delivery in todo:
            current = delivery.answer
            assert current is not None
            assert current.record is not None
            action = Action.PUSH if asked[delivery.key] is Action.PUSH else Action.PROMOTE
            standing = standings[delivery.key]
            judge(entity, delivery, current.record, current.hash, current.at, action, standing)
        todo = [delivery for delivery in todo if delivery.action in apply]


def agreed_on(entity: Entity, delivery: Delivery, theirs: Data, standing: receipts.Standing) -> Data:
    """What the enricher and Neon last agreed on: the snapshot, and what the worker wrote to Neon since. Where Neon was
    restored and has forgotten what the row was told, all in which they differ is the enricher's.
    """
    if delivery.in_neon:
        return delivery.snapshot
    if standing.forgotten:
        return theirs
    agreed = {**delivery.snapshot, **_written_for(delivery, standing)}
    if standing.written:
        # What he has left alone, and was only tidied, is not his.
        tidy = entity.rules.normalise(delivery.data)
        for name, value in delivery.data.items():
            if value == delivery.snapshot.get(name) and tidy.get(name) == agreed.get(name):
                agreed[name] = value
    return agreed


def _written_for(delivery: Delivery, standing: receipts.Standing) -> Data:
    """What was written to Neon for a row. A row from a backup never held it: there, what nobody typed in since is no
    going back to what stood there before.
    """
    if standing.is_newer_than(delivery.version) or was_carried(delivery, standing.latest):
        return standing.written
    return {name: value for name, value in standing.written.items() if is_typed(delivery, name)}


def was_carried(delivery: Delivery, said: receipts.Spoken | None) -> bool:
    """Whether a row may be what was carried, or a later version of that: its flip took away that it was pushed before,
    and left when it was enriched.
    """
    return said is None or (delivery.pushed_at is None and delivery.enriched_at == said.enriched_at)


def is_typed(delivery: Delivery, name: str) -> bool:
    """Whether a row holds another value of a column than it had from Neon."""
    return bool(delivery.data.get(name) != delivery.snapshot.get(name))


async def _settle_or_split(
    bridge: Bridge, there: Connection, entity: Entity, batch: Sequence[Delivery], run: Run
) -> None:
    """Settle, and where the database refuses records of the batch, flag those and no others."""
    how, known = bridge.settlements[entity.name], bridge.known.get(entity.name)
    try:
        answers = await settle(there, how, batch, run, known)
    except psycopg.Error as error:
        if kind_of(error) is not Kind.REFUSED:
            raise
        await send(there, (sql.SQL("ROLLBACK"), None))
        answers, refused = await settle_apart(there, how, batch, run, known)
        if refused:
            again = [delivery for delivery in batch if delivery.key in refused]
            await _make_flags(there, entity, again, refused, run, error)
            await _settle_or_split(bridge, there, entity, [d for d in again if d.note != STUCK], run)
    for delivery in batch:
        if delivery.key in answers:
            delivery.answer = answers[delivery.key]


async def _make_flags(
    there: Connection,
    entity: Entity,
    batch: Sequence[Delivery],
    refused: Mapping[str, Refusal],
    run: Run,
    error: psycopg.Error,
) -> None:
    """Make flags of refused records. Where the values do not even fit the invalid table, they stay in the
    workspace only, where the enricher sees them, and Neon keeps what it has. Where the invalid table does not
    take a flag on its own values, the flag stands in the ledger and the workspace only.

    Raises:
        psycopg.Error: it is the ledger or the log that refuses, which is no record's fault.
    """
    if any(why.table in _BOOKS and why.constraint != SWALLOWED for why in refused.values()):
        raise error
    reasons = {reason: await explain_refusal(there, entity, reason) for reason in set(refused.values())}
    unfit = [delivery for delivery in batch if delivery.action is not Action.PROMOTE]
    rows = await neon.read(there, entity, [delivery.key for delivery in unfit]) if unfit else {}
    for delivery in unfit:
        row = rows.get(delivery.key)
        if row is None:  # it went just now, and says so when it is settled
            delivery.expected_hash = None
        elif delivery.note == KEPT:
            delivery.note = STUCK
            why = f"Neon cannot take this record back: {reasons[refused[delivery.key]][1]}; tell the operator"
            delivery.answer = flagged(row, {"record": why}, {}, REFUSED, KEPT)
        else:
            delivery.merged, delivery.expected_hash, delivery.note = Merged(row.data), row.hash, KEPT
    stuck = [delivery for delivery in batch if delivery.note == STUCK]
    entries = [
        Entry(d.key, Outcome.FLAGGED, d.delivery_hash, d.answer.record, note=d.answer.errors["record"])
        for d in stuck if d.answer
    ]  # fmt: skip
    await neon.book(there, entity, run.run_id, entries)
    for delivery in batch:
        if delivery.note == STUCK:
            continue
        field_, message = reasons[refused[delivery.key]]
        warnings = delivery.verdict.warnings if delivery.verdict else {}
        delivery.verdict, delivery.action = Verdict({field_: message}, warnings, REFUSED), Action.FLAG
    codes = Counter(refused[delivery.key].sqlstate for delivery in batch)
    log.warning("delivery.refused", entity=entity.name, records=len(batch), sqlstates=dict(codes))


def flagged(
    row: InvalidRow,
    errors: Mapping[str, str],
    warnings: Mapping[str, str],
    reason_code: str | None,
    note: str | None = None,
) -> Answer:
    """The answer of a row that is flagged, though no settlement says so now."""
    return Answer(
        row.key, State.REPEAT, Outcome.FLAGGED, row.data, errors, warnings, reason_code, (), None, note,
        row.updated_at, row.hash,
    )  # fmt: skip


async def tell(
    here: Connection, entity: Entity, replies: Sequence[Reply], promoted: Sequence[str], events: Sequence[Step] = ()
) -> int:
    """Acknowledge, wake whoever waits for what was promoted, announce it, and commit the claim: one round trip.

    A row whose own constraints refuse the normalised values is told everything else.

    Returns:
        How many rows were not told, as they are not what they were when they were claimed.

    Raises:
        psycopg.Error: the rows are still in the queue, and Neon knows what became of them.
    """
    released = workspace.releases(entity, promoted)
    try:
        results = await send(here, workspace.acknowledge(entity, replies), *released, *events, COMMIT)
    except psycopg.Error as error:
        if kind_of(error) is not Kind.REFUSED:
            raise
        await send(here, (sql.SQL("ROLLBACK"), None))
        told = [await _tell_one(here, entity, reply) for reply in replies]
        await send(here, *begin(), *released, *events, COMMIT)
        return len(replies) - sum(told)
    return len(replies) - results[0].rowcount


async def _tell_one(here: Connection, entity: Entity, reply: Reply) -> int:
    try:
        results = await send(here, *begin(), workspace.acknowledge(entity, [reply]), COMMIT)
    except psycopg.Error as error:
        if kind_of(error) is not Kind.REFUSED or reply.data is None:
            raise
        await send(here, (sql.SQL("ROLLBACK"), None))
        note = f"{reply.note} The values as they were carried do not fit this table: {in_one_line(error)}"
        return await _tell_one(here, entity, replace(reply, data=None, note=note))
    return results[2].rowcount


def keys_with(batch: Sequence[Delivery], outcome: Outcome) -> list[str]:
    """The keys of a settled batch that had this outcome."""
    return [d.key for d in batch if d.answer and d.answer.outcome is outcome and d.answer.state is not State.GONE]


async def release_ready(there: Connection, here: Connection, entity: Entity, waits: dict[str, Data]) -> list[str]:
    """Put those waiting rows back in the queue whose requirements are met by now."""
    if keys := await neon.ready(there, entity, waits):
        await send(here, *begin(), workspace.release(entity, keys, by=entity.key), COMMIT)
    return keys
