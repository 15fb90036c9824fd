"""How long to wait before the next try, and how often to log a failure that repeats."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

FIRST_PAUSE = 0.1


LONGEST_PAUSE = 30.0


def backoff(first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> Iterator[float]:
    """Pauses in seconds without end: the first at once, then growing, jittered so that workers part."""
    yield 0.0
    pause = first
    while True:
        yield random.uniform(pause / 2, pause)  # noqa: S311 - spreads load, keeps no secret
        pause = min(pause * 2, longest)


class LogThrottle:
    """Sums up a failure that repeats: it is told at once, and then once a minute with its number."""

    def __init__(self, every: float = 60.0) -> None:
        """Tell the same failure again after ``every`` seconds."""
        self._every = every
        self._last: tuple[str, float] | None = None
        self._times = 0

    def seen(self, reason: str) -> int | None:
        """How often it was seen since it was last told, this time included; None: do not tell it now."""
        now = time.monotonic()
        self._times += 1
        if self._last and self._last[0] == reason and now - self._last[1] < self._every:
            return None
        times, self._times, self._last = self._times, 0, (reason, now)
        return times
