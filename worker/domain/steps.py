"""The values that stand for a record at each step of a delivery: claimed, judged, settled; and what each step adds.

Frozen: a step takes one and returns the next. A batch is a list of these; a batch of one is normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from worker.domain.model import Action, Data, NoteCode, Outcome, Receipt, State, Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say about one record: ``{field: message}`` each, and the first error's code."""

    errors: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    reason_code: str | None = None

    @property
    def passed(self) -> bool:
        """Whether no error blocks promotion."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class Conflict:
    """A field that the enricher and Neon both changed, and whose value was kept."""

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
    """What was carried of a workspace row, as recorded in the ledger. Times are UTC without zone."""

    record: Data | None
    """The data columns as they became."""
    version: datetime | None
    """The ``updated_at`` of the row as carried; None if the release did not keep it."""
    enriched_at: datetime | None
    """When the enricher set it to complete."""
    enriched_fields: Sequence[str] = ()
    """The fields whose value came from the enricher."""
    ledger_id: int | None = None
    """The ledger row that records it; None if it was not read."""

    def is_shown_by(self, receipt: Receipt | None) -> bool:
        """Whether a row with this receipt shows this outcome, or a later one."""
        return self.ledger_id is not None and receipt is not None and receipt.id >= self.ledger_id


@dataclass(frozen=True, slots=True)
class Answer:
    """Neon's answer to one delivery."""

    key: str
    state: State
    outcome: Outcome | None
    """The outcome; for ``GONE`` the last one in the ledger."""
    record: Data | None
    """The data columns as Neon has them now, or last had them."""
    errors: Mapping[str, str]
    warnings: Mapping[str, str]
    reason_code: str | None
    conflicts: tuple[Conflict, ...]
    waits_for: str | None
    note: str | None
    """The ledger's note, or what the record waits for, in words."""
    at: datetime | None
    """When Neon's row was last updated, or the outcome recorded in the ledger. UTC, without zone."""
    hash: str | None = None
    """MD5 of the data columns that Neon has now; None if it has none."""
    receipt: Receipt | None = None
    """The ledger row with the outcome."""
    in_master: bool = False
    """For ``GONE``: whether the master table has the record."""
    sent: Sent | None = None
    """For ``GONE``: what was last carried of the row; for a promoted record, what was promoted."""
    promoted_before: datetime | None = None
    """For ``GONE``: when the record was promoted before it came back and was carried again; UTC without zone."""
    altered: tuple[str, ...] = ()
    """For a promoted record: the fields whose value the master has otherwise than it was sent."""
    kept: bool = False
    """Whether only the workspace keeps the enricher's values: Neon's tables refuse them."""


def same_delivery(one: str | None, other: str) -> bool:
    """Whether two hashes are of the same delivery. One that was booked again, because its record came back, has a
    number after the hash.
    """
    return one is not None and one[:32] == other[:32]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A workspace row as it was claimed: a record with the enricher's edits."""

    key: str
    version: datetime | None
    """The workspace row's ``updated_at``; None if there is no row to acknowledge."""
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
    """When the record was carried before, as the workspace row shows; UTC without zone."""
    promoted_at: datetime | None = None
    """When the record was promoted before, as the workspace row shows; UTC without zone."""
    pulled: bool = True
    """Whether the row came from Neon or has ever shown Neon's data; false if it was added by hand."""
    receipt: Receipt | None = None
    """The outcome that the workspace row shows."""
    queued_versions: str | None = None
    """The versions in which the row was queued since, with commas; None if it was not, or no trigger kept them."""
    distinct: bool = False
    """Whether the enricher says that it is no duplicate."""
    in_neon: bool = False
    """Whether it was read from Neon, and carries nothing from a workspace row."""
    age: float | None = None
    """Seconds since its flip when it was claimed, by Supabase's clock; None if it waited for another record."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A claimed row, merged with Neon's side, normalised and judged."""

    claimed: Claimed
    merged: Merged
    expected: Data
    """Neon's data columns, as the merge used them."""
    expected_hash: str | None
    """Their MD5: a settlement takes effect only if Neon still has them."""
    verdict: Verdict
    action: Action
    note: NoteCode | None = None
    """For the ledger."""
    as_of: datetime | None = None
    """If the workspace was restored: the newer row version whose values it carries; UTC without zone."""
    neon_data: Data | None = None
    """Neon's data columns that it was merged with, where they had changed since the snapshot."""
    unacknowledged: bool = False
    """Whether they hold what the worker wrote there for the enricher, and his row was not told of."""
    not_carried: tuple[str, ...] = ()
    """The fields whose value does not reach the master as it was typed."""

    @property
    def key(self) -> str:
        """The record's key."""
        return self.claimed.key


@dataclass(frozen=True, slots=True)
class Settled:
    """A judged row, and Neon's answer."""

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
        """Whether the row leaves the queue: its record did not change meanwhile, and was not locked."""
        return self.answer.state not in (State.CHANGED, State.BUSY)
