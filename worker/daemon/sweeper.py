"""The sweep: finds what no notification told of. It is all that an idle worker asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import anyio
import psycopg

from worker.daemon.consumer import Consumer
from worker.daemon.task_faults import TaskFaults
from worker.daemon.wakeup import Wakeup
from worker.observe.monitor import Monitor
from worker.settings import Settings
from worker.supabase.look import look
from worker.sync.databases import Databases

TASK = "sweep"


class Sweep:
    """Looks for work, due pulls, events and changes, and wakes the tasks that have something to do."""

    def __init__(
        self,
        databases: Databases,
        settings: Settings,
        monitor: Monitor,
        *,
        consumers: Sequence[Consumer],
        pull_now: Wakeup,
        counts_changed: Wakeup,
    ) -> None:
        """Look at nothing before :meth:`run`.

        Args:
            databases: both databases; Neon is not asked.
            settings: all of them.
            monitor: gets a report of every look.
            consumers: one for each entity.
            pull_now: set when a pull is due.
            counts_changed: set when records may not be where they were.
        """
        self._databases, self._settings, self._monitor, self._consumers = databases, settings, monitor, consumers
        self._pull_now, self._counts_changed = pull_now, counts_changed
        self._faults = TaskFaults(TASK, databases, monitor)
        self._changes: list[str | None] = []
        """What the latest look said of each entity's changes."""

    async def run(self) -> NoReturn:
        """Look at once and then at every sweep interval."""
        while True:
            self._monitor.heartbeat(TASK)
            try:
                await self._look()
            except (psycopg.Error, OSError) as error:
                delay = await self._faults.failed(error)
            else:
                self._faults.succeeded()
                delay = self._settings.sweep_interval
            await anyio.sleep(delay)

    async def _look(self) -> None:
        routes = [self._databases.routes[consumer.name] for consumer in self._consumers]
        async with self._databases.supabase.connection() as supabase:
            seen = await look(
                supabase, {route.queue: route.postponed for route in routes}, self._settings.pull_interval,
                events=self._databases.announces,
            )  # fmt: skip
            for consumer in self._consumers:
                paused_at = seen[consumer.name].paused_at
                self._monitor.paused(consumer.name, paused_at)
                if consumer.paused and paused_at is None:
                    self._pull_now.set()  # it may have something to do, though no pull is due
                consumer.paused = paused_at is not None
                if seen[consumer.name].has_work:
                    if consumer.idle:
                        self._monitor.swept(consumer.name)
                    consumer.wakeup.set()
                if seen[consumer.name].has_event:
                    consumer.events.set()
        if any(one.is_due for one in seen.values()):
            self._pull_now.set()
        changes = [one.changes for one in seen.values()]
        if None in changes or changes != self._changes:
            self._counts_changed.set()
        self._changes = changes
