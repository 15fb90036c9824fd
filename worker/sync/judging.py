"""What is to be done with a record: merge with Neon's side, normalise, judge. Pure, but for the log."""

from __future__ import annotations

from datetime import datetime

import structlog

from worker.domain.lineage import descends, is_older, is_typed
from worker.domain.merge import merge
from worker.domain.model import Action, Data, Delivery, Merged, Outcome, Verdict
from worker.entities.declaration import Entity
from worker.neon.ledger import Standing
from worker.sync.replies import KEPT

log = structlog.get_logger("worker.judging")


def judge(
    entity: Entity,
    delivery: Delivery,
    theirs: Data,
    theirs_hash: str | None,
    theirs_at: datetime | None = None,
    action: Action = Action.PROMOTE,
    standing: Standing | None = None,
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
            agreed, typed = agreed_on(entity, delivery, theirs, standing), last_word(delivery, standing)
            said = standing.latest
            delivery.as_of = said.row_version if said and is_older(delivery, said.sent) else None
            theirs_at = standing.moved_at(theirs_at)
        merged = merge(agreed, typed, theirs, delivery.version, theirs_at, rules.normalise)
        delivery.merged = Merged(rules.normalise(merged.data), merged.enriched_fields, merged.conflicts)
        delivery.verdict = rules.judge(delivery.merged.data)
    except Exception as error:
        log.exception("rules.crashed", entity=entity.name, key=delivery.key, error=type(error).__name__)
        delivery.merged, delivery.note = Merged(theirs), KEPT
        delivery.verdict = Verdict(
            {"record": "the rules could not judge this record; tell the operator"}, {}, "RULES_CRASHED"
        )
    carried = delivery.verdict.passed or (action is Action.PUSH and delivery.note != KEPT)
    delivery.action = action if carried else Action.FLAG


def last_word(delivery: Delivery, standing: Standing) -> Data:
    """What the enricher last wanted: in a restored workspace the row may be older than what was carried last."""
    said = standing.latest
    if said is None or not is_older(delivery, said.sent):
        return delivery.data
    his = said.enriched_fields if said.outcome is Outcome.WAITING else ()
    return {**delivery.data, **standing.written, **{n: v for n, v in (said.record or {}).items() if n in his}}


def agreed_on(entity: Entity, delivery: Delivery, theirs: Data, standing: Standing) -> Data:
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


def _written_for(delivery: Delivery, standing: Standing) -> Data:
    """What was written to Neon for a row. A row from a backup never held it: there, what nobody typed in since is no
    going back to what stood there before.
    """
    if standing.latest is None or is_older(delivery, standing.latest.sent) or descends(delivery, standing.latest.sent):
        return standing.written
    return {name: value for name, value in standing.written.items() if is_typed(delivery, name)}
