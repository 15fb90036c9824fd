"""How often records came back, week by week, as JSON values. Pure, but for the statement that reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from psycopg import sql

from worker.domain.recent import shown_code
from worker.entities.declaration import Entity
from worker.entities.worker_tables import FAILURES
from worker.postgres.statements import statement
from worker.postgres.transaction import Step

WEEKS = 12
"""Weeks that are shown, the present one last."""
REASONS = 20
"""Reasons named for each entity, most frequent first; all others are one."""
OTHERS = "OTHER"

_READ = statement("worker.operate", "failures")


@dataclass
class _Reason:
    records: dict[date, int] = field(default_factory=lambda: defaultdict(int))
    fields: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def total(self) -> int:
        return sum(self.records.values())

    def add(self, other: _Reason) -> None:
        for week, records in other.records.items():
            self.records[week] += records
        for name, records in other.fields.items():
            self.fields[name] += records


def read_step(entities: Iterable[Entity]) -> Step:
    """The step whose rows :func:`by_week` takes."""
    names = sql.Literal([entity.name for entity in entities])
    return _READ.format(failures=FAILURES.sql, entities=names, weeks=sql.Literal(WEEKS)), None


def by_week(rows: Iterable[Mapping[str, Any]], this_week: date) -> dict[str, list[dict[str, Any]]]:
    """Entity → its reasons, most frequent first, with the records of each week.

    Args:
        rows: what was counted.
        this_week: the Monday of the present week, UTC.
    """
    weeks = [this_week - timedelta(weeks=ago) for ago in reversed(range(WEEKS))]
    found: dict[str, dict[str, _Reason]] = defaultdict(lambda: defaultdict(_Reason))
    for row in rows:
        reason = found[row["entity"]][shown_code(row["code"])]
        if row["field"]:
            reason.fields[row["field"]] += int(row["records"])
        else:
            reason.records[row["week"]] += int(row["records"])
    return {
        entity: [
            {
                "reason_code": code,
                "fields": sorted(reason.fields, key=lambda name: (-reason.fields[name], name)),
                "weeks": {week.isoformat(): reason.records.get(week, 0) for week in weeks},
            }
            for code, reason in _most_frequent(reasons)
        ]
        for entity, reasons in found.items()
    }


def _most_frequent(reasons: dict[str, _Reason]) -> list[tuple[str, _Reason]]:
    ordered = sorted(reasons.items(), key=lambda item: (item[0] == OTHERS, -item[1].total, item[0]))
    if len(ordered) <= REASONS:
        return ordered
    rest = _Reason()
    for _, reason in ordered[REASONS - 1 :]:
        rest.add(reason)
    return [*ordered[: REASONS - 1], (OTHERS, rest)]
