"""What a workspace row is told of an outcome that it missed. Pure, and knows no rules of validation."""

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
from worker.sync.replies import differing, typed_since


def newer_version(row: Row, neon_state: NeonState) -> datetime | None:
    """The version of a row that Neon knows, where it is newer than the row itself: that is from a backup, and as new as
    the version when it holds the values of it.
    """
    said = (neon_state.latest, neon_state.carried)
    return max((v for one in said if one and is_older(row.claimed, one.sent) and (v := one.row_version)), default=None)


def newer_than(entity: Entity, row: Row, neon_state: NeonState, fresh: InvalidRow | None) -> Reply | Refresh | None:
    """What a row hears that was told what Neon has forgotten, where Neon knows of a newer version of it: both databases
    were restored. None where it knows nothing newer. Pure.
    """
    if not neon_state.forgotten or row.queued or (said := missed_outcome(row, neon_state)) is None:
        return None
    return tell(entity, row, neon_state, said, fresh)


def missed_outcome(row: Row, neon_state: NeonState) -> LedgerOutcome | None:
    """The latest that the ledger says, where the row was not told of it."""
    said, told = neon_state.latest, row.claimed.receipt
    if neon_state.forgotten:
        return said if newer_version(row, neon_state) else None
    return said if said and (told is None or said.receipt.id > told.id) else None


def was_undone_as_it_stands(row: Row, neon_state: NeonState) -> bool:
    """Whether a queued row was promoted as it is, which nobody told it, and that was taken back."""
    said, carried = neon_state.latest, neon_state.carried
    return bool(
        said
        and carried
        and said.outcome is Outcome.UNDONE
        and same_delivery(carried.receipt.hash, row.claimed.delivery_hash)
    )


def was_told_before(row: Row, said: LedgerOutcome) -> bool:
    """Whether a release without receipts told the row, or it came from Neon after that."""
    if said.outcome is Outcome.PROMOTED and row.claimed.receipt:
        return row.claimed.promoted_at == said.at  # by such a release, after one with receipts
    if said.outcome is Outcome.UNDONE and row.code == Code.UNDONE and not row.promoted:
        return True  # the same; its note stays until the row is set to complete
    if row.claimed.receipt:
        return False
    match said.outcome:
        case Outcome.PROMOTED:
            # Its record turned invalid again, and no row was there to be told of the promotion.
            return row.promoted or bool(row.pulled_at and row.pulled_at > said.at)
        case Outcome.FLAGGED:
            # Its note stays while an enricher works on the row, until he sets it to complete.
            told = row.claimed.status == Status.FAILED or row.code == Code.FLAGGED
            return told and row.claimed.snapshot == said.record
        case Outcome.UNDONE:
            # One that is as it was pulled came after that: it has nothing yet of what the enricher had typed.
            as_pulled = row.untouched and row.code is None
            return row.claimed.status == Status.PENDING and not row.promoted and not as_pulled
        case Outcome.WAITING:
            return said.pushed and row.code == Code.CARRIED
    return False


def tell(
    entity: Entity, row: Row, neon_state: NeonState, said: LedgerOutcome, fresh: InvalidRow | None
) -> Reply | Refresh | None:
    """What a row that was not told before hears of the latest that the ledger says of it; None: nothing. Pure."""
    if neon_state.forgotten:
        # The promotion that it was told of is on record nowhere.
        row = replace(row, claimed=replace(row.claimed, promoted_at=None))
    word = _tell(entity, row, neon_state, said, fresh)
    return replace(word, as_of=newer_version(row, neon_state), forget=neon_state.forgotten) if word else None


def _tell(
    entity: Entity, row: Row, neon_state: NeonState, said: LedgerOutcome, fresh: InvalidRow | None
) -> Reply | Refresh | None:
    match said.outcome:
        case Outcome.PROMOTED:
            return promoted(row, said)
        case Outcome.UNDONE:
            return _undone(row, neon_state, said, fresh)
        case Outcome.FLAGGED if fresh:
            return _flagged(entity, row, neon_state, said, fresh)
        case Outcome.WAITING if fresh:
            return _waiting(entity, row, neon_state, said, fresh)
        case Outcome.FLAGGED | Outcome.WAITING if not row.promoted:
            return _left(row, neon_state, said)
    return None


def with_receipt(row: Row, said: LedgerOutcome) -> Refresh:
    """Only the receipt is new. A promoted row has no place in the invalid table: the rest is left to the pull."""
    mine = row.claimed
    return Refresh(
        mine.key, None, mine.data, mine.snapshot, mine.status, None, None, None, reopened=False, note=None,
        receipt=said.receipt,
    )  # fmt: skip


def promoted(row: Row, said: LedgerOutcome) -> Reply:
    """The reply to a row whose record was promoted, and which was not told. Pure."""
    mine = row.claimed
    edited = typed_since(mine, said.sent) and not is_older(row.claimed, said.sent)
    taken_back = mine.status != Status.COMPLETE and not is_older(row.claimed, said.sent)
    note = (
        messages.promoted_before(said.at, edited=edited, taken_back=taken_back)
        if edited or taken_back
        else messages.PROMOTED
    )
    return Reply(
        mine.key, mine.version, Status.COMPLETE, note,
        differing(with_carried_values(mine, said.sent) if edited else said.record, mine.data),
        said.record, {}, said.warnings, pushed=True, promoted_at=said.at, code=Code.PROMOTED,
        receipt=said.receipt,
    )  # fmt: skip


