"""How far long work has come, for whoever watches. Knows nothing of terminals."""

from __future__ import annotations


class Progress:
    """OutcomeSummary by long work how far it is. This one tells nobody; the commands have one that draws a bar."""

    shown = False
    """Whether somebody looks, so that counting beforehand what is to be done is worth its cost."""

    def expect(self, records: int) -> None:
        """Say how many more records are to come."""

    def advance(self, records: int) -> None:
        """Say that so many more are done."""


NOBODY = Progress()


class Pulse(Progress):
    """Passes on that work goes on, not how much is done: what nobody had expected moves no bar."""

    def __init__(self, heart: Progress) -> None:
        """Tell ``heart``."""
        self._heart = heart

    def advance(self, records: int) -> None:
        """Say that a batch is done."""
        self._heart.advance(0)
