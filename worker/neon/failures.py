"""Neon: how often records came back, counted in the ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date

from psycopg import sql

from worker.domain.failures import Counted, Failures, Reason
from worker.entities.declaration import Entity
from worker.entities.worker_tables import LEDGER, RECEIPTS
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import composed, fetch_all, fetch_one

WEEKS = 53
"""So many weeks are counted and kept, the present one included."""
CHUNK = 20_000
"""Ledger rows that are counted at once."""

_COUNT = composed(statement("worker.neon", "failures").format(ledger=LEDGER.sql))
_KNOWN = composed(
    statement("worker.neon", "failures_known").format(
        ledger=LEDGER.sql, receipts=RECEIPTS.sql, weeks=sql.Literal(WEEKS)
    )
)


async def count_failures(
    connection: Connection, entity: Entity, before: Counted, go_on: Callable[[], Awaitable[None]]
) -> Failures:
    """Count the flagged outcomes of an entity after those that were counted before; all of them if the ledger lacks the
    row up to which they were counted: Neon was restored, or retention has removed it.

    Args:
        connection: to Neon.
        entity: whose.
        before: up to where they are counted.
        go_on: called between two parts of the ledger; an exception from it ends the count.

    Raises:
        psycopg.Error: the database failed.
    """
    params = {"entity": entity.name, "id": before.ledger_id, "run_id": before.run_id}
    start = await fetch_one(connection, _KNOWN, params)
    failures = Failures(before) if start["known"] else Failures(anew=True, anew_from=start["whole_from"])
    oldest = max(start["oldest"], failures.anew_from or date.max) if failures.anew else start["oldest"]
    part = {
        "entity": entity.name, "oldest": oldest, "fields": [*entity.columns, "record"], "limit": CHUNK,
        "after": failures.upto.ledger_id or 0, "settled": start["settled"],
    }  # fmt: skip
    while True:
        rows = await fetch_all(connection, _COUNT, part)
        for row in rows:
            if row["week"] is not None:
                reason = Reason(row["week"], row["reason_code"], row["field"])
                (failures.records if row["settled"] else failures.recent)[reason] += row["records"]
        if rows[0]["upto_id"] is not None:
            failures.upto = Counted(rows[0]["upto_id"], rows[0]["upto_run_id"])
        if rows[0]["rows"] < CHUNK:
            return failures
        part["after"] = rows[0]["last_id"]
        await go_on()
