"""Settle a batch in Neon, and see to it that what a record, or somebody's lock, stands in the way of is that record's
own affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
import structlog

from worker.domain.model import Action, Answer, Delivery, Merged, Outcome, State, Verdict
from worker.entities.declaration import Entity
from worker.neon import invalid, ledger
from worker.neon.bisect import MOST_WAITS, settle_by_bisection
from worker.neon.catalogue import SWALLOWED, Refusal, explain_refusal
from worker.neon.invalid import Entry, InvalidRow, Run
from worker.neon.settle import settle
from worker.postgres.connection import Connection
from worker.postgres.errors import LOCKED, NOBODYS, Kind, kind_of
from worker.postgres.transaction import ROLLBACK, send
from worker.sync.databases import Databases
from worker.sync.judging import judge
from worker.sync.replies import KEPT

log = structlog.get_logger("worker.delivery")

ROUNDS = 5
"""How often a batch follows a Neon row that keeps moving under it, before it leaves it for the next."""
REFUSED = "REFUSED_BY_MASTER"
STUCK = "the invalid table does not take the flag"
_BOOKS = ("enrichment_ledger", "shq_validation_log")
_DOUBTS = 10_000
"""Records of which it is kept in mind, at most, that they were refused as if all were."""


@dataclass
class Blocked:
    """Records that Neon refuses as it would any of their entity. Their answers are ``BUSY``; they stay in the queue."""

    error: psycopg.Error
    keys: set[str] = field(default_factory=set)


def complain(blocked: Blocked | None) -> None:
    """Raise what an operator has to fix, if there is anything.

    Raises:
        psycopg.Error: there is.
    """
    if blocked:
        raise blocked.error


async def settle_batch(
    databases: Databases,
    neon: Connection,
    entity: Entity,
    batch: Sequence[Delivery],
    run: Run,
    apply: Collection[Action] = frozenset(Action),
) -> Blocked | None:
    """Settle a batch in Neon; a record whose row moved on meanwhile is merged and judged again.

    Where the second judgement asks for an action that is not in ``apply``, its answer stays ``CHANGED``. A record that
    somebody else's transaction holds is ``BUSY``.

    Returns:
        What an operator has to fix, where all records are refused the same way; None where there is nothing.

    Raises:
        psycopg.Error: nothing took effect, or nobody knows; settle again.
        Restored: Neon was restored to an earlier moment.
    """
    asked = {delivery.key: delivery.action for delivery in batch}
    todo, blocked = list(batch), None
    for _ in range(ROUNDS):
        if not todo:
            break
        blocked = _both(blocked, await _settle_or_split(databases, neon, entity, todo, run))
        todo = [d for d in todo if d.answer is not None and d.answer.state is State.CHANGED]
        standings = await ledger.standings(neon, entity, {d.key: d.receipt for d in todo})
        for delivery in todo:
            current = delivery.answer
            assert current is not None
            assert current.record is not None
            action = Action.PUSH if asked[delivery.key] is Action.PUSH else Action.PROMOTE
            standing = standings[delivery.key]
            judge(entity, delivery, current.record, current.hash, current.at, action, standing)
            delivery.theirs, delivery.written_for = current.record, bool(standing.written)
        todo = [delivery for delivery in todo if delivery.action in apply]
    return blocked


def _both(one: Blocked | None, other: Blocked | None) -> Blocked | None:
    if one and other:
        one.keys |= other.keys
    return one or other


async def _settle_or_split(
    databases: Databases, neon: Connection, entity: Entity, batch: Sequence[Delivery], run: Run
) -> Blocked | None:
    """Settle, and where Neon does not take the batch as it is, take it apart."""
    how, known = databases.settlements[entity.name], databases.known.get(entity.name)
    try:
        answers = await settle(neon, how, batch, run, known)
    except psycopg.Error as error:
        if kind_of(error) is Kind.TRANSIENT and error.sqlstate != LOCKED:
            raise
        await send(neon, ROLLBACK)
        if how.cannot_fill(error):
            return await _without_promotions(databases, neon, entity, batch, run, error)
        return await _bisect(databases, neon, entity, batch, run, error)
    _take(databases, entity, batch, answers)
    return None


def _take(databases: Databases, entity: Entity, batch: Sequence[Delivery], answers: Mapping[str, Answer]) -> None:
    for delivery in batch:
        if delivery.key in answers:
            delivery.answer = answers[delivery.key]
            databases.doubted.pop((entity.name, delivery.key), None)
    if _applied(batch, answers, Action.PROMOTE):
        databases.promotions[entity.name] += 1


def _applied(batch: Sequence[Delivery], answers: Mapping[str, Answer], action: Action) -> bool:
    """Whether Neon took a record of this batch in this way."""
    return any(
        d.action is action and (said := answers.get(d.key)) is not None
        and said.state is State.APPLIED and said.outcome is not Outcome.WAITING
        for d in batch
    )  # fmt: skip


async def _without_promotions(
    databases: Databases, neon: Connection, entity: Entity, batch: Sequence[Delivery], run: Run, error: psycopg.Error
) -> Blocked | None:
    """The master has a column that takes no NULL, and nothing fills it: no record of the entity can be promoted."""
    blocked = Blocked(error)
    for delivery in batch:
        if delivery.action is Action.PROMOTE:
            _postpone(delivery)
            blocked.keys.add(delivery.key)
    others = [delivery for delivery in batch if delivery.key not in blocked.keys]
    return _both(blocked, await _settle_or_split(databases, neon, entity, others, run) if others else None)


def _postpone(delivery: Delivery) -> None:
    delivery.answer = Answer(delivery.key, State.BUSY, None, None, {}, {}, None, (), None, None, None)


async def _bisect(
    databases: Databases, neon: Connection, entity: Entity, batch: Sequence[Delivery], run: Run, error: psycopg.Error
) -> Blocked | None:
    """Settle what can be settled, flag the records that Neon refuses, and no others."""
    how, known = databases.settlements[entity.name], databases.known.get(entity.name)
    answers, refused = await settle_by_bisection(neon, how, batch, run, known)
    if not answers and len(refused) > MOST_WAITS and all(why.sqlstate == LOCKED for why in refused.values()):
        raise error  # it is no record that is locked, but a table
    _take(databases, entity, batch, answers)
    blocked = Blocked(error, _no_records_fault(databases, entity, batch, answers, refused, error))
    for delivery in batch:
        why = refused.get(delivery.key)
        if why and (why.sqlstate == LOCKED or delivery.key in blocked.keys):
            _postpone(delivery)
            del refused[delivery.key]
    if refused:
        again = [delivery for delivery in batch if delivery.key in refused]
        await _make_flags(neon, entity, again, refused, run)
        flags = [delivery for delivery in again if delivery.note != STUCK]
        more = await _settle_or_split(databases, neon, entity, flags, run) if flags else None
        return _both(blocked if blocked.keys else None, more)
    return blocked if blocked.keys else None


def _no_records_fault(
    databases: Databases,
    entity: Entity,
    batch: Sequence[Delivery],
    answers: Mapping[str, Answer],
    refused: Mapping[str, Refusal],
    error: psycopg.Error,
) -> set[str]:
    """The keys of those refused that Neon refuses as it would any other: an operator's to fix, not an enricher's.

    A missing privilege, or a function of a trigger's that is gone, has codes that speak of no record; so has a policy
    of row level security, or a trigger, that refuses one record. They are told apart by what becomes of the others: of
    this batch, and of those since.
    """
    found = set()
    for delivery in batch:
        why = refused.get(delivery.key)
        if why is None or why.sqlstate == LOCKED:
            continue
        if why.table in _BOOKS and why.constraint != SWALLOWED:
            found.add(delivery.key)
            continue
        by_its_values = kind_of(error) is Kind.REFUSED and why.sqlstate == error.sqlstate
        if why.sqlstate[:2] not in NOBODYS or by_its_values or _applied(batch, answers, delivery.action):
            continue
        if delivery.action is Action.PROMOTE and len(databases.doubted) < _DOUBTS:
            promotions = databases.promotions[entity.name]
            if databases.doubted.setdefault((entity.name, delivery.key), promotions) < promotions:
                del databases.doubted[entity.name, delivery.key]
                continue
        found.add(delivery.key)
    return found


async def _make_flags(
    neon: Connection,
    entity: Entity,
    batch: Sequence[Delivery],
    refused: Mapping[str, Refusal],
    run: Run,
) -> None:
    """Make flags of refused records. Where the values do not even fit the invalid table, they stay in the
    workspace only, where the enricher sees them, and Neon keeps what it has. Where the invalid table does not
    take a flag on its own values, the flag stands in the ledger and the workspace only.
    """
    reasons = {reason: await explain_refusal(neon, entity, reason) for reason in set(refused.values())}
    unfit = [delivery for delivery in batch if delivery.action is not Action.PROMOTE]
    rows = await invalid.read(neon, entity, [delivery.key for delivery in unfit]) if unfit else {}
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
    await invalid.book(neon, entity, run.run_id, entries)
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
