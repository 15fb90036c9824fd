"""Progress of long work. Knows nothing of terminals."""

from __future__ import annotations


class Progress:
    """Long work reports its progress here. This class ignores it; the commands have one that draws a bar."""

    shown = False
    """Whether progress is displayed, so that counting the work beforehand is worth its cost."""

    def expect(self, records: int) -> None:
        """Report how many more records are to come."""

    def advance(self, records: int) -> None:
        """Report that this many more records are done."""


NO_PROGRESS = Progress()


class Heartbeat(Progress):
    """Passes on that work goes on, but not how much is done: unexpected records move no bar."""

    def __init__(self, progress: Progress) -> None:
        """Report to ``progress``."""
        self._progress = progress

    def advance(self, records: int) -> None:
        """Report that a batch is done."""
        self._progress.advance(0)
