"""Supabase: how often records came back, by week and reason, as pulls have counted it in Neon's ledger."""

from __future__ import annotations

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.failures import Failures
from worker.entities.declaration import Entity
from worker.entities.worker_tables import FAILURES, POSITION
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, composed

_ADD = composed(statement("worker.supabase", "add_failures").format(failures=FAILURES.sql))
_CLEAR = sql.SQL(
    "DELETE FROM {} WHERE entity = %(entity)s AND (week < current_date - 7 * %(weeks)s OR week >= %(anew_from)s::date)"
).format(FAILURES.sql)
_FORGET_RECENT = sql.SQL("UPDATE {} SET recent = 0 WHERE entity = %(entity)s AND recent <> 0").format(FAILURES.sql)
_SAVE = sql.SQL("UPDATE {} SET failures_id = %(id)s, failures_run_id = %(run_id)s WHERE entity = %(entity)s").format(
    POSITION.sql
)


def save_failures(entity: Entity, counted: Failures, *, weeks: int) -> list[Step]:
    """The steps that add what was counted. The holder of the position must commit them: then they take effect once.

    Args:
        entity: whose.
        counted: since the last pull, or anew.
        weeks: older ones are removed.
    """
    rows = [
        {
            "week": one.week.isoformat(), "reason_code": one.reason_code, "field": one.field,
            "records": counted.records[one], "recent": counted.recent[one],
        }
        for one in counted.records.keys() | counted.recent.keys()
    ]  # fmt: skip
    named = {"entity": entity.name}
    return [
        (_CLEAR, {**named, "weeks": weeks, "anew_from": counted.anew_from if counted.anew else None}),
        (_FORGET_RECENT, named),
        (_ADD, {**named, "rows": Jsonb(rows)}),
        (_SAVE, {**named, "id": counted.upto.ledger_id, "run_id": counted.upto.run_id}),
    ]
