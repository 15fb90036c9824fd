"""Replies to workspace rows whose outcome was not acknowledged. Pure, and knows no rules of validation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from worker.domain import messages
from worker.domain.lineage import descends, is_older, with_carried_values, with_neon_values
from worker.domain.merge import merge
from worker.domain.model import Code, Outcome, Status
from worker.domain.steps import same_delivery
from worker.entities.declaration import Entity
from worker.neon.invalid import InvalidRow
from worker.neon.ledger import LedgerOutcome, NeonState
from worker.supabase.acknowledgement import Reply
from worker.supabase.queue import Row
from worker.supabase.workspace import Refresh
from worker.sync.judging import agreed_on
from worker.sync.replies import differing, was_edited_since


def newer_version(row: Row, neon_state: NeonState) -> datetime | None:
    """The version of a row that Neon knows, if it is newer than the row itself. Then the row is from a backup, and gets
    this version together with its values.
    """
    outcomes = (neon_state.latest, neon_state.carried)
    return max(
        (v for one in outcomes if one and is_older(row.claimed, one.sent) and (v := one.row_version)), default=None
    )


def newer_than(entity: Entity, row: Row, neon_state: NeonState, fresh: InvalidRow | None) -> Reply | Refresh | None:
    """The reply to a row whose shown outcome Neon has forgotten, if Neon knows a newer version of the row: then both
    databases were restored. None if Neon knows nothing newer. Pure.
    """
    if not neon_state.forgotten or row.undelivered or (latest := missed_outcome(row, neon_state)) is None:
        return None
    return reply_to_missed(entity, row, neon_state, latest, fresh)


def missed_outcome(row: Row, neon_state: NeonState) -> LedgerOutcome | None:
    """The latest outcome in the ledger, if the row does not show it."""
    latest, shown = neon_state.latest, row.claimed.receipt
    if neon_state.forgotten:
        return latest if newer_version(row, neon_state) else None
    return latest if latest and (shown is None or latest.receipt.id > shown.id) else None


def was_undone_in_this_version(row: Row, neon_state: NeonState) -> bool:
    """Whether a queued row was promoted in this version, was not acknowledged, and the promotion was undone."""
    latest, carried = neon_state.latest, neon_state.carried
    return bool(
        latest
        and carried
        and latest.outcome is Outcome.UNDONE
        and same_delivery(carried.receipt.hash, row.claimed.delivery_hash)
    )


def was_acknowledged_before(row: Row, latest: LedgerOutcome) -> bool:
    """Whether a release without receipts acknowledged the row, or it came from Neon after that."""
    if latest.outcome is Outcome.PROMOTED and row.claimed.receipt:
        return row.claimed.promoted_at == latest.at  # by such a release, after one with receipts
    if latest.outcome is Outcome.UNDONE and row.code == Code.UNDONE and not row.promoted:
        return True  # the same; its note stays until the row is set to complete
    if row.claimed.receipt:
        return False
    match latest.outcome:
        case Outcome.PROMOTED:
            # Its record turned invalid again, and there was no row to acknowledge the promotion.
            return row.promoted or bool(row.pulled_at and row.pulled_at > latest.at)
        case Outcome.FLAGGED:
            # Its note stays while an enricher works on the row, until it is set to complete.
            shows_flag = row.claimed.status == Status.FAILED or row.code == Code.FLAGGED
            return shows_flag and row.claimed.snapshot == latest.record
        case Outcome.UNDONE:
            # A row that is as it was pulled came after that: it lacks what the enricher had typed.
            as_pulled = row.untouched and row.code is None
            return row.claimed.status == Status.PENDING and not row.promoted and not as_pulled
        case Outcome.WAITING:
            return latest.pushed and row.code == Code.CARRIED
    return False


def reply_to_missed(
    entity: Entity, row: Row, neon_state: NeonState, latest: LedgerOutcome, fresh: InvalidRow | None
) -> Reply | Refresh | None:
    """The reply to a row with the latest outcome in the ledger, which it does not show; None for no reply. Pure."""
    if neon_state.forgotten:
        # The promotion that it shows is nowhere on record.
        row = replace(row, claimed=replace(row.claimed, promoted_at=None))
    change = _change_for(entity, row, neon_state, latest, fresh)
    return replace(change, as_of=newer_version(row, neon_state), forget=neon_state.forgotten) if change else None


def _change_for(
    entity: Entity, row: Row, neon_state: NeonState, latest: LedgerOutcome, fresh: InvalidRow | None
) -> Reply | Refresh | None:
    match latest.outcome:
        case Outcome.PROMOTED:
            return reply_to_promoted(row, latest)
        case Outcome.UNDONE:
            return _undone(row, neon_state, latest, fresh)
        case Outcome.FLAGGED if fresh:
            return _flagged(entity, row, neon_state, latest, fresh)
        case Outcome.WAITING if fresh:
            return _waiting(entity, row, neon_state, latest, fresh)
        case Outcome.FLAGGED | Outcome.WAITING if not row.promoted:
            return _left(row, neon_state, latest)
    return None


def with_receipt(row: Row, latest: LedgerOutcome) -> Refresh:
    """Only the receipt is new. A promoted row does not belong in the invalid table: the pull does the rest."""
    claimed = row.claimed
    return Refresh(
        claimed.key, None, claimed.data, claimed.snapshot, claimed.status, None, None, None, reopened=False, note=None,
        receipt=latest.receipt,
    )  # fmt: skip


def reply_to_promoted(row: Row, latest: LedgerOutcome) -> Reply:
    """The reply to a row whose record was promoted, and which was not acknowledged. Pure."""
    claimed = row.claimed
    edited = was_edited_since(claimed, latest.sent) and not is_older(row.claimed, latest.sent)
    taken_back = claimed.status != Status.COMPLETE and not is_older(row.claimed, latest.sent)
    note = (
        messages.promoted_before(latest.at, edited=edited, taken_back=taken_back)
        if edited or taken_back
        else messages.PROMOTED
    )
    return Reply(
        claimed.key, claimed.version, Status.COMPLETE, note,
        differing(with_carried_values(claimed, latest.sent) if edited else latest.record, claimed.data),
        latest.record, {}, latest.warnings, pushed=True, promoted_at=latest.at, code=Code.PROMOTED,
        receipt=latest.receipt,
    )  # fmt: skip


def _flagged(
    entity: Entity, row: Row, neon_state: NeonState, latest: LedgerOutcome, fresh: InvalidRow
) -> Reply | Refresh:
    claimed = row.claimed
    at_work = row.taken_back and not is_older(claimed, latest.sent)
    if latest.neon_id not in (None, fresh.id):
        # It left after that and came again: what was said of it is about the one that left.
        merged = _merged(entity, row, neon_state, latest, fresh)
        if at_work:
            return merged
        return replace(
            merged, data=fresh.data, status=Status.PENDING, original_errors=fresh.errors,
            original_warnings=fresh.warnings, reason_code=fresh.reason_code, reopened=True, cleared=True,
        )  # fmt: skip
    errors = fresh.errors if fresh.still_invalid else latest.errors
    if not at_work:
        return Reply(
            claimed.key, claimed.version, Status.FAILED, messages.flagged(errors), differing(fresh.data, claimed.data),
            fresh.data, errors, fresh.warnings if fresh.still_invalid else latest.warnings, fresh.reason_code,
            pushed=True, code=Code.FLAGGED, receipt=latest.receipt,
        )  # fmt: skip
    return replace(
        _merged(entity, row, neon_state, latest, fresh),
        note=messages.flagged_before_taken_back(errors),
        code=Code.FLAGGED,
    )


def _waiting(
    entity: Entity, row: Row, neon_state: NeonState, latest: LedgerOutcome, fresh: InvalidRow
) -> Reply | Refresh | None:
    if latest.pushed:
        return _carried(entity, row, neon_state, latest, fresh)
    if row.promoted:
        return None
    if is_older(row.claimed, latest.sent):
        return _sent_again(row, latest, fresh)
    return None if descends(row.claimed, latest.sent) else _worked_on(row, latest)


def _carried(
    entity: Entity, row: Row, neon_state: NeonState, latest: LedgerOutcome, fresh: InvalidRow
) -> Reply | Refresh:
    claimed = row.claimed
    if is_older(row.claimed, latest.sent) and fresh.unjudged:
        return Reply(
            claimed.key, claimed.version, Status.COMPLETE, messages.CARRIED, differing(fresh.data, claimed.data),
            fresh.data, pushed=True, code=Code.CARRIED, receipt=latest.receipt,
        )  # fmt: skip
    return _merged(entity, row, neon_state, latest, fresh)


def _merged(entity: Entity, row: Row, neon_state: NeonState, latest: LedgerOutcome, fresh: InvalidRow) -> Refresh:
    """Neon's record in the row, with what the enricher has typed since it was carried."""
    claimed = row.claimed
    base = agreed_on(entity, claimed, fresh.data, neon_state)
    at = neon_state.moved_at(fresh.updated_at)
    merged = merge(base, claimed.data, fresh.data, claimed.version, at, entity.rules.normalise)
    return Refresh(
        claimed.key, fresh.id, merged.data, fresh.data, claimed.status, None, None, None, reopened=False, note=None,
        receipt=latest.receipt,
    )  # fmt: skip


