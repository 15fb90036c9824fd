"""The reply to a settled record's row. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from worker.domain import messages
from worker.domain.lineage import is_edited, is_older, with_carried_values, with_neon_values
from worker.domain.model import Code, Data, Outcome, Receipt, State, Status
from worker.domain.steps import Claimed, Sent, Settled
from worker.supabase.acknowledgement import Reply


def reply_to(settled: Settled, holds: Data | None = None) -> Reply | None:
    """The reply to a workspace row; None if it stays in the queue for the next batch.

    Args:
        settled: the row.
        holds: the row's own data columns, if it was not claimed with them.
    """
    claimed, judged, answer = settled.claimed, settled.judged, settled.answer
    key, version = claimed.key, claimed.version
    if not settled.ended:
        return None
    if answer.state is State.GONE:
        return _gone(settled)
    lost = ""
    if answer.conflicts:
        lost = "".join(" " + messages.not_kept([c.field]) for c in answer.conflicts if c.winner == "neon")
    # Only differences are sent: usually a normalised website, or nothing.
    data = differing(answer.record, claimed.data if holds is None else holds)
    receipt = answer.receipt
    # A row from a backup gets the outcome of a newer version of it.
    newer = answer.sent if answer.sent and is_older(claimed, answer.sent) else None
    as_of = newer.version if newer else judged.as_of
    match answer.outcome:
        case Outcome.PROMOTED:
            note = messages.PROMOTED
            if judged.not_carried or answer.altered:
                note = messages.promoted(dict.fromkeys([*judged.not_carried, *answer.altered]))
            return Reply(
                key, version, Status.COMPLETE, note + lost, data,
                answer.record, {}, answer.warnings, pushed=True, promoted_at=answer.at,
                code=Code.PROMOTED, receipt=receipt, as_of=as_of,
            )  # fmt: skip
        case Outcome.FLAGGED:
            return Reply(
                key, version, Status.FAILED, messages.flagged(answer.errors) + lost,
                None if answer.kept else data, answer.record, answer.errors, answer.warnings,
                answer.reason_code, pushed=True, code=Code.FLAGGED, receipt=receipt,
                as_of=as_of,
            )  # fmt: skip
        case Outcome.UNDONE:
            # It was promoted in this version, and the promotion undone, before either was acknowledged. A row from a
            # backup from before the promotion lacks what was promoted.
            back = with_neon_values(newer.record or {}, newer, answer.record or {}) if newer else {}
            return Reply(
                key, version, Status.PENDING, messages.UNDONE, differing(back, claimed.data) or None, answer.record,
                {}, {}, code=Code.UNDONE, receipt=receipt, as_of=as_of,
            )  # fmt: skip
        case Outcome.WAITING if answer.waits_for is not None:
            # It left nothing in Neon that could be forgotten: no receipt. The row shows what Neon has changed since,
            # else each pull would find it changed. What was written to Neon for the enricher can be forgotten.
            known = receipt if judged.unacknowledged else None
            follows = judged.neon_data is not None and not claimed.in_neon and bool(known) == judged.unacknowledged
            return Reply(
                key, version, Status.COMPLETE, (answer.note or "") + lost, data if follows else None,
                judged.neon_data if follows else None, errors={}, warnings=answer.warnings,
                waiting_for=answer.waits_for, code=Code.WAITING, receipt=known if follows else None, as_of=as_of,
            )  # fmt: skip
        case _:
            # A phone that the master will not take is in Neon, and is named when the record is promoted.
            dropped = [name for name in judged.not_carried if (answer.record or {}).get(name) is None]
            return Reply(
                key, version, Status.COMPLETE, messages.carried(dropped) + lost, data, answer.record, pushed=True,
                code=Code.CARRIED, receipt=receipt, as_of=as_of,
            )  # fmt: skip


def differing(record: Data | None, holds: Data) -> Data:
    """The values of a record that differ from the row's."""
    return {name: value for name, value in (record or {}).items() if name not in holds or holds[name] != value}


def was_edited_since(row: Claimed, sent: Sent) -> bool:
    """Whether a row holds edits from after its record was carried, including a return to an older value. A value that
    the enricher had not sent, and that is as last received from Neon, is no edit: Neon may change it.
    """
    return any(
        value != (sent.record or {}).get(name) and (name in sent.enriched_fields or is_edited(row, name))
        for name, value in row.data.items()
    )


def _gone(settled: Settled) -> Reply:
    claimed, answer = settled.claimed, settled.answer
    key, version, sent = claimed.key, claimed.version, answer.sent
    older = sent is not None and is_older(claimed, sent)
    # A row from a backup gets back what had reached Neon, and the version of that.
    back = differing(with_carried_values(claimed, sent), claimed.data) if sent else {}
    as_of = sent.version if sent and older else None
    if answer.outcome is Outcome.PROMOTED:
        # No edits if a worker died before it could acknowledge; a row from a backup is older than what was carried.
        edited = not older and sent is not None and was_edited_since(claimed, sent)
        reply = _promoted(claimed, answer.at, edited=edited, record=answer.record, receipt=answer.receipt)
        return replace(reply, data=back if edited else reply.data, as_of=as_of)
    if answer.outcome is None and sent is None and claimed.promoted_at:
        # Retention removed the ledger row; the workspace row itself still shows its promotion.
        return _promoted(claimed, claimed.promoted_at, edited=claimed.data != claimed.snapshot, receipt=answer.receipt)
    if answer.outcome is None and claimed.pushed_at and answer.in_master:
        # The guide's scripts carried and promoted it.
        return adopted(claimed, answer.receipt)
    if answer.outcome is Outcome.WITHDRAWN:
        why = messages.gone_withdrawn(answer.at, answer.note)
    elif answer.outcome is Outcome.UNDONE:
        why = messages.gone_undone(answer.at)
    elif answer.in_master and answer.promoted_before:
        why = messages.gone_promoted(answer.promoted_before)
    elif answer.in_master:
        why = messages.GONE_TO_MASTER
    elif not claimed.pulled:
        return Reply(key, version, Status.FAILED, messages.NEVER_PULLED, code=Code.GONE)
    else:
        why = messages.GONE_UNKNOWN
    return Reply(key, version, Status.FAILED, messages.gone(why), back or None, code=Code.GONE, as_of=as_of)


def adopted(claimed: Claimed, receipt: Receipt | None = None) -> Reply:
    """The reply to a row whose record the guide's scripts had carried and promoted."""
    return _promoted(claimed, claimed.pushed_at, edited=False, receipt=receipt)


def _promoted(
    claimed: Claimed, at: datetime | None, *, edited: bool, record: Data | None = None, receipt: Receipt | None = None
) -> Reply:
    """The reply to a row whose record had been promoted before: the master stays as it is."""
    data = differing(record, claimed.data) if record and not edited else None
    note = messages.promoted_before(at, edited=edited, taken_back=False)
    return Reply(
        claimed.key, claimed.version, Status.COMPLETE, note, data, record, {}, pushed=True,
        promoted_at=at, code=Code.PROMOTED, receipt=receipt,
    )  # fmt: skip
