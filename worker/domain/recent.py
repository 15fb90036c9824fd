"""The last hour in memory: outcomes in buckets of ten seconds, and the latest ones in full."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.domain.model import DUPLICATE_OF, OutcomeSummary

BUCKET_SECONDS = 10
BUCKETS = 3600 // BUCKET_SECONDS
LATEST = 100
LABEL_BYTES = 3
"""Of the label for an enricher: among a hundred of them, two have the same once in 3,000 times."""
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Bucket bounds of a delay, in seconds, as in the histogram of ``/metrics``."""
_KEY = re.compile(r"[0-9A-Za-z._-]{1,64}")
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def shown_key(key: str) -> str:
    """The key as a page may show it. A key that is not a valid id, such as free text in an import, is hidden."""
    return key if _KEY.fullmatch(key) else "(no valid key)"


def shown_code(code: str | None) -> str:
    """The reason code as a page may show it: without the other key that a duplicate names."""
    if code and code.startswith(f"{DUPLICATE_OF} "):
        return DUPLICATE_OF
    return code if code and _CODE.fullmatch(code) else "OTHER"


@dataclass
class _Bucket:
    start: int
    """By the monotonic clock: the wall clock may jump."""
    outcomes: Counter[str] = field(default_factory=Counter)
    delays: Counter[int] = field(default_factory=Counter)
    """Index of the bound → records."""


class Recent:
    """Recent outcomes. Memory is always bounded."""

    def __init__(self) -> None:
        self._buckets: deque[_Bucket] = deque(maxlen=BUCKETS)
        self._latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._key = secrets.token_bytes(32)
        """Kept nowhere: with a key that could be read, a list of e-mail addresses would be enough to name the labels.
        And the list that a label filters lives no longer than this process either."""

    def add(self, entity: str, outcomes: Sequence[OutcomeSummary]) -> list[dict[str, Any]]:
        """Remember outcomes; returns them as the page shows them, latest last."""
        now = time.time()
        start = int(time.monotonic()) // BUCKET_SECONDS * BUCKET_SECONDS
        if not self._buckets or self._buckets[-1].start != start:
            self._buckets.append(_Bucket(start))
        bucket = self._buckets[-1]
        at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        bucket.outcomes.update(one.outcome for one in outcomes)
        bucket.delays.update(
            bisect_left(BOUNDS, max(0.0, one.delay))
            for one in outcomes
            if one.delay is not None and one.outcome in ("promoted", "flagged")
        )
        shown = [
            {
                "at": at,
                "entity": entity,
                "key": shown_key(one.key),
                "outcome": one.outcome,
                "reason_code": shown_code(one.reason_code) if one.outcome == "flagged" else None,
                "fields": list(one.fields),
                "by": self._label(one.enriched_by),
                "seconds": None if one.delay is None else round(max(0.0, one.delay), 3),
            }
            for one in outcomes[-LATEST:]
        ]
        self._latest.extend(shown)
        return shown

    def _label(self, enriched_by: str | None) -> str | None:
        """A short name for who repaired a record, which tells the same from others and says nothing of them."""
        if not (name := (enriched_by or "").strip().lower()):
            return None
        return hashlib.blake2b(name.encode(errors="replace"), key=self._key, digest_size=LABEL_BYTES).hexdigest()

    def latest(self) -> list[dict[str, Any]]:
        """The latest outcomes, newest first."""
        return list(reversed(self._latest))

    def history(self) -> dict[str, Any]:
        """The last hour's buckets, without empty ones."""
        now = time.monotonic()
        # Converts a bucket's start to the wall clock's current time.
        offset = int(time.time() - now) // BUCKET_SECONDS * BUCKET_SECONDS
        return {
            "bucket_seconds": BUCKET_SECONDS,
            "bounds": list(BOUNDS),
            "buckets": [
                {"start": b.start + offset, "outcomes": dict(b.outcomes), "delays": sorted(b.delays.items())}
                for b in self._buckets
                if b.start >= now - BUCKETS * BUCKET_SECONDS
            ],
        }
