"""What a pull did. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class CountedPull:
    """A pull, by which the databases recognise each other."""

    number: int
    """Of the entity's pulls; after a restore it may be given again."""
    run_id: str | None
    """None where the release that counted it kept numbers alone, or there was none."""


NO_PULL = CountedPull(0, None)


@dataclass
class Pulled:
    """What a pull did."""

    run_id: str
    entity: str
    full: bool
    seen: int = 0
    new: int = 0
    changed: int = 0
    withdrawn: int = 0
    orphaned: int = 0
    refused: int = 0
    """Records that the workspace refused."""
    told: int = 0
    """Rows whose outcome was not acknowledged before, and now is."""
    restored: str | None = None
    """In words, if a database was restored to an earlier moment."""
    lost: list[str] = field(default_factory=list)
    """Records that a restored Neon no longer has: their rows are kept."""
    released: int = 0
    judged: int = 0
    promoted: int = 0
    """Of ``judged``."""
    totals: dict[str, int] = field(default_factory=dict)
    """``invalid`` and ``master`` → how many records Neon holds."""
    estimated: bool = False
    """Whether a total is the planner's estimate."""
    open_transactions: list[dict[str, str]] = field(default_factory=list)
    """Neon's open transactions, and since when. Their changes come with the first pull after they end."""
    keys: dict[str, str] = field(default_factory=dict)
    """Key → what would happen to it; dry run only."""

    @property
    def brought(self) -> bool:
        """Whether the workspace has got anything from Neon's records, beside outcomes."""
        return any((self.new, self.changed, self.withdrawn, self.orphaned, self.lost))

    @property
    def result(self) -> dict[str, Any]:
        """What the workspace stores about it, so that nobody has to ask Neon."""
        return {
            "full": self.full, "seen": self.seen, "new": self.new, "changed": self.changed,
            "withdrawn": self.withdrawn, "orphaned": self.orphaned, "released": self.released,
            **self.totals, "estimated": self.estimated,
        }  # fmt: skip
