"""How often records came back, by week and reason. Pure data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date


@dataclass(frozen=True, slots=True)
class Counted:
    """The ledger row up to which the failures are counted for good. Its run id tells it from another history's."""

    ledger_id: int | None
    run_id: str | None


NOTHING_COUNTED = Counted(None, None)


@dataclass(frozen=True, slots=True)
class Reason:
    """What is counted."""

    week: date
    """Its Monday, UTC."""
    reason_code: str
    field: str
    """A field that was wrong; empty: the records themselves."""


@dataclass
class Failures:
    """What a pull has counted in the ledger."""

    upto: Counted = NOTHING_COUNTED
    records: Counter[Reason] = field(default_factory=Counter)
    """Counted for good: added to what was counted before."""
    recent: Counter[Reason] = field(default_factory=Counter)
    """Of the last minutes, in which a settlement may still commit: counted anew by the next pull."""
    anew: bool = False
    """Whether the ledger was counted from its beginning: it lacks the row up to which it was counted before."""
    anew_from: date | None = None
    """If so, the first week of which the ledger has everything; None if it has no week in full."""