def _sent_again(row: Row, latest: LedgerOutcome, fresh: InvalidRow) -> Refresh:
    """Queue a row again that was set to complete after the backup and whose record waits, with the carried values."""
    claimed = row.claimed
    return Refresh(
        claimed.key, fresh.id, with_carried_values(claimed, latest.sent), claimed.snapshot, Status.COMPLETE, None, None,
        None, reopened=True, note=messages.RELEASED, code=Code.RELEASED,
        enriched_by=latest.enriched_by, enriched_at=latest.enriched_at,
    )  # fmt: skip


def _worked_on(row: Row, latest: LedgerOutcome) -> Refresh | None:
    """An enricher already works on a row from a backup: the carried values that wait come back beside the new edits."""
    claimed = row.claimed
    data = with_carried_values(row.claimed, latest.sent)
    if data == claimed.data:
        return None
    return Refresh(
        claimed.key, None, data, claimed.snapshot, claimed.status, None, None, None, reopened=False, note=None,
    )  # fmt: skip


def _left(row: Row, neon_state: NeonState, latest: LedgerOutcome) -> Refresh | None:
    """The record left by another way after the backup: what the enricher had sent comes back."""
    claimed = row.claimed
    data = with_carried_values(claimed, latest.sent)
    if data == claimed.data:
        return None
    status = Status.FAILED if latest.outcome is Outcome.FLAGGED else claimed.status
    return Refresh(
        claimed.key, None, data, claimed.snapshot, status, None, None, None, reopened=neon_state.forgotten,
        note=messages.LEFT, code=Code.LEFT,
    )  # fmt: skip


def _undone(row: Row, neon_state: NeonState, latest: LedgerOutcome, fresh: InvalidRow | None) -> Refresh:
    claimed, carried = row.claimed, neon_state.carried
    # If the row is from a backup older than the promotion, what was promoted comes back first.
    data = with_carried_values(row.claimed, carried.sent) if carried else claimed.data
    if fresh is None:
        note = messages.gone_after_undo(latest.at)
        return Refresh(
            claimed.key, None, data, claimed.snapshot, Status.FAILED, None, None, None, reopened=True, note=note,
            code=Code.GONE, receipt=latest.receipt,
        )  # fmt: skip
    data = with_neon_values(data, (carried or latest).sent, fresh.data)
    return Refresh(
        claimed.key, fresh.id, data, fresh.data, Status.PENDING, fresh.errors, fresh.warnings, fresh.reason_code,
        reopened=True, note=messages.UNDONE, code=Code.UNDONE, receipt=latest.receipt,
    )  # fmt: skip
