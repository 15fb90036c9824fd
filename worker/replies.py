"""What the enricher is told in his row, in words. Pure."""

from __future__ import annotations

from worker.model import Data, Delivery, Outcome, State, Status
from worker.workspace import Reply

KEPT = "the enricher's values are kept in the workspace only"
"""The note of a record whose values fit neither of Neon's tables."""


def reply_to(delivery: Delivery, holds: Data | None = None) -> Reply | None:
    """What the workspace row is told; None where it stays in the queue for the next batch.

    Args:
        delivery: settled.
        holds: the row's own data columns, where they are others than the delivery's.
    """
    said = delivery.answer
    assert said is not None
    key, version = delivery.key, delivery.version
    if said.state in (State.CHANGED, State.BUSY):
        return None
    if said.state is State.GONE:
        return _gone(delivery)
    lost = "".join(
        f" Your change to {c.field} was not kept: Neon has a newer value." for c in said.conflicts if c.winner == "neon"
    )
    holds = delivery.data if holds is None else holds
    # Only what differs travels: mostly a website that was tidied, or nothing.
    data = {name: value for name, value in (said.record or {}).items() if name not in holds or holds[name] != value}
    match said.outcome:
        case Outcome.PROMOTED:
            return Reply(
                key, version, Status.COMPLETE, "Promoted to the master table." + lost, data,
                said.record, {}, said.warnings, pushed=True, promoted_at=said.at.isoformat() if said.at else None,
            )  # fmt: skip
        case Outcome.FLAGGED:
            return Reply(
                key, version, Status.FAILED,
                f"Not promoted: {_fields(said.errors)}. See validation_errors, repair it, and set complete again."
                + lost,
                None if said.note == KEPT else data, said.record, said.errors, said.warnings,
                said.reason_code, pushed=True,
            )  # fmt: skip
        case Outcome.WAITING if said.waits_for is not None:
            return Reply(
                key, version, Status.COMPLETE, said.note, errors={}, warnings=said.warnings,
                waiting_for=said.waits_for,
            )  # fmt: skip
        case _:
            return Reply(
                key, version, Status.COMPLETE, "Carried to Neon, where it waits for re-validation." + lost,
                data, said.record, pushed=True,
            )  # fmt: skip


def _fields(errors: object) -> str:
    return ", ".join(errors) if isinstance(errors, dict) and errors else "the record"


def _gone(delivery: Delivery) -> Reply:
    said = delivery.answer
    assert said is not None
    # Where retention took the ledger row, the workspace row itself still knows of its promotion.
    promoted_at = said.at if said.outcome is Outcome.PROMOTED else None if said.outcome else delivery.promoted_at
    at = promoted_at or said.at
    day = f"{at:%Y-%m-%d %H:%M} UTC" if at else "an earlier day"
    if promoted_at:
        # Whoever died before it could tell leaves a row without edits.
        edits = (
            " Edits after promotion are not carried to the master table;"
            " `enrichment-worker undo` brings the record back."
        )
        return Reply(
            delivery.key, delivery.version, Status.COMPLETE,
            f"This record was promoted on {day}." + (edits if delivery.data != delivery.snapshot else ""),
            errors={}, pushed=True, promoted_at=promoted_at.isoformat(),
        )  # fmt: skip
    why = (
        f"it was withdrawn on {day} ({said.note or 'it left the invalid table by another way'})"
        if said.outcome is Outcome.WITHDRAWN
        else "it left by another way than this worker, which does not know why"
    )
    return Reply(
        delivery.key, delivery.version, Status.FAILED,
        f"This record is no longer in the invalid table: {why}. Nothing was carried; your edit is still here.",
    )  # fmt: skip
