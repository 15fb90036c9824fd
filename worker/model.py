"""The values that travel through the worker: what a record is, how it was judged, what became of it.

Pure data, no I/O. A batch is a list of these, and one is a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
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
    """What became of a record."""

    PROMOTED = "promoted"
    FLAGGED = "flagged"
    WAITING = "waiting"
    WITHDRAWN = "withdrawn"


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
