"""The states of the records: what ``status`` prints and ``/status.json`` returns. Queries Supabase only.

The counts are exact, and read only indexes as long as the tables are vacuumed: about 100 ms for a million rows. The
cost of the failure reasons grows with the number of failed rows. A caller that polls waits in proportion to the
duration of the last count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from psycopg import sql

from worker.domain.model import utc_text
from worker.domain.recent import shown_code, shown_key
from worker.entities.declaration import Entity, key_sql
from worker.entities.worker_tables import PAUSED, POSITION
from worker.operate.failures import by_week, read_step
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import begin, transact
from worker.supabase.acknowledgement import RETURNED_OFTEN
from worker.supabase.position import restored_in_words
from worker.supabase.queue import IS_WORK

COUNT_SECONDS = 10.0
"""A count that takes longer is cancelled."""
REASONS = 20
"""Reasons named for each entity, most frequent first."""
LATEST = 5
"""Keys named for each reason."""

_COUNT = statement("worker.operate", "count")

# A row that failed without being judged: its record is gone, or somebody set `failed` by hand.
NOT_CARRIED = "NOT_CARRIED"
_REASONS = statement("worker.operate", "reasons")


async def read_status(connection: Connection, entities: Iterable[Entity]) -> dict[str, Any]:
    """The states of these entities' records, as JSON values: only keys, counts and reason codes.

    ``invalid`` and ``master`` are what the last pull found in Neon, which is not queried.

    Raises:
        psycopg.Error: the count failed.
    """
    names = list(entities)
    counts = sql.SQL(" UNION ALL ").join(
        _COUNT.format(
            name=sql.Literal(entity.name),
            workspace=entity.workspace_table.sql,
            is_work=IS_WORK,
            position=POSITION.sql,
            paused=PAUSED.sql,
            returned_often=RETURNED_OFTEN,
        )
        for entity in names
    )
    reasons = sql.SQL(" UNION ALL ").join(
        _REASONS.format(
            name=sql.Literal(entity.name),
            **key_sql(entity),
            workspace=entity.workspace_table.sql,
            latest=sql.Literal(LATEST),
            fields=sql.Literal([*entity.columns, "record"]),
            limit=sql.Literal(REASONS),
        )
        for entity in names
    )
    opening = begin(read_only=True, repeatable=True, statement=COUNT_SECONDS)
    counted, explained, past = await transact(
        connection, (counts, None), (reasons, None), read_step(names), opening=opening
    )
    rows = {row["entity"]: row for row in counted.fetchall()}
    failures = _failures(explained.fetchall())
    at = max(row["at"] for row in rows.values())
    weeks = by_week(past.fetchall(), (at - timedelta(days=at.weekday())).date())
    return {
        "at": utc_text(at),
        "entities": {
            entity.name: {
                **_entity(entity, rows[entity.name], failures.get(entity.name, [])),
                "failures_by_week": weeks.get(entity.name, []),
            }
            for entity in names
        },
    }


def _entity(entity: Entity, row: dict[str, Any], failures: list[dict[str, Any]]) -> dict[str, Any]:
    found = row["last_result"] or {}
    oldest = row["oldest"]
    return {
        "plural": entity.plural,
        "total": row["total"],
        "counts": {
            "pending": row["pending"],
            "in_progress": row["in_progress"],
            # Queued rows, and those that `push` carried and that were not judged yet.
            "complete": row["open"] - row["waiting"] + row["carried"],
            "waiting": row["waiting"],
            "promoted": row["pushed"] - row["carried"],
            "failed": row["failed"],
        },
        "returned_often": row["returned_often"],
        "queue": row["queue"],
        "oldest_queued_at": utc_text(oldest),
        "oldest_queued_seconds": max(0.0, (row["at"] - oldest).total_seconds()) if oldest else None,
        "invalid": found.get("invalid"),
        "master": found.get("master"),
        "totals_estimated": bool(found.get("estimated")),
        "last_pull": {
            "at": utc_text(row["last_pull_at"]),
            "full_at": utc_text(row["last_full_at"]),
            "position": utc_text(row["position"]),
            "run_id": row["last_run_id"],
            "open_transactions": [
                {"transaction": one["name"], "since": one["since"]}
                for one in (row["open_transactions"] or {}).get("open", ())
            ],
            "full": found.get("full"),
            "seen": found.get("seen"),
            "new": found.get("new"),
            "changed": found.get("changed"),
            "withdrawn": found.get("withdrawn"),
        },
        "restored": _restored(row["restored"]),
        "paused_since": utc_text(row["paused_at"]),
        "failures": failures,
    }


def _restored(restored: Mapping[str, Any] | None) -> str | None:
    """In words, a restore that is not settled; None if there is none."""
    if not restored or restored.get("settled_at"):
        return None
    if not restored.get("lost") and restored.get("held"):
        return f"{restored_in_words(restored)}: somebody holds rows of the workspace; the next pull looks at them"
    return (
        f"{restored_in_words(restored)}: {restored.get('lost', 0)} records are not in Neon any more and are kept in the"
        " workspace; `enrichment-worker reconcile` lists and settles them"
    )


def _failures(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Reasons by entity, most frequent first, each with its fields and latest keys."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        code = shown_code(row["code"]) if row["carried"] else NOT_CARRIED
        reason = found.setdefault((row["entity"], code), {"reason_code": code, "fields": [], "records": 0, "keys": []})
        reason["records"] += row["records"]
        if row["carried"]:
            reason["fields"] = sorted({*reason["fields"], *(row["fields"] or [])})
        # A key appears once for each of its fields.
        keys = dict.fromkeys([*reason["keys"], *map(shown_key, row["keys"] or [])])
        reason["keys"] = list(keys)[:LATEST]
    reasons: dict[str, list[dict[str, Any]]] = {}
    for (entity, _), reason in sorted(found.items(), key=lambda item: (-item[1]["records"], item[0])):
        reasons.setdefault(entity, []).append(reason)
    return reasons
