"""Postponed rows: skipped for a while and retried, so that what blocks them blocks no other row. In memory: another
process, or this one after a restart, finds them in the queue like all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from worker.domain.model import stamp

LIMIT = 10_000
"""At most this many rows of an entity are kept; any more come back with the next batch."""


class Cause(Enum):
    """Why a row is postponed: first and longest pause in seconds."""

    HELD = (0.5, 30.0)
    """Another transaction holds its record or its master key."""
    REPLY = (1.0, 60.0)
    """The workspace refuses the row's reply."""
    FAULT = (2.0, 30.0)
    """Neon refuses every record of the entity in the same way: the operator must fix it."""


@dataclass(slots=True)
class _Row:
    version: datetime | None
    cause: Cause
    text: str
    pause: float
    due: float
    reply: object


class Postponed:
    """The postponed rows of one entity; each is skipped until it is due or edited."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none.

        Args:
            clock: the monotonic clock, in seconds.
        """
        self._clock = clock
        self._rows: dict[str, _Row] = {}

    def put(self, cause: Cause, rows: Iterable[tuple[str, datetime | None]], text: str, reply: object = None) -> int:
        """Postpone these rows, for longer each time the same version of a row comes back.

        Args:
            cause: what blocks them.
            rows: key and version of each.
            text: the server's own reason.
            reply: what to write into the row.

        Returns:
            How many were postponed: there may be too many.
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
        """Stop skipping these rows."""
        for key in keys:
            self._rows.pop(key, None)

    def row_versions(self) -> list[str]:
        """The row versions that the claim skips: an edited row is another version."""
        return [f"{key}|{stamp(row.version) if row.version else ''}" for key, row in self._rows.items()]

    def due(self, limit: int, *, acknowledge: bool) -> list[str]:
        """The keys of rows that are due for a retry.

        Args:
            limit: maximum number of keys.
            acknowledge: return rows that only need an acknowledgement; else rows that must be settled.
        """
        now = self._clock()
        return [key for key, row in self._rows.items() if row.due <= now and (row.cause is Cause.REPLY) is acknowledge][
            :limit
        ]

    def replies(self, keys: Iterable[str]) -> list[object]:
        """The replies for these rows."""
        return [self._rows[key].reply for key in keys if key in self._rows]

    def next_due(self) -> float | None:
        """Seconds until the next row is due; None if there is none."""
        return max(0.0, min(row.due for row in self._rows.values()) - self._clock()) if self._rows else None

    def summary(self, cause: Cause) -> tuple[int, str]:
        """How many rows are postponed for this cause, and the latest reason."""
        texts = [row.text for row in self._rows.values() if row.cause is cause]
        return len(texts), texts[-1] if texts else ""
