"""Neon: who has a transaction open, of which a pull sees nothing yet."""

from __future__ import annotations

import anyio
from psycopg import sql

from worker.domain.horizon import XIDS, Horizon, Observation, Since, advance, open_ones
from worker.entities.declaration import Entity
from worker.postgres.connection import Connection
from worker.postgres.transaction import read

WAITS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.3)
"""Seconds between looks at transactions that are about to end: most of an ordinary load's are gone at the first."""

_NOW = sql.SQL("""
SELECT pg_postmaster_start_time()::text AS server, now() AT TIME ZONE 'UTC' AS at,
  (SELECT coalesce(max(id), 0) FROM {invalid}) AS last_id,
  pg_snapshot_xmax(s)::text::bigint AS next_xid, ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(s) x) AS running
FROM pg_current_snapshot() s
""")
# Every transaction holds a lock on its own name as long as it lives, and on its number as soon as it has one. Those of
# other databases and of autovacuum, which is nobody's, write nothing that is pulled.
_HOLDERS = sql.SQL("""
SELECT l.pid, l.virtualtransaction AS vxid, a.xact_start AT TIME ZONE 'UTC' AS since,
  a.datname = current_database() AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid() AS here,
  coalesce(array_agg(l.transactionid::text::bigint) FILTER (WHERE l.transactionid IS NOT NULL), '{}') AS xids
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype IN ('virtualxid', 'transactionid') AND l.mode = 'ExclusiveLock' AND l.granted
GROUP BY l.pid, l.virtualtransaction, a.pid, a.usesysid, a.datname, a.xact_start
""")
_PREPARED = sql.SQL("""
SELECT transaction::text::bigint AS xid, gid, prepared AT TIME ZONE 'UTC' AS since
FROM pg_prepared_xacts WHERE database = current_database()
""")


async def observe(connection: Connection, entity: Entity) -> Observation:
    """Who has a transaction open in Neon, and how far the entity's dates and ids have come."""
    # In this order: a transaction that is prepared in between is seen twice, not never.
    steps = (_NOW.format(invalid=entity.invalid_table.sql), None), (_HOLDERS, None), (_PREPARED, None)
    [row], holders, prepared = await read(connection, *steps)
    some = open_ones(row["server"], row["at"], row["next_xid"], row["running"], holders, prepared)
    return Observation(row["at"], row["last_id"], row["next_xid"], some)


async def reach(connection: Connection, entity: Entity, before: Horizon | None) -> tuple[Since | None, Horizon]:
    """What a pull reads, and where the next one starts; to be asked before it reads a row. See :func:`advance`.

    It waits a moment for transactions that were not open before, so that an ordinary load leaves none to remember.
    """
    first = last = await observe(connection, entity)
    was = {one.who for one in before.open} if before else set()
    for pause in WAITS:
        if not {one.who for one in first.open} & {one.who for one in last.open} - was:
            break
        await anyio.sleep(pause)
        last = await observe(connection, entity)
    return advance(before, first, last)


def changed(since: Since) -> sql.Composed:
    """The condition on a row ``i`` of having changed since then."""
    dated = sql.SQL("i.updated_at >= {} OR i.id > {}").format(sql.Literal(since.position), sql.Literal(since.last_id))
    if since.xid is None:
        return dated
    number = sql.Literal(str(since.xid % XIDS))
    # Between: a row that was frozen long ago may bear a number that has come round to the future.
    return dated + sql.SQL(" OR age(i.xmin) BETWEEN 0 AND age({}::xid)").format(number)
