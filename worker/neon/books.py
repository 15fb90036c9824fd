"""Neon: the ledger rows that no settlement writes, and the log of runs."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from worker.domain.model import Data, NoteCode, Outcome
from worker.domain.steps import Conflict
from worker.entities.worker_tables import LEDGER, LOG
from worker.postgres.statements import statement
from worker.postgres.transaction import Step

EXECUTED_BY = "enrichment-worker"
# The planner expects one row from most CTEs. Left alone, it joins 500 with 500 rows by a nested loop, which is 250,000
# comparisons per join, and scans small tables. So tables are looked up by index (ANY), and CTEs are joined by hash.
PLANNER = ("enable_nestloop", "enable_seqscan")
LOCK_SECONDS = 0.1
"""How long a settlement waits for a lock, such as on a master key that another transaction has inserted."""


@dataclass(frozen=True)
class Run:
    """The run that a batch is booked under."""

    run_id: str
    source: str
    target: str
    notes: str | None = None
    rehearsal: tuple[Step, ...] | None = None
    """Not None: nothing is kept, and the database only says what would become of it, after these steps."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger row that no settlement writes."""

    key: str
    outcome: Outcome
    hash: str
    record: Data | None
    conflicts: tuple[Conflict, ...] = ()
    note: str | None = None
    note_code: NoteCode | None = None
    reason_code: str | None = None


ONCE = sql.SQL("ON CONFLICT (entity, key, delivery_hash) WHERE outcome IN ('promoted', 'flagged') DO NOTHING")
"""A delivery's final outcome is booked once. Only that is a repeat; a ledger id that is taken is not."""


ONCE_EACH = sql.SQL(
    "ON CONFLICT (entity, key, delivery_hash, outcome) WHERE outcome IN ('waiting', 'withdrawn', 'merged', 'undone')"
    " DO NOTHING"
)
"""The same for outcomes that may be followed by another."""


BOOK = statement("worker.neon", "book").format(
    once=ONCE,
    once_each=ONCE_EACH,
    insert=sql.SQL(
        "INSERT INTO {ledger} (run_id, entity, key, outcome, delivery_hash, record, conflicts, note, note_code,"
        " reason_code)"
        " SELECT %(run_id)s, %(entity)s, d.key, d.outcome, md5(d.hash), d.record, d.conflicts, d.note,"
        " d.note_code, d.reason_code FROM d"
    ).format(ledger=LEDGER.sql),
)
"""Writes entries; existing ones stay as they are."""


def log_run(run: Run, total: int, passed: int, failed: int) -> Step:
    """The step that writes a run's row in ``public.shq_validation_log``, or updates its totals."""
    return (
        sql.SQL(
            "INSERT INTO {} (validation_run_id, source_table, target_table,"
            " total_records, passed_records, failed_records, executed_by, executed_at, notes)"
            " VALUES (%(run_id)s, %(source)s, %(target)s, %(total)s, %(passed)s, %(failed)s, %(by)s, now(),"
            " %(notes)s) ON CONFLICT (validation_run_id) DO UPDATE SET total_records = EXCLUDED.total_records,"
            " passed_records = EXCLUDED.passed_records, failed_records = EXCLUDED.failed_records"
        ).format(LOG.sql),
        {
            "run_id": run.run_id,
            "source": run.source,
            "target": run.target,
            "notes": run.notes,
            "total": total,
            "passed": passed,
            "failed": failed,
            "by": EXECUTED_BY,
        },
    )
