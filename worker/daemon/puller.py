"""The pull as a task of ``run``: every entity when it is due. A pull that fails is reported and tried again; it ends
no delivery, and no other entity's pull.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NoReturn

import anyio
import psycopg

from worker.daemon.consumer import Consumer
from worker.daemon.task_faults import RetryTimer, TaskFaults
from worker.daemon.wakeup import Wakeup
from worker.domain.progress import Progress
from worker.observe.monitor import Monitor
from worker.postgres.errors import Kind, Restored, SetupMissing, kind_of, with_database
from worker.postgres.hints import hint_for, with_hint
from worker.settings import Settings
from worker.supabase import position
from worker.supabase.pause import Paused
from worker.sync.catch_up import acknowledge_missed
from worker.sync.databases import Databases
from worker.sync.prune import prune
from worker.sync.pull import pull

TASK = "pull"
FAULTS = (psycopg.Error, OSError, SetupMissing, Restored)
"""What ends a pull, and no worker."""


class Puller:
    """Pulls one entity after the other, each when it is due and not waiting for a retry."""

    def __init__(
        self,
        databases: Databases,
        settings: Settings,
        monitor: Monitor,
        *,
        consumers: Iterable[Consumer],
        pull_now: Wakeup,
    ) -> None:
        """Pull nothing before :meth:`run`.

        Args:
            databases: both databases.
            settings: all of them.
            monitor: gets a report of every pull, fault and heartbeat.
            consumers: one for each entity that is pulled.
            pull_now: set when a pull is due, or a consumer needs its entity's pull at once.
        """
        self._databases, self._settings, self._monitor, self._pull_now = databases, settings, monitor, pull_now
        self._faults = TaskFaults(TASK, databases, monitor)
        """Of what all pulls need: to learn which are due."""
        self._pulls = [_EntityPull(consumer, databases, settings, monitor) for consumer in consumers]

    async def run(self) -> NoReturn:
        """Pull what is due at once and whenever the sweep finds something due; what failed, when its retry is due."""
        while True:
            await self._pull_due()
            while not await self._woken():
                pass

    async def _woken(self) -> bool:
        """Wait until there is something to do; False where nothing came in time for the next heartbeat."""
        self._monitor.heartbeat(TASK)
        retry = self._until_retry()
        with anyio.move_on_after(min(retry, self._settings.sweep_interval)) as rest:
            await self._pull_now.wait()
        return not rest.cancelled_caught or retry <= self._settings.sweep_interval

    def _until_retry(self) -> float:
        """Seconds until the next retry; infinite where nothing is to be retried."""
        # While it cannot be learnt which pulls are due, none is tried.
        if (remaining := self._faults.timer.remaining) is not None:
            return remaining
        retries = [remaining for one in self._pulls if (remaining := one.remaining) is not None]
        return min(retries, default=math.inf)

    async def _pull_due(self) -> None:
        """Pull every entity that is due, or whose retry is."""
        if self._faults.timer.remaining:
            return
        entities = [one.consumer.entity for one in self._pulls]
        try:
            async with self._databases.supabase.connection() as supabase:
                due = await position.due(supabase, entities, self._settings.pull_interval)
        except FAULTS as error:
            await self._faults.failed(error, _reason(error))
            return
        self._faults.succeeded()
        for one in self._pulls:
            await one.run(due=one.consumer.name in due)
            self._monitor.heartbeat(TASK)


class _EntityPull:
    """One entity's pull and its retries."""

    def __init__(self, consumer: Consumer, databases: Databases, settings: Settings, monitor: Monitor) -> None:
        self.consumer = consumer
        self._databases, self._settings, self._monitor = databases, settings, monitor
        self._faults = TaskFaults(f"pull of {consumer.name}", databases, monitor)
        self._acknowledging = RetryTimer()
        """Of acknowledgements that were missed."""

    @property
    def remaining(self) -> float | None:
        """Seconds until the next retry; None where nothing is to be retried."""
        return self._faults.timer.remaining if self._faults.failing else self._acknowledging.remaining

    async def run(self, *, due: bool) -> None:
        """Do what is to be done, unless a retry is still to be waited for."""
        if self._faults.timer.remaining:
            return
        try:
            if self.consumer.missed and not self._acknowledging.remaining:
                await self._acknowledge_missed()
            if due or self.consumer.restored:
                await self._pull()
        except Paused:
            self._faults.succeeded()  # since a moment ago, or by a comparison that has to wait for it
        except FAULTS as error:
            await self._faults.failed(error, _reason(error))
        else:
            self._faults.succeeded()

    async def _acknowledge_missed(self) -> None:
        """Acknowledge rows that could not be acknowledged when they were settled."""
        # Before, not after: the consumer may note another one meanwhile.
        self.consumer.missed = False
        complete = False
        try:
            complete = await acknowledge_missed(self._databases, self.consumer.entity)
        finally:
            self.consumer.missed |= not complete
        if complete or self.consumer.paused:
            # What is queued is acknowledged by its delivery, after the pause: until then Neon is left asleep.
            self._acknowledging.reset()
        else:
            # Another transaction holds a row, or it is on its way once more: no fault, but to be retried.
            self._acknowledging.start()

    async def _pull(self) -> None:
        """Pull. The position is shared, so that several workers pull once."""
        restored, self.consumer.restored = self.consumer.restored, False
        try:
            pulled = await pull(self._databases, self.consumer.entity, progress=PullHeartbeat(self._monitor))
        except BaseException:
            self.consumer.restored |= restored
            raise
        if pulled:
            self._monitor.pulled(pulled)
            self.consumer.records_changed()
            # By the worker that pulled, while Neon is awake.
            pruned = await prune(
                self._databases, self.consumer.entity, ledger_days=self._settings.ledger_retention,
                workspace_days=self._settings.workspace_retention,
            )  # fmt: skip
            self._monitor.pruned(pruned)


class PullHeartbeat(Progress):
    """Makes every batch of a pull a heartbeat: a long pull does not hang."""

    def __init__(self, monitor: Monitor) -> None:
        """Report to ``monitor``."""
        self._monitor = monitor

    def advance(self, records: int) -> None:
        """A batch is done."""
        self._monitor.heartbeat(TASK)
        self._monitor.pulling()


def _reason(error: Exception) -> str:
    """What to say of a fault; what passes by itself needs no hint."""
    reason = " ".join(str(error).splitlines()) if isinstance(error, SetupMissing) else with_database(error)
    return reason if kind_of(error) is Kind.TRANSIENT else with_hint(reason, hint_for(error))
