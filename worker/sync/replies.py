"""What a settled record's row is told. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from worker.domain import messages
from worker.domain.lineage import is_edited, is_older, with_carried_values, with_neon_values
from worker.domain.model import Code, Data, Outcome, Receipt, State, Status
from worker.domain.steps import Claimed, Sent, Settled
from worker.supabase.acknowledgement import Reply


def reply_to(settled: Settled, holds: Data | None = None) -> Reply | None:
    """What the workspace row is told; None where it stays in the queue for the next batch.

    Args:
        settled: the row.
        holds: the row's own data columns, where it was not claimed with them.
    """
    claimed, judged, said = settled.claimed, settled.judged, settled.answer
    key, version = claimed.key, claimed.version
    if not settled.ended:
        return None
    if said.state is State.GONE:
        return _gone(settled)
    lost = "".join(" " + messages.not_kept([c.field]) for c in said.conflicts if c.winner == "neon")
    # Only what differs travels: mostly a website that was tidied, or nothing.
    data = differing(said.record, claimed.data if holds is None else holds)
    receipt = said.receipt
    # A row of a backup hears what became of a newer version of it.
    newer = said.sent if said.sent and is_older(claimed, said.sent) else None
    as_of = newer.version if newer else judged.as_of
    match said.outcome:
        case Outcome.PROMOTED:
            return Reply(
                key, version, Status.COMPLETE, messages.PROMOTED + lost, data,
                said.record, {}, said.warnings, pushed=True, promoted_at=said.at,
                code=Code.PROMOTED, receipt=receipt, as_of=as_of,
            )  # fmt: skip
        case Outcome.FLAGGED:
            return Reply(
                key, version, Status.FAILED, messages.flagged(said.errors) + lost,
                None if said.kept else data, said.record, said.errors, said.warnings,
                said.reason_code, pushed=True, code=Code.FLAGGED, receipt=receipt,
                as_of=as_of,
            )  # fmt: skip
        case Outcome.UNDONE:
            # It was promoted as it stands, and that was taken back before the row was told of either. A row of a backup
            # from before the promotion lacks what was promoted.
            back = with_neon_values(newer.record or {}, newer, said.record or {}) if newer else {}
            return Reply(
                key, version, Status.PENDING, messages.UNDONE, differing(back, claimed.data) or None, said.record,
                {}, {}, code=Code.UNDONE, receipt=receipt, as_of=as_of,
            )  # fmt: skip
        case Outcome.WAITING if said.waits_for is not None:
            # It left nothing in Neon that could be forgotten: no receipt. What Neon has changed meanwhile shows in the
            # row, else each pull would take it for news. What was written there for the enricher can be forgotten.
            known = receipt if judged.unacknowledged else None
            follows = judged.neon_data is not None and not claimed.in_neon and bool(known) == judged.unacknowledged
            return Reply(
                key, version, Status.COMPLETE, (said.note or "") + lost, data if follows else None,
                judged.neon_data if follows else None, errors={}, warnings=said.warnings, waiting_for=said.waits_for,
                code=Code.WAITING, receipt=known if follows else None, as_of=as_of,
            )  # fmt: skip
        case _:
            return Reply(
                key, version, Status.COMPLETE, messages.CARRIED + lost, data, said.record, pushed=True,
                code=Code.CARRIED, receipt=receipt, as_of=as_of,
            )  # fmt: skip


def differing(record: Data | None, holds: Data) -> Data:
    """The values of a record that a row does not hold."""
    return {name: value for name, value in (record or {}).items() if name not in holds or holds[name] != value}


def typed_since(row: Claimed, sent: Sent) -> bool:
    """Whether a row holds what an enricher typed after its record was carried: also where he went back to what stood
    there before. What he had not sent, and is as the row last had it from Neon, is Neon's own to change.
    """
    return any(
        value != (sent.record or {}).get(name) and (name in sent.enriched_fields or is_edited(row, name))
        for name, value in row.data.items()
    )


def _gone(settled: Settled) -> Reply:
    claimed, said = settled.claimed, settled.answer
    key, version, sent = claimed.key, claimed.version, said.sent
    older = sent is not None and is_older(claimed, sent)
    # What had reached Neon comes back to a row of a backup, which is as new then as that was.
    back = differing(with_carried_values(claimed, sent), claimed.data) if sent else {}
    as_of = sent.version if sent and older else None
    if said.outcome is Outcome.PROMOTED:
        # Whoever died before it could tell leaves a row without edits, and a backup one that is older than what went.
        edited = not older and sent is not None and typed_since(claimed, sent)
        reply = _promoted(claimed, said.at, edited=edited, record=said.record, receipt=said.receipt)
        return replace(reply, data=back if edited else reply.data, as_of=as_of)
    if said.outcome is None and sent is None and claimed.promoted_at:
        # Retention took the ledger row; the workspace row itself still knows of its promotion.
        return _promoted(claimed, claimed.promoted_at, edited=claimed.data != claimed.snapshot, receipt=said.receipt)
    if said.outcome is None and claimed.pushed_at and said.in_master:
        # The guide's scripts carried and promoted it.
        return adopted(claimed, said.receipt)
    if said.outcome is Outcome.WITHDRAWN:
        how = said.note or "it left the invalid table by another way"
        why = f"it was withdrawn on {messages.day_of(said.at)} ({how})"
    elif said.outcome is Outcome.UNDONE:
        why = f"its promotion was taken back on {messages.day_of(said.at)}, and it left by another way after that"
    elif said.in_master and said.promoted_before:
        day = messages.day_of(said.promoted_before)
        why = f"it came back after its promotion on {day}, and left by another way; the master table has it as promoted"
    elif said.in_master:
        why = "it is in the master table, where somebody else put it"
    elif not claimed.pulled:
        return Reply(
            key, version, Status.FAILED, messages.NEVER_PULLED, code=Code.GONE,
        )  # fmt: skip
    else:
        why = "it left by another way than this worker, which does not know why"
    return Reply(
        key, version, Status.FAILED,
        messages.gone(why),
        back or None, code=Code.GONE, as_of=as_of,
    )  # fmt: skip


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
