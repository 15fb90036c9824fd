"""The sweep: finds work whose notification was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import anyio
import psycopg

from worker.daemon.consumer import Consumer
from worker.daemon.task_faults import TaskFaults
from worker.observe.monitor import Monitor
from worker.supabase.queue import with_work
from worker.sync.databases import Databases

TASK = "sweep"


async def sweep(databases: Databases, consumers: Sequence[Consumer], monitor: Monitor, interval: float) -> NoReturn:
    """Look for work at once and then every ``interval`` seconds, and wake the consumers that have some."""
    faults = TaskFaults(TASK, databases, monitor)
    while True:
        monitor.heartbeat(TASK)
        try:
            await _wake_those_with_work(databases, consumers, monitor)
        except (psycopg.Error, OSError) as error:
            delay = await faults.failed(error)
        else:
            faults.succeeded()
            delay = interval
        await anyio.sleep(delay)


async def _wake_those_with_work(databases: Databases, consumers: Sequence[Consumer], monitor: Monitor) -> None:
    async with databases.supabase.connection() as supabase:
        routes = [databases.routes[consumer.name] for consumer in consumers]
        found = await with_work(supabase, {route.queue: route.postponed for route in routes})
        for consumer in consumers:
            if consumer.name in found:
                if consumer.idle:
                    monitor.swept(consumer.name)
                consumer.wakeup.set()
