"""Neon: settle a batch that was refused as a whole, part by part. Knows no rules."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from worker.domain.model import Receipt, moment
from worker.domain.steps import Answer, Judged
from worker.neon.answers import answers_of
from worker.neon.books import PLANNER, Run
from worker.neon.catalogue import SWALLOWED, Refusal
from worker.neon.demands import asking
from worker.neon.settle import CHECK_AT_ONCE, locks, parameters
from worker.neon.settlement import Settlement
from worker.postgres.connection import Connection
from worker.postgres.errors import LOCKED, TRANSIENT_CLASSES, TRANSIENT_CODES
from worker.postgres.statements import load
from worker.postgres.transaction import begin, transact

BISECT_SECONDS = 20.0
LOCK_SECONDS = 0.05
"""How long each part waits for a lock."""
MOST_WAITS = 64
"""Wait for at most this many locks; the rest of the batch then counts as locked."""
_BISECT = load("worker.neon", "settle_by_bisection")
_PASS_RECORDS = sql.SQL("SELECT set_config('enrichment_worker.records', %(records)s::jsonb::text, true)")
_READ_ANSWERS = sql.SQL("SELECT jsonb_array_elements(current_setting('enrichment_worker.answers')::jsonb) AS answer")


async def settle_by_bisection(
    connection: Connection,
    how: Settlement,
    batch: Sequence[Judged],
    run: Run,
    known: Receipt | None = None,
) -> tuple[dict[str, Answer], dict[str, Refusal]]:
    """Settle the records of a batch that was refused as a whole, except those that cause the refusal.

    Returns:
        The answers, and for each record that the database refuses on its own, why; by key. A record that another
        transaction's lock blocks has the SQLSTATE ``55P03``.

    Raises:
        Restored, psycopg.Error: as :func:`settle`.
    """
    params = parameters(how, batch, run, known)
    records = params.pop("records")
    literals = {name: sql.Literal(value).as_string(connection) for name, value in params.items()}
    asked = asking(how.demands, batch)
    words = {
        "settle": (how.settle_flags if asked else how.settle).as_string(connection)
        % {**literals, "records": "the_records"},
        "classes": ", ".join(map(_quoted, TRANSIENT_CLASSES)),
        "codes": ", ".join(map(_quoted, TRANSIENT_CODES)),
        "locked": _quoted(LOCKED),
        "swallowed": _quoted(SWALLOWED),
        "most_waits": MOST_WAITS,
    }
    *_, taken = await transact(
        connection,
        *(run.rehearsal or ()),
        CHECK_AT_ONCE,
        locks(how, batch),
        *asked,
        (_PASS_RECORDS, {"records": records}),
        (sql.SQL(_BISECT % words), None),
        (_READ_ANSWERS, None),
        # Parts of a batch come back often.
        opening=begin(statement=BISECT_SECONDS, lock=LOCK_SECONDS, planner=PLANNER, planned_once=True),
        rehearse=run.rehearsal is not None,
        seconds=BISECT_SECONDS + 5.0,
    )
    rows = [row["answer"] for row in taken.fetchall()]
    refused = {row["key"]: Refusal(**row["refused"]) for row in rows if "refused" in row}
    answered = (
        row | {name: moment(row[name]) for name in ("at", "row_version", "enriched_at", "promoted_before")}
        for row in rows
        if "refused" not in row
    )
    return answers_of(how.entity, batch, answered), refused


def _quoted(text: str) -> str:
    return f"'{text}'"
