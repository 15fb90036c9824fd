"""An entity's way between the two databases: its statements for either side, and what this process knows of its
records. Made once, when the databases are opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from worker.domain.model import Receipt
from worker.domain.postponed import Postponed
from worker.entities.declaration import Entity
from worker.neon.demands import Demands
from worker.neon.invalid import Invalid
from worker.neon.ledger import Ledger
from worker.neon.pulls import Pulls
from worker.neon.settlement import Settlement, settlement
from worker.supabase.queue import Queue
from worker.supabase.receipts import Receipts
from worker.supabase.release import Release
from worker.supabase.workspace import Workspace


@dataclass(eq=False, slots=True)
class Route:
    """What the steps need besides their records and a connection."""

    entity: Entity
    queue: Queue
    workspace: Workspace
    release: Release
    receipts: Receipts
    invalid: Invalid
    ledger: Ledger
    pulls: Pulls
    settlement: Settlement
    batch_size: int
    announces: bool
    """Whether outcomes and pulls are announced: an event is written with each."""
    awaited: list[Route] = field(default_factory=list)
    """Of the entities whose records may be waited for."""
    known: Receipt | None = None
    """The latest receipt in the workspace: a Neon that lacks this ledger row was restored."""
    postponed: Postponed = field(default_factory=Postponed)
    """The rows that are postponed."""
    unreleased: Postponed = field(default_factory=Postponed)
    """Promoted records whose waiting rows were locked, and are still to be released."""
    promotions: int = 0
    """Number of this process's batches in which a record was promoted."""
    doubted: dict[str, int] = field(default_factory=dict)
    """Key of a record that Neon refused as if it refused all → ``promotions`` at that time."""

    def batches(self, keys: Sequence[str]) -> list[Sequence[str]]:
        """The keys, ``batch_size`` at a time."""
        return [keys[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]

    def remember(self, receipts: Iterable[Receipt | None]) -> None:
        """Remember the latest receipt that the workspace has got."""
        shown = [receipt for receipt in (self.known, *receipts) if receipt]
        self.known = max(shown, key=lambda receipt: receipt.id, default=None)


def route_of(entity: Entity, how: Settlement | None = None, *, batch_size: int = 1, announces: bool = False) -> Route:
    """Compose all statements of an entity.

    Args:
        entity: the declaration.
        how: its settlement; without one, nothing can be promoted.
        batch_size: how many records are a batch.
        announces: whether outcomes and pulls are announced.
    """
    return Route(
        entity, Queue(entity), Workspace(entity), Release(entity), Receipts(entity), Invalid(entity), Ledger(entity),
        Pulls(entity), how or settlement(entity, (), Demands()), batch_size, announces,
    )  # fmt: skip
