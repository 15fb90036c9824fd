"""The values that the worker passes around: what a record is, how it was judged, its outcome.

Pure data, no I/O. A batch is a list of these; a batch of one is normal.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from secrets import token_hex
from typing import Any

Data = dict[str, Any]
"""A record's data columns as JSON values, keyed by column name."""


DUPLICATE_OF = "DUPLICATE_OF"
"""The reason code of a record that is held as a duplicate: this word, a blank, and the other key."""
MAX_REASON = 40
"""The most characters of a reason code: an owner's column may hold no more."""


class Status(StrEnum):
    """``enrichment_status`` of a workspace row."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    FAILED = "failed"


class Outcome(StrEnum):
    """What became of a record, as recorded in the ledger."""

    PROMOTED = "promoted"
    FLAGGED = "flagged"
    WAITING = "waiting"
    WITHDRAWN = "withdrawn"
    MERGED = "merged"
    """A pull resolved a conflict; the record itself did not move."""
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The ledger row by which one database recognises that the other has forgotten an outcome."""

    id: int
    hash: str | None


class Code(StrEnum):
    """``sync_code``: what a workspace row's ``sync_note`` says. Code compares this, never the note."""

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
    """Promoted before, and now in the invalid table again."""
    CONFLICT = "conflict"
    """Neon's newer value replaced the enricher's."""
    GONE = "gone"
    """It was set to complete, and there is no record to carry it to."""
    LEFT = "left"
    """The record left the invalid table while the row was edited."""
    LOST = "lost"
    """Neon was restored to a moment at which it did not have the record."""


class NoteCode(StrEnum):
    """``note_code``: what a ledger row's ``note`` says. Code compares this, never the note. The words are in
    :data:`worker.domain.messages.LEDGER_NOTES`.
    """

    PUSHED = "pushed"
    """``push`` carried it: its values are in the invalid table and wait to be judged."""
    WAITS = "waits"
    """It waits for another record."""
    KEPT = "kept"
    """Its values fit neither of Neon's tables: only the workspace keeps them."""
    STUCK = "stuck"
    """Not even a flag fits the invalid table: it is only in the ledger and the workspace."""
    PROMOTED_AGAIN = "promoted_again"
    """Neon was restored, and had forgotten the promotion."""
    FORGOTTEN = "forgotten"
    """Neon was restored, and had forgotten the outcome: the enricher's values are kept as edits."""


class Action(StrEnum):
    """What a settlement does with a record."""

    PROMOTE = "promote"
    FLAG = "flag"
    PUSH = "push"


class State(StrEnum):
    """What a settlement found."""

    APPLIED = "applied"
    REPEAT = "repeat"
    """The same delivery took effect before: the ledger has its outcome."""
    CHANGED = "changed"
    """Neon's row has changed since the snapshot: merge and settle again."""
    BUSY = "busy"
    """Another transaction holds the row's lock: retry later."""
    GONE = "gone"
    """No such record in the invalid table."""
    RESTORED = "restored"
    """Neon has forgotten the last outcome that the workspace shows: nothing was done."""


@dataclass(frozen=True, slots=True)
class OutcomeSummary:
    """One acknowledged outcome, without any of the record's data: safe for metrics and a public page."""

    key: str
    outcome: str
    """An :class:`Outcome`, or ``gone``."""
    reason_code: str | None = None
    fields: tuple[str, ...] = ()
    """The fields that did not pass."""
    delay: float | None = None
    """Seconds from the flip to the acknowledgement."""
    enriched_by: str | None = field(default=None, repr=False)
    """Who repaired it. It may be an e-mail address: it is never shown, a label is."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What must be in Neon before a record can be promoted; until then it waits."""

    waits_for: str
    """SQL over ``r``, the record: text that names what it waits for."""
    unmet: str
    """SQL over ``r``: true while the record must wait."""
    note: str
    """One sentence to the enricher; ``{key}`` stands for what it waits for, ``{about}`` for what ``about`` says."""
    about: str = "NULL"
    """SQL over ``r``: text that says more."""


def same_as(value: Any, other: Any) -> Any:
    """The value, or the other one if both are the same number: a NUMERIC is a text here, and a number in the JSON that
    Postgres makes of a row.
    """
    if isinstance(value, int | float | Decimal) and isinstance(other, str) and not isinstance(value, bool):
        with suppress(InvalidOperation):
            return other if Decimal(str(value)) == Decimal(other) else value
    return value


def utc(moment: datetime) -> datetime:
    """The same time in UTC, without zone. A time without zone is UTC already."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def moment(text: object) -> datetime | None:
    """A time from JSON, in UTC without zone; None if it is outside the calendar, such as infinity."""
    try:
        return utc(datetime.fromisoformat(str(text))) if text else None
    except ValueError:
        return None


def stamp(version: datetime) -> str:
    """A row's version as SQL writes it as text: 26 characters."""
    return version.isoformat(" ", "microseconds")


def utc_now() -> datetime:
    """The current time in UTC without zone, as the tables store it."""
    return datetime.now(UTC).replace(tzinfo=None)


def utc_text(at: datetime | None) -> str | None:
    """A time in UTC without zone as ISO 8601, with its zone."""
    return at.replace(tzinfo=UTC).isoformat() if at else None


def new_run_id(stage: str) -> str:
    """A run id: ``PULL-20251107-163209-b26be042``: stage, UTC time, eight random hex digits."""
    return f"{stage.upper()}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(4)}"
