"""What the log says of flagged records: each of a few by itself, of many how many there are and some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import structlog

from worker.domain.model import Outcome, OutcomeSummary

log = structlog.get_logger("worker.delivery")

FEW = 10
"""Flagged records of a batch that have a line each, at most."""
NAMED = 3
"""Keys that are named for each reason where they are more."""


def report_flagged(entity: str, run_id: str, told: Iterable[OutcomeSummary]) -> dict[str, Any]:
    """Say which records of a batch were flagged.

    Returns:
        What the batch's own line says of them: ``reasons``, and where they are many the ``keys`` of some.
    """
    flagged = [one for one in told if one.outcome == Outcome.FLAGGED]
    if not flagged:
        return {}
    reasons = Counter(one.reason_code or "OTHER" for one in flagged)
    if len(flagged) > FEW:
        keys: dict[str, list[str]] = {code: [] for code in reasons}
        for one in flagged:
            named = keys[one.reason_code or "OTHER"]
            if len(named) < NAMED:
                named.append(one.key)
        return {"reasons": dict(reasons), "keys": keys}
    for one in flagged:
        log.info(
            "record.flagged", entity=entity, run_id=run_id, key=one.key, reason_code=one.reason_code, fields=one.fields
        )
    return {"reasons": dict(reasons)}
