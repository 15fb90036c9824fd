"""Decide what to do with a record: merge with Neon's side, normalise, judge. Pure, except for the log."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import structlog

from worker.domain.lineage import descends, is_edited, is_older
from worker.domain.merge import merge
from worker.domain.model import Action, Data, NoteCode, Outcome
from worker.domain.steps import Claimed, Judged, Merged, Verdict
from worker.entities.declaration import Entity
from worker.neon.ledger import NeonState

log = structlog.get_logger("worker.judging")


def judge(
    entity: Entity,
    claimed: Claimed,
    neon_data: Data,
    neon_hash: str | None,
    neon_at: datetime | None = None,
    action: Action = Action.PROMOTE,
    neon_state: NeonState | None = None,
) -> Judged:
    """Merge with Neon's side, normalise, judge, and decide what to do. Pure, except for the log.

    If the rules crash on a record, that record is flagged, and no other.

    Args:
        entity: whose record.
        claimed: the row.
        neon_data: Neon's data columns.
        neon_hash: their MD5, which the settlement compares.
        neon_at: when Neon's row last changed; UTC, without zone.
        action: ``PROMOTE`` or ``PUSH``.
        neon_state: what Neon knows about the record, if its data has changed since the snapshot; without it, the
            snapshot is what both sides last agreed on.
    """
    rules, as_of, unacknowledged = entity.rules, None, False
    try:
        agreed, values = claimed.snapshot, claimed.data
        if neon_state:
            agreed, values = agreed_on(entity, claimed, neon_data, neon_state), latest_values(claimed, neon_state)
            latest = neon_state.latest
            as_of = latest.row_version if latest and is_older(claimed, latest.sent) else None
            neon_at, unacknowledged = neon_state.moved_at(neon_at), bool(neon_state.written)
        merged = merge(agreed, values, neon_data, claimed.version, neon_at, rules.normalise)
        data = rules.normalise(rules.follow(merged.data, frozenset(merged.enriched_fields)))
        merged = Merged(data, merged.enriched_fields, merged.conflicts)
        verdict, note = rules.judge(merged.data), None
    except Exception as error:
        log.exception("rules.crashed", entity=entity.name, key=claimed.key, error=type(error).__name__)
        merged, note = Merged(neon_data), NoteCode.KEPT
        verdict = Verdict({"record": "the rules could not judge this record; tell the operator"}, {}, "RULES_CRASHED")
    carried = verdict.passed or (action is Action.PUSH and note is None)
    return Judged(
        claimed,
        merged,
        neon_data,
        neon_hash,
        verdict,
        action if carried else Action.FLAG,
        note,
        as_of,
        neon_data if neon_state else None,
        unacknowledged,
        entity.not_carried(claimed.data, merged.data),
    )


def latest_values(claimed: Claimed, neon_state: NeonState) -> Data:
    """The enricher's latest values: in a restored workspace, the row may be older than what was last carried."""
    latest = neon_state.latest
    if latest is None or not is_older(claimed, latest.sent):
        return claimed.data
    carried = latest.enriched_fields if latest.outcome is Outcome.WAITING else ()
    return {**claimed.data, **neon_state.written, **{n: v for n, v in (latest.record or {}).items() if n in carried}}


def agreed_on(entity: Entity, claimed: Claimed, neon_data: Data, neon_state: NeonState) -> Data:
    """What the enricher and Neon last agreed on: the snapshot, and what the worker wrote to Neon since then. If Neon
    was restored and has forgotten the outcome that the row shows, every difference counts as the enricher's.
    """
    if claimed.in_neon:
        return claimed.snapshot
    if neon_state.forgotten:
        return neon_data
    agreed = {**claimed.snapshot, **_written_by_worker(claimed, neon_state)}
    if neon_state.written:
        # A value that the enricher left alone, and was only normalised, is not the enricher's.
        edited = frozenset(name for name, value in claimed.data.items() if value != claimed.snapshot.get(name))
        normalised = entity.rules.normalise(entity.rules.follow(claimed.data, edited))
        for name, value in claimed.data.items():
            if value == claimed.snapshot.get(name) and normalised.get(name) == agreed.get(name):
                agreed[name] = value
    return agreed


def _written_by_worker(claimed: Claimed, neon_state: NeonState) -> Data:
    """What the worker wrote to Neon for a row. A row from a backup never held these values: a cell that nobody has
    edited since then does not count as a change back to the old value.
    """
    written, sent = neon_state.written, neon_state.latest.sent if neon_state.latest else None
    if sent is None or is_older(claimed, sent):
        return written
    return {
        name: value
        for name, value in written.items()
        # Not by the latest version alone: that may be of the row from the backup, too.
        if is_edited(claimed, name) or descends(claimed, replace(sent, version=neon_state.written_in[name]))
    }
