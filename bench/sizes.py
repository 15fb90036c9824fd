"""How large the scenarios are."""

from __future__ import annotations

from dataclasses import dataclass, replace

FAR = 0.020
"""Seconds added to each direction of both links."""
LONG = 30.0
"""Seconds of a turn after which a contestant has no further one in its scenario."""
FAR_PATIENCE = 400.0
"""Seconds until a backlog over far links must be done."""
DEFAULT_BATCH, SMALL_BATCH = 500, 50
"""Records of a worker's batch: the default, and the least that the guide names."""


@dataclass(frozen=True)
class Sizes:
    """How large the scenarios are."""

    flips: int = 250
    far_flips: int = 25
    counted_flips: int = 20
    backlogs: tuple[int, ...] = (1_000, 20_000, 100_000)
    far_backlogs: tuple[int, int] = (2_000, 20_000)
    """With the queues, whose jobs take a round trip each, and without them."""
    workers_backlog: int = 10_000
    pull: int = 1_000_000
    few: int = 1_000
    pulls_of_ten: int = 10
    starts: int = 20
    memory: tuple[int, int] = (10_000, 1_000_000)
    crowd: tuple[int, int] = (1_000, 1_000_000)
    """Rows of the workspace; with the second, a tenth waits, and as many are queued for the other entity."""
    waiting: tuple[int, int] = (1_000, 1_000_000)
    duplicates: int = 10_000
    flip: int = 100_000
    """Rows that one statement sets to complete."""
    flips_of_many: int = 6
    idle_seconds: float = 60.0
    worker_batches: tuple[int, ...] = (SMALL_BATCH, DEFAULT_BATCH)

    def scaled(self, factor: float) -> Sizes:
        """These sizes times ``factor``, none below what can be measured at all."""

        def at(size: int, least: int) -> int:
            return min(size, max(least, int(size * factor)))

        def pair(sizes: tuple[int, int], least: int, more: int) -> tuple[int, int]:
            return at(sizes[0], least), at(sizes[1], more)

        return replace(
            self,
            flips=at(self.flips, 5), far_flips=at(self.far_flips, 3), counted_flips=at(self.counted_flips, 4),
            backlogs=tuple(sorted({at(size, 200) for size in self.backlogs})),
            far_backlogs=pair(self.far_backlogs, 60, 600), workers_backlog=at(self.workers_backlog, 600),
            pull=at(self.pull, 2_000), few=at(self.few, 200), pulls_of_ten=at(self.pulls_of_ten, 3),
            starts=at(self.starts, 3), memory=pair(self.memory, 200, 2_000), crowd=pair(self.crowd, 200, 2_000),
            waiting=pair(self.waiting, 200, 2_000), duplicates=at(self.duplicates, 600), flip=at(self.flip, 200),
            flips_of_many=at(self.flips_of_many, 2), idle_seconds=max(20.0, self.idle_seconds * factor),
            worker_batches=self.worker_batches[: 1 if factor < 0.1 else 2],
        )  # fmt: skip
