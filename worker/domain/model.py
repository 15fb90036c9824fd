"""The values that travel through the worker: what a record is, how it was judged, what became of it.

Pure data, no I/O. A batch is a list of these, and one is a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from secrets import token_hex
from typing import Any

Data = dict[str, Any]
"""A record's data columns as JSON values, keyed by column name."""


class Status(StrEnum):
    """``enrichment_status`` of a workspace row."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    FAILED = "failed"


class Outcome(StrEnum):
    """What became of a record, as the ledger has it."""

    PROMOTED = "promoted"
    FLAGGED = "flagged"
    WAITING = "waiting"
    WITHDRAWN = "withdrawn"
    MERGED = "merged"
    """A pull settled a conflict; the record itself went nowhere."""
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The ledger row by which one database recognises that the other has forgotten an outcome."""

    id: int
    hash: str | None


class Code(StrEnum):
    """What a workspace row's ``sync_note`` says, as ``sync_code`` has it: what rows are told apart by."""

    QUEUED = "queued"
    """Set by the trigger."""
    RELEASED = "released"
    """Queued again: what it waited for is there."""
    WAITING = "waiting"
    CARRIED = "carried"
    """In Neon by ``push``; not judged yet."""
    PROMOTED = "promoted"
    FLAGGED = "flagged"
    UNDONE = "undone"
    INVALID_AGAIN = "invalid_again"
    """Promoted before, and in the invalid table again."""
    CONFLICT = "conflict"
    """Neon's newer value was taken over the enricher's."""
    GONE = "gone"
    """It was set to complete, and there is no record to carry it to."""
    LEFT = "left"
    """The record left the invalid table while the row was edited."""
    LOST = "lost"
    """Neon was restored to a moment at which it did not have the record."""


class NoteCode(StrEnum):
    """What a ledger row's ``note`` says, as ``note_code`` has it: what rows are told apart by. In words, it is in
    :data:`worker.domain.messages.LEDGER_NOTES`.
    """

    PUSHED = "pushed"
    """``push`` carried it: its values are in the invalid table, and wait to be judged."""
    WAITS = "waits"
    """It waits for another record."""
    KEPT = "kept"
    """Its values fit neither of Neon's tables: they are kept in the workspace only."""
    STUCK = "stuck"
    """Not even a flag fits the invalid table: it stands in the ledger and the workspace."""
    PROMOTED_AGAIN = "promoted_again"
    """Neon was restored, and had forgotten the promotion."""
    FORGOTTEN = "forgotten"
    """Neon was restored, and had forgotten what became of it: the enricher's values are kept as his edits."""


class Action(StrEnum):
    """What a settlement is asked to do with a record."""

    PROMOTE = "promote"
    FLAG = "flag"
    PUSH = "push"


class State(StrEnum):
    """What a settlement found."""

    APPLIED = "applied"
    REPEAT = "repeat"
    """This very delivery took effect before: its answer is on record."""
    CHANGED = "changed"
    """Neon's row moved on since the snapshot: merge and ask again."""
    BUSY = "busy"
    """Somebody else holds the row's lock: later."""
    GONE = "gone"
    """No such record in the invalid table."""
    RESTORED = "restored"
    """Neon has forgotten what the workspace was told last: nothing was done."""


@dataclass(frozen=True, slots=True)
class OutcomeSummary:
    """What one enricher was told, without a word of the record itself: fit for metrics and a public page."""

    key: str
    outcome: str
    """An :class:`Outcome`, or ``gone``."""
    reason_code: str | None = None
    fields: tuple[str, ...] = ()
    """The fields that did not pass."""
    delay: float | None = None
    """Seconds from the flip to the acknowledgement."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What must be in Neon before a record can be promoted; until then the record waits."""

    waits_for: str
    """SQL over ``r``, the record: text that names what it waits for."""
    unmet: str
    """SQL over ``r``: true while it must wait."""
    note: str
    """One sentence to the enricher; ``{key}`` stands for what it waits for, ``{about}`` for what ``about`` says."""
    about: str = "NULL"
    """SQL over ``r``: text that says more."""


def utc(moment: datetime) -> datetime:
    """The same moment in UTC without zone; without one, it is UTC already."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def moment(text: object) -> datetime | None:
    """The moment that JSON tells, in UTC without zone; None where it is off the calendar, as infinity is."""
    try:
        return utc(datetime.fromisoformat(str(text))) if text else None
    except ValueError:
        return None


def stamp(version: datetime) -> str:
    """A row's version as SQL writes it where it is told by its text: 26 characters."""
    return version.isoformat(" ", "microseconds")


def utc_now() -> datetime:
    """The present moment in UTC without zone, as the tables store it."""
    return datetime.now(UTC).replace(tzinfo=None)


def new_run_id(stage: str) -> str:
    """A run id: ``PULL-20251107-163209-b26be042``: stage, UTC time, eight random hex digits."""
    return f"{stage.upper()}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(4)}"
