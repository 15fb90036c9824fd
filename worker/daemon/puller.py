"""The pull as a task of ``run``: every entity when it is due. What is wrong with one pull, or with a database, is told,
waited out and tried again: it ends no delivery, and no other entity's pull.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anyio
import psycopg
import structlog

from worker.daemon.listener import Wakeup
from worker.domain.progress import Progress
from worker.entities.declaration import ENTITIES, Entity
from worker.observe.monitor import Monitor
from worker.postgres.errors import Kind, LogThrottle, Restored, SetupMissing, backoff, kind_of, with_database
from worker.postgres.hints import hint_for, with_hint
from worker.settings import Settings
from worker.supabase import position
from worker.sync.catch_up import acknowledge_missed
from worker.sync.databases import Databases
from worker.sync.prune import prune
from worker.sync.pull import pull

log = structlog.get_logger("worker.daemon")
FAULTS = (psycopg.Error, OSError, SetupMissing, Restored)
"""What ends a pull, and no worker."""


@dataclass
class _Trouble:
    """How often a task has failed in a row, and when it is tried again."""

    waits: Iterator[float] = field(default_factory=backoff)
    throttle: LogThrottle = field(default_factory=LogThrottle)
    until: float = 0.0

    @property
    def pause(self) -> float:
        return self.until - time.monotonic()


class Puller:
    """Pulls one entity after the other, each when it is due and not in trouble."""

    def __init__(
        self,
        databases: Databases,
        settings: Settings,
        monitor: Monitor,
        *,
        compare: Wakeup,
        to_compare: set[str],
        untold: set[str],
        pulled: Callable[[str], None],
    ) -> None:
        """Pull nothing before :meth:`run`.

        Args:
            databases: both databases.
            settings: all of them.
            monitor: is told.
            compare: rung when there is something to do at once.
            to_compare: entities of which one database was found to have been restored: they are pulled at once.
            untold: entities with rows that may not have been told what became of them.
            pulled: called with the entity's name after each pull.
        """
        self._bridge, self._settings, self._monitor = databases, settings, monitor
        self._compare, self._to_compare, self._untold, self._pulled = compare, to_compare, untold, pulled
        self._trouble: dict[str, _Trouble] = {}
        """By the name of what does not work, as ``/readyz`` has it."""

    async def run(self) -> None:
        """Pull whatever is due at every sweep interval, for ever; what failed sooner, after a pause that grows."""
        while True:
            self._monitor.heartbeat("pull")
            await self._turn()
            pause = min((one.pause for one in self._trouble.values()), default=self._settings.sweep_interval)
            with anyio.move_on_after(max(0.0, min(pause, self._settings.sweep_interval))):
                await self._compare.wait()

    async def _turn(self) -> None:
        if self._waits("pull"):
            return
        try:
            async with self._bridge.supabase.connection() as supabase:
                due = await position.due(supabase, list(ENTITIES.values()), self._settings.pull_interval)
        except FAULTS as error:
            await self._failed("pull", error)
            return
        self._works("pull")
        for entity in ENTITIES.values():
            if not self._waits(task := f"pull of {entity.name}"):
                try:
                    await self._pull(entity, due=entity.name in due)
                except FAULTS as error:
                    await self._failed(task, error)
                else:
                    self._works(task)
            self._monitor.heartbeat("pull")

    async def _pull(self, entity: Entity, *, due: bool) -> None:
        """Tell rows that could not be told when it was time, and pull what is due. The position is shared, so that
        several workers pull once.
        """
        if entity.name in self._untold and not self._waits(task := f"telling of {entity.name}"):
            if await acknowledge_missed(self._bridge, entity):
                self._untold.discard(entity.name)
                self._trouble.pop(task, None)
            else:
                # Somebody holds a row, or it is on its way once more: no fault, but to be looked at again.
                again = self._trouble.setdefault(task, _Trouble())
                again.until = time.monotonic() + next(again.waits)
        if not due and entity.name not in self._to_compare:
            return
        asked = entity.name in self._to_compare
        self._to_compare.discard(entity.name)
        try:
            pulled = await pull(self._bridge, entity, progress=_Turns(self._monitor))
        except BaseException:
            if asked:
                self._to_compare.add(entity.name)
            raise
        if pulled:
            self._monitor.pulled(pulled)
            self._pulled(entity.name)
            # By the one that pulled, while Neon is awake.
            pruned = await prune(
                self._bridge, entity, ledger_days=self._settings.ledger_retention,
                workspace_days=self._settings.workspace_retention,
            )  # fmt: skip
            self._monitor.pruned(pruned)

    def _waits(self, task: str) -> bool:
        return task in self._trouble and self._trouble[task].pause > 0

    def _works(self, task: str) -> None:
        self._trouble.pop(task, None)
        self._monitor.fault(task, None)

    async def _failed(self, task: str, error: Exception) -> None:
        trouble = self._trouble.setdefault(task, _Trouble())
        pause = next(trouble.waits)
        trouble.until = time.monotonic() + pause
        reason = " ".join(str(error).splitlines()) if isinstance(error, SetupMissing) else with_database(error)
        if kind_of(error) is not Kind.TRANSIENT:
            reason = with_hint(reason, hint_for(error))
        self._monitor.fault(task, reason)
        self._monitor.retry(task, error)
        if (times := trouble.throttle.seen(reason)) is not None:
            log.warning("worker.fault", task=task, error=reason, times=times, pause=round(pause, 2))
        if pause == 0:
            await self._bridge.neon.renew()
            await self._bridge.supabase.renew()


class _Turns(Progress):
    """A long pull is no pull that hangs: its every batch is a turn."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def advance(self, records: int) -> None:
        """A batch is done."""
        self._monitor.heartbeat("pull")
        self._monitor.pulling()