def _flagged(
    entity: Entity, row: Row, neon_state: NeonState, said: LedgerOutcome, fresh: InvalidRow
) -> Reply | Refresh:
    mine = row.claimed
    errors = fresh.errors if fresh.still_invalid else said.errors
    if is_older(row.claimed, said.sent) or not row.taken_back:
        return Reply(
            mine.key, mine.version, Status.FAILED, messages.flagged(errors), differing(fresh.data, mine.data),
            fresh.data, errors, fresh.warnings if fresh.still_invalid else said.warnings, fresh.reason_code,
            pushed=True, code=Code.FLAGGED, receipt=said.receipt,
        )  # fmt: skip
    return replace(
        _merged(entity, row, neon_state, said, fresh),
        note=messages.flagged_before_taken_back(errors),
        code=Code.FLAGGED,
    )


def _waiting(
    entity: Entity, row: Row, neon_state: NeonState, said: LedgerOutcome, fresh: InvalidRow
) -> Reply | Refresh | None:
    if said.pushed:
        return _carried(entity, row, neon_state, said, fresh)
    if row.promoted:
        return None
    if is_older(row.claimed, said.sent):
        return _sent_again(row, said, fresh)
    return None if descends(row.claimed, said.sent) else _worked_on(row, said)


def _carried(
    entity: Entity, row: Row, neon_state: NeonState, said: LedgerOutcome, fresh: InvalidRow
) -> Reply | Refresh:
    mine = row.claimed
    if is_older(row.claimed, said.sent) and fresh.unjudged:
        return Reply(
            mine.key, mine.version, Status.COMPLETE, messages.CARRIED, differing(fresh.data, mine.data), fresh.data,
            pushed=True, code=Code.CARRIED, receipt=said.receipt,
        )  # fmt: skip
    return _merged(entity, row, neon_state, said, fresh)


def _merged(entity: Entity, row: Row, neon_state: NeonState, said: LedgerOutcome, fresh: InvalidRow) -> Refresh:
    """Neon's record in the row, and over it what the enricher has typed since it was carried."""
    mine = row.claimed
    base = agreed_on(entity, mine, fresh.data, neon_state)
    at = neon_state.moved_at(fresh.updated_at)
    merged = merge(base, mine.data, fresh.data, mine.version, at, entity.rules.normalise)
    return Refresh(
        mine.key, fresh.id, merged.data, fresh.data, mine.status, None, None, None, reopened=False, note=None,
        receipt=said.receipt,
    )  # fmt: skip


def _sent_again(row: Row, said: LedgerOutcome, fresh: InvalidRow) -> Refresh:
    """What was set to complete after the backup, and waited in Neon: it goes again, with the values that went."""
    mine = row.claimed
    return Refresh(
        mine.key, fresh.id, with_carried_values(mine, said.sent), mine.snapshot, Status.COMPLETE, None, None, None,
        reopened=True, note=messages.RELEASED, code=Code.RELEASED,
        enriched_by=said.enriched_by, enriched_at=said.enriched_at,
    )  # fmt: skip


def _worked_on(row: Row, said: LedgerOutcome) -> Refresh | None:
    """Somebody works on a row from a backup already: the values that went and waited come back beside what he typed."""
    mine = row.claimed
    data = with_carried_values(row.claimed, said.sent)
    if data == mine.data:
        return None
    return Refresh(
        mine.key, None, data, mine.snapshot, mine.status, None, None, None, reopened=False, note=None,
    )  # fmt: skip


def _left(row: Row, neon_state: NeonState, said: LedgerOutcome) -> Refresh | None:
    """The record left by another way after the backup: what the enricher had sent of it comes back."""
    mine = row.claimed
    data = with_carried_values(mine, said.sent)
    if data == mine.data:
        return None
    status = Status.FAILED if said.outcome is Outcome.FLAGGED else mine.status
    return Refresh(
        mine.key, None, data, mine.snapshot, status, None, None, None, reopened=neon_state.forgotten,
        note=messages.LEFT, code=Code.LEFT,
    )  # fmt: skip


def _undone(row: Row, neon_state: NeonState, said: LedgerOutcome, fresh: InvalidRow | None) -> Refresh:
    mine, carried = row.claimed, neon_state.carried
    # Of a backup that is older than the promotion, what was promoted comes back first.
    data = with_carried_values(row.claimed, carried.sent) if carried else mine.data
    if fresh is None:
        note = messages.gone_after_undo(said.at)
        return Refresh(
            mine.key, None, data, mine.snapshot, Status.FAILED, None, None, None, reopened=True, note=note,
            code=Code.GONE, receipt=said.receipt,
        )  # fmt: skip
    data = with_neon_values(data, (carried or said).sent, fresh.data)
    return Refresh(
        mine.key, fresh.id, data, fresh.data, Status.PENDING, fresh.errors, fresh.warnings, fresh.reason_code,
        reopened=True, note=messages.UNDONE, code=Code.UNDONE, receipt=said.receipt,
    )  # fmt: skip
