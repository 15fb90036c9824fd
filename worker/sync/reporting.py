"""How flagged records are logged: a few one by one; of many, their number and some keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import structlog

from worker.domain.model import Outcome, OutcomeSummary

log = structlog.get_logger("worker.delivery")

FEW = 10
"""Up to this many flagged records of a batch get a line each."""
NAMED = 3
"""If there are more, this many keys are named for each reason."""


def report_flagged(entity: str, run_id: str, summaries: Iterable[OutcomeSummary]) -> dict[str, Any]:
    """Log which records of a batch were flagged.

    Returns:
        Fields for the batch's own line: ``reasons``, and if there are many, the ``keys`` of some.
    """
    flagged = [one for one in summaries if one.outcome == Outcome.FLAGGED]
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
