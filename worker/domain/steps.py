"""The values that a record is on its way, one after the other: claimed, judged, settled; and what each step adds.

Frozen: a step takes one and returns the next. A batch is a list of these, and one is a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from worker.domain.model import Action, Data, NoteCode, Outcome, Receipt, State, Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of one record: ``{field: message}`` each, and the first error's code."""

    errors: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    reason_code: str | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing blocks promotion."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class Conflict:
    """One field that the enricher and Neon both changed, and whose value was kept."""

    field: str
    enricher: Any
    neon: Any
    winner: str
    """``enricher`` or ``neon``."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A record merged by field."""

    data: Data
    enriched_fields: tuple[str, ...] = ()
    """Fields whose value came from the enricher."""
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """What was carried of a workspace row, as the ledger knows it. Times are UTC without zone."""

    record: Data | None
    """The data columns as they became."""
    version: datetime | None
    """The row's ``updated_at`` that went; None where no release kept it."""
    enriched_at: datetime | None
    """When the enricher had set it to complete."""
    enriched_fields: Sequence[str] = ()
    """The fields whose value was his."""
    ledger_id: int | None = None
    """The ledger row that knows it; None where that is not asked."""

    def is_told(self, receipt: Receipt | None) -> bool:
        """Whether a row with this receipt holds it, or what came of it later."""
        return self.ledger_id is not None and receipt is not None and receipt.id >= self.ledger_id


@dataclass(frozen=True, slots=True)
class Answer:
    """What Neon said of one delivery."""

    key: str
    state: State
    outcome: Outcome | None
    """The outcome; for ``GONE`` the last one the ledger knows."""
    record: Data | None
    """The data columns as Neon has them now, or had them last."""
    errors: Mapping[str, str]
    warnings: Mapping[str, str]
    reason_code: str | None
    conflicts: tuple[Conflict, ...]
    waits_for: str | None
    note: str | None
    """What the ledger says in words, or what it waits for."""
    at: datetime | None
    """UTC, without zone: when Neon's row was last updated, or the ledger's outcome recorded."""
    hash: str | None = None
    """MD5 of the data columns that Neon has now; None where it has none."""
    receipt: Receipt | None = None
    """The ledger row that says so."""
    in_master: bool = False
    """For ``GONE``: whether the master table has the record."""
    sent: Sent | None = None
    """For ``GONE``: what was carried of the row last; of a promoted one, what was promoted."""
    promoted_before: datetime | None = None
    """For ``GONE``: when the record was promoted, before it came back and was carried again; UTC without zone."""
    kept: bool = False
    """Whether the enricher's values are kept in the workspace only: Neon's tables do not take them."""


def same_delivery(one: str | None, other: str) -> bool:
    """Whether two hashes are of one delivery; one that is booked again, as its record came back, bears a number too."""
    return one is not None and one[:32] == other[:32]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A workspace row as it was claimed: what an enricher made of a record."""

    key: str
    version: datetime | None
    """The workspace row's ``updated_at``; None where there is no row to answer to."""
    data: Data
    """The data columns as the enricher left them."""
    snapshot: Data
    """The data columns as Neon and the workspace last agreed on them."""
    snapshot_hash: str | None
    delivery_hash: str
    enriched_by: str | None
    enriched_at: datetime | None
    status: str = Status.COMPLETE
    """The workspace row's status when it was claimed."""
    pushed_at: datetime | None = None
    """When the workspace row says that the record was carried before; UTC without zone."""
    promoted_at: datetime | None = None
    """When the workspace row says that the record was promoted before; UTC without zone."""
    pulled: bool = True
    """Whether the row came from Neon, or was ever told of it; not added by hand."""
    receipt: Receipt | None = None
    """What the workspace row was last told of."""
    queued_versions: str | None = None
    """The versions in which the row was queued since, with commas; None where it was not, or no trigger kept them."""
    in_neon: bool = False
    """Whether it begins as it lies in Neon, and carries nothing of a workspace row's."""
    age: float | None = None
    """Seconds since its flip when it was claimed, by Supabase's clock; None where it waited for another record."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A claimed row, merged with Neon's side, normalised and judged."""

    claimed: Claimed
    merged: Merged
    expected_hash: str | None
    """MD5 of Neon's data columns that the merge took as Neon's side."""
    verdict: Verdict
    action: Action
    note: NoteCode | None = None
    """For the ledger."""
    as_of: datetime | None = None
    """The newer version that it carries the values of, where the row is of a restored workspace; UTC without zone."""
    neon_data: Data | None = None
    """Neon's data columns that it was merged with, where they had changed since the snapshot."""
    written_for: bool = False
    """Whether they hold what the worker wrote there for the enricher, and his row was not told of."""
    not_carried: tuple[str, ...] = ()
    """The fields whose value does not reach the master as it was typed."""

    @property
    def key(self) -> str:
        """The record's key."""
        return self.claimed.key


@dataclass(frozen=True, slots=True)
class Settled:
    """A judged row, and what Neon said of it."""

    judged: Judged
    answer: Answer

    @property
    def key(self) -> str:
        """The record's key."""
        return self.judged.claimed.key

    @property
    def claimed(self) -> Claimed:
        """The row as it was claimed."""
        return self.judged.claimed

    @property
    def ended(self) -> bool:
        """Whether the row leaves the queue: its record did not move meanwhile, and nobody held it."""
        return self.answer.state not in (State.CHANGED, State.BUSY)
