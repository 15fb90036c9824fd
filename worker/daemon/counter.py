"""Counts where the records stand, for the status page, ``/status.json`` and ``/metrics``."""

from __future__ import annotations

import time
from typing import NoReturn

import anyio
import psycopg
import structlog

from worker.daemon.wakeup import Wakeup
from worker.observe.monitor import Monitor
from worker.operate.status import COUNT_SECONDS, read_status
from worker.postgres.backoff import LogThrottle
from worker.postgres.errors import with_database
from worker.sync.databases import Databases

log = structlog.get_logger("worker.daemon")

COUNT_PAUSE = 1.0
"""Seconds between two counts at least."""
UNCHANGED_SECONDS = 300.0
"""Seconds until a count where nothing has changed and nothing is in the queue."""
COUNT_DELAY = 0.1
"""Seconds from a change to the count: a flip is delivered first, and both would wait for one another."""
COUNT_SHARE = 50
"""A count is followed by a pause this many times as long: counting takes 2 % of a core at most."""


async def count_records(databases: Databases, monitor: Monitor, changed: Wakeup, interval: float) -> NoReturn:
    """Count after every change; every ``interval`` seconds while something is in the queue, and after a count that
    failed. Such a one is reported and holds up nothing.

    Args:
        databases: both databases; Neon is not asked.
        monitor: gets the counts, or why there are none.
        changed: set when records are not where they were.
        interval: seconds.
    """
    throttle = LogThrottle()
    while True:
        counting, rest = 0.0, interval
        try:
            async with databases.supabase.connection() as supabase:
                began = time.perf_counter()
                status = await read_status(supabase, databases.entities.values())
            counting = time.perf_counter() - began
        except (psycopg.Error, OSError) as error:
            # The pause follows a count that kept the server busy, not a wait for a lost connection.
            if isinstance(error, psycopg.errors.QueryCanceled):
                counting = COUNT_SECONDS
            reason = with_database(error)
            monitor.not_counted(reason)
            if (times := throttle.seen(reason)) is not None:
                log.warning("count.failed", error=reason, times=times)
        else:
            monitor.counted(status, counting)
            if not any(entity["queue"] for entity in status["entities"].values()):
                rest = UNCHANGED_SECONDS
        await anyio.sleep(max(COUNT_PAUSE, COUNT_SHARE * counting))
        with anyio.move_on_after(rest):
            await changed.wait()
            await anyio.sleep(COUNT_DELAY)
