"""Every sentence that an enricher reads in ``sync_note``, and the ledger's notes. Programs go by the codes
(:class:`worker.domain.model.Code`, :class:`worker.domain.model.NoteCode`); nothing compares sentences. The messages of
the rules are in :mod:`worker.domain.rule_compiler`; the notes on what a record waits for are in its entity file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from worker.domain.model import NoteCode

QUEUED = "Queued: the record is on its way to be checked."
"""The trigger writes it too: ``sql/triggers/00_functions.sql``."""
RELEASED = "Queued: what the record waited for is there."
CORRECTED = "Queued: Neon has corrected the record."
CARRIED = "Carried to Neon, where it waits for re-validation."
PROMOTED = "Promoted to the master table."
NO_EDITS = (
    " Edits after promotion are not carried to the master table; `enrichment-worker undo` brings the record back."
)
UNDONE = "The promotion was taken back: check the record, and set complete again."
RETURNED_OFTEN = (
    " It has come back four times or more within 30 days: ask somebody who knows this record before you send it again,"
    " or leave it for last."
)
"""Follows what a flagged row reads."""
LEFT = (
    "This record left Neon's invalid table by another way. Your edit is kept here, but there is nothing to carry it to."
)
NEVER_PULLED = (
    "This record never came from Neon: new records come from there, with the pull. Nothing was carried; the row stays"
    " as you typed it."
)
LOST = (
    "Neon was restored to an earlier moment and does not have this record any more. What you typed is kept here; the"
    " operator is told. It goes on by itself when the record is there again."
)
GIVEN_UP = (
    "This record is no longer in the invalid table: Neon was restored to an earlier moment that did not have it."
    " What you typed is still here."
)


LEDGER_NOTES = {
    NoteCode.PUSHED: "waits for re-validation",
    NoteCode.KEPT: "the enricher's values are kept in the workspace only",
    NoteCode.PROMOTED_AGAIN: "promoted again: Neon was restored to an earlier moment and had forgotten it",
    NoteCode.FORGOTTEN: (
        "Neon was restored to an earlier moment and had forgotten what became of it: the enricher's values are kept"
    ),
}
"""The ledger's notes in words, for ``history``."""


_ALIKE = {
    "host": "has the host of {key}, which is in the master table",
    "email": "is the e-mail address of {key}, which is in the master table",
    "profile": "is the profile of {key}, which is in the master table",
    "text": "is that of {key}, which is in the master table",
}


def duplicate(form: str, *, held: bool) -> str:
    """What stands at a field by which the record is a duplicate; ``{key}`` stands for the other key.

    Args:
        form: the normal form in which both are equal.
        held: whether the record is returned for that.
    """
    then = (
        "correct it, or, if it is another one, write distinct in enrichment_notes; then set complete again"
        if held
        else "check whether both are the same"
    )
    return f"{_ALIKE[form]}: {then}"


def carried(dropped: Iterable[str]) -> str:
    """The record was carried to Neon, not judged yet; ``dropped`` are the fields whose value counts as missing."""
    fields = ", ".join(dropped)
    return CARRIED + (f" Not in Neon as typed: {fields}." if fields else "")


def promoted(not_carried: Iterable[str]) -> str:
    """The record was promoted; ``not_carried`` are the fields whose value is not in the master as it was typed."""
    fields = ", ".join(not_carried)
    return PROMOTED + (f" Not in the master as typed: {fields}." if fields else "")


def flagged(errors: object) -> str:
    """The record did not pass."""
    return f"Not promoted: {_fields(errors)}. See validation_errors, repair it, and set complete again."


def flagged_before_taken_back(errors: object) -> str:
    """The row was taken back while an earlier version of it was judged, and that version did not pass."""
    return f"As it was sent before, it was not promoted: {_fields(errors)}. What you have typed since is kept here."


def promoted_before(at: datetime | None, *, edited: bool, taken_back: bool) -> str:
    """The record was promoted before its row was acknowledged.

    Args:
        at: when; UTC without zone.
        edited: whether the row was edited after that.
        taken_back: whether it was taken back after that.
    """
    before = ", before you took it back" if taken_back else ""
    return f"This record was promoted on {day_of(at)}{before}." + (NO_EDITS if edited else "")


def invalid_again(kept: Iterable[str]) -> str:
    """The record turned invalid after its promotion; ``kept`` names the fields that are now empty in Neon."""
    note = "This record turned invalid again after it was promoted: see original_validation_errors."
    fields = ", ".join(kept)
    return note + (f" Neon has no {fields} now; the values from before are kept here." if fields else "")


def not_kept(fields: Iterable[str]) -> str:
    """Neon's newer value replaced the enricher's."""
    return f"Your change to {', '.join(fields)} was not kept: Neon has a newer value."


def gone_withdrawn(at: datetime | None, how: str | None) -> str:
    """Why it is gone: it was withdrawn; ``how`` it left, where the ledger says so."""
    return f"it was withdrawn on {day_of(at)} ({how or 'it left the invalid table by another way'})"


def gone_undone(at: datetime | None) -> str:
    """Why it is gone: its promotion was taken back, and then it left."""
    return f"its promotion was taken back on {day_of(at)}, and it left by another way after that"


def gone_promoted(at: datetime) -> str:
    """Why it is gone: it was promoted, came back, and left."""
    day = day_of(at)
    return f"it came back after its promotion on {day}, and left by another way; the master table has it as promoted"


GONE_TO_MASTER = "it is in the master table, where somebody else put it"
GONE_UNKNOWN = "it left by another way than this worker, which does not know why"


def gone(why: str) -> str:
    """The record to carry the row to is gone; ``why`` is a clause that says how it left."""
    return f"This record is no longer in the invalid table: {why}. Nothing was carried; your edit is still here."


def gone_after_undo(at: datetime | None) -> str:
    """The record left after its promotion was undone, before the row was acknowledged."""
    return f"This record is no longer in the invalid table: {gone_undone(at)}. What you typed is still here."


def does_not_fit(note: str | None, reason: str) -> str:
    """The workspace table refuses the values as they were carried; ``note`` is what the row shows anyway."""
    return f"{note} The values as they were carried do not fit this table: {reason}"


def day_of(at: datetime | None) -> str:
    """A time as enrichers read it."""
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "an earlier day"


def _fields(errors: object) -> str:
    return ", ".join(errors) if isinstance(errors, Mapping) and errors else "the record"
