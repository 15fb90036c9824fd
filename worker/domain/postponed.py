"""Rows that are passed over for a while, so that what holds them up holds up nobody else. In memory: another process,
or this one after its next start, finds them in the queue as it finds all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from worker.domain.model import stamp

LIMIT = 10_000
"""Rows of an entity that are kept at most; further ones are met again with the next batch."""


class Cause(Enum):
    """What holds a row up: first and longest pause in seconds."""

    HELD = (0.5, 30.0)
    """Somebody else's transaction holds its record or its master key."""
    REPLY = (1.0, 60.0)
    """The workspace refuses what the row is to be told."""
    FAULT = (2.0, 30.0)
    """Neon refuses every record of the entity the same way: an operator has to fix it."""


@dataclass(slots=True)
class _Row:
    version: datetime | None
    cause: Cause
    text: str
    pause: float
    due: float
    reply: object


class Postponed:
    """The rows of one entity that are passed over, each until it is due or edited."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none.

        Args:
            clock: the monotonic clock, in seconds.
        """
        self._clock = clock
        self._rows: dict[str, _Row] = {}

    def put(self, cause: Cause, rows: Iterable[tuple[str, datetime | None]], text: str, reply: object = None) -> int:
        """Pass these rows over, for longer each time the same version of a row is met.

        Args:
            cause: what holds them up.
            rows: key and version of each.
            text: the server's own reason.
            reply: what the row is to be told.

        Returns:
            How many were put aside: there may be too many.
        """
        first, longest = cause.value
        put = 0
        for key, version in rows:
            old = self._rows.get(key)
            again = old is not None and old.cause is cause and old.version == version
            if old is None and len(self._rows) >= LIMIT:
                continue
            pause = min(old.pause * 2, longest) if old and again else first
            self._rows[key] = _Row(version, cause, text, pause, self._clock() + pause, reply)
            put += 1
        return put

    def forget(self, keys: Iterable[str]) -> None:
        """Pass these rows over no longer."""
        for key in keys:
            self._rows.pop(key, None)

    def row_versions(self) -> list[str]:
        """What the claim knows the rows by that it is to pass over: an edited one is another."""
        return [f"{key}|{stamp(row.version) if row.version else ''}" for key, row in self._rows.items()]

    def due(self, limit: int, *, acknowledge: bool) -> list[str]:
        """The keys of rows that are to be tried again by now.

        Args:
            limit: keys at most.
            acknowledge: those whose row has only to be acknowledged; else those that have to be settled.
        """
        now = self._clock()
        return [key for key, row in self._rows.items() if row.due <= now and (row.cause is Cause.REPLY) is acknowledge][
            :limit
        ]

    def replies(self, keys: Iterable[str]) -> list[object]:
        """What these rows are to be told."""
        return [self._rows[key].reply for key in keys if key in self._rows]

    def next_due(self) -> float | None:
        """Seconds until the next row is to be tried again; None where there is none."""
        return max(0.0, min(row.due for row in self._rows.values()) - self._clock()) if self._rows else None

    def summary(self, cause: Cause) -> tuple[int, str]:
        """How many rows are passed over for this, and the latest reason."""
        texts = [row.text for row in self._rows.values() if row.cause is cause]
        return len(texts), texts[-1] if texts else ""
