"""Neon: the open transactions, whose changes a pull cannot see yet."""

from __future__ import annotations

import anyio
from psycopg import sql

from worker.domain.horizon import XIDS, Horizon, Observation, Since, advance, list_open
from worker.entities.declaration import Entity
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import read

PAUSES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.3)
"""Seconds between looks at open transactions: under an ordinary load, most have ended by the first."""

_NOW = statement("worker.neon", "now")
_HOLDERS = statement("worker.neon", "holders")
_PREPARED = sql.SQL("""
SELECT transaction::text::bigint AS xid, gid, prepared AT TIME ZONE 'UTC' AS since
FROM pg_prepared_xacts WHERE database = current_database()
""")


async def observe(connection: Connection, entity: Entity) -> Observation:
    """The open transactions in Neon, and the entity's latest dates and ids."""
    # In this order: a transaction that is prepared in between is seen twice, not never.
    steps = (_NOW.format(invalid=entity.invalid_table.sql), None), (_HOLDERS, None), (_PREPARED, None)
    [row], holders, prepared = await read(connection, *steps)
    some = list_open(row["server"], row["at"], row["next_xid"], row["running"], holders, prepared)
    return Observation(row["at"], row["last_id"], row["next_xid"], some)


async def reach(connection: Connection, entity: Entity, before: Horizon | None) -> tuple[Since | None, Horizon]:
    """What a pull reads, and where the next pull starts; to be called before it reads a row. See :func:`advance`.

    It waits a moment for newly opened transactions to end, so that an ordinary load leaves none to remember.
    """
    first = last = await observe(connection, entity)
    was = {one.who for one in before.open} if before else set()
    for pause in PAUSES:
        if not {one.who for one in first.open} & {one.who for one in last.open} - was:
            break
        await anyio.sleep(pause)
        last = await observe(connection, entity)
    return advance(before, first, last)


def changed(since: Since) -> sql.Composed:
    """The condition that a row ``i`` has changed since then."""
    dated = sql.SQL("i.updated_at >= {} OR i.id > {}").format(sql.Literal(since.position), sql.Literal(since.last_id))
    if since.xid is None:
        return dated
    number = sql.Literal(str(since.xid % XIDS))
    # BETWEEN: a row frozen long ago may have an xid that now lies in the future, because xids wrap around.
    return dated + sql.SQL(" OR age(i.xmin) BETWEEN 0 AND age({}::xid)").format(number)
