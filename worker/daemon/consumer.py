"""Delivers one entity's records, for as long as ``run`` runs. What is known of an entity's deliveries is kept here."""

from __future__ import annotations

from functools import partial

import anyio
import psycopg
import structlog

from worker.daemon.batch_sizer import BatchSizer
from worker.daemon.task_faults import TaskFaults
from worker.daemon.wakeup import Wakeup
from worker.entities.declaration import Entity
from worker.observe.monitor import Monitor
from worker.postgres.backoff import FIRST_PAUSE, LogThrottle, backoff
from worker.postgres.errors import Restored, with_database
from worker.supabase.queue import with_work
from worker.sync.acknowledge import acknowledge_again, release_again
from worker.sync.databases import AHEAD, Databases
from worker.sync.deliver import Tally, deliver

log = structlog.get_logger("worker.daemon")

RESTORED_DELAY = 0.5
"""Seconds until the next look whether both databases were compared."""


class Consumer:
    """The consumer of one entity: loops that share what they know of it."""

    def __init__(
        self,
        entity: Entity,
        databases: Databases,
        monitor: Monitor,
        *,
        interval: float,
        pull_now: Wakeup,
        counts_changed: Wakeup,
    ) -> None:
        """Deliver nothing before :meth:`run`.

        Args:
            entity: whose records.
            databases: both databases.
            monitor: gets a report of every batch, fault and heartbeat.
            interval: seconds between two heartbeats at most while there is nothing to do.
            pull_now: set when the entity's pull has something to do at once.
            counts_changed: set when records are not where they were.
        """
        self.entity = entity
        self.wakeup = Wakeup()
        """Set it when there may be work."""
        self.events = Wakeup()
        """Set when there may be an event to post."""
        self.restored = False
        """Whether a database was found to have been restored, and the next pull has to compare both."""
        self.paused = False
        """Whether the entity is paused, as the sweep saw it last."""
        self.missed = True
        """Whether rows may lack their acknowledgement: a worker died, or a link broke, in the middle of it."""
        self._databases, self._monitor, self._interval = databases, monitor, interval
        self._route = databases.routes[entity.name]
        self._pull_now, self._counts_changed = pull_now, counts_changed
        self._sizer = BatchSizer(databases.batch_size)
        self._faults = TaskFaults(entity.name, databases, monitor)
        self._in_flight = 0
        """Records of the batch that the first loop delivers; before the claim, as many as it asks for."""
        self._full_batches = [Wakeup() for _ in range(AHEAD)]
        """Of each loop that delivers ahead: set when the one before it has claimed a full batch."""
        self._postponed = Wakeup()
        """Set when rows may have been postponed."""
        self._waiting = False
        """Whether the first loop waits for a wakeup."""
        self._ahead = 0
        """How many loops deliver ahead of it."""

    @property
    def name(self) -> str:
        """The entity's name."""
        return self.entity.name

    @property
    def idle(self) -> bool:
        """Whether it waits, and no wakeup is on its way."""
        return self._waiting and not self._ahead and not self.wakeup.is_set

    def records_changed(self) -> None:
        """Wake the tasks that count records and post events."""
        self._counts_changed.set()
        self.events.set()

    async def run(self) -> None:
        """Deliver until cancelled. A batch on its way is shielded, and finished."""
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._deliver)
            for number in range(AHEAD):
                loops.start_soon(self._deliver_ahead, number)
            loops.start_soon(self._retry_postponed)

    # The queue

    async def _deliver(self) -> None:
        """Deliver until the queue is empty, after each wakeup."""
        while True:
            self._monitor.heartbeat(self.name)
            if await self._woken():
                await self._empty_queue()

    async def _empty_queue(self) -> None:
        while not self._databases.stop.is_set():
            delay = await self._deliver_batch()
            if delay is None:
                return
            await anyio.sleep(delay)

    async def _woken(self) -> bool:
        """Wait for a wakeup; False where none came in time for the next heartbeat."""
        self._waiting = True
        with anyio.move_on_after(self._interval) as waiting:
            await self.wakeup.wait()
        self._waiting = False
        return not waiting.cancelled_caught

    async def _deliver_batch(self) -> float | None:
        """Deliver one batch.

        Returns:
            Seconds until the next one; None where the queue is empty.
        """
        sizer, self._in_flight = self._sizer, 0
        self._monitor.heartbeat(self.name)
        try:
            # Neon is not woken to learn that there is nothing to do.
            if not self._databases.neon.warm and not await self._has_work():
                self._faults.clear()
                return None
            self._in_flight = sizer.limit
            tally = await deliver(
                self._databases, self.entity, limit=sizer.limit, skip=sizer.skip, claimed=self._claimed
            )
        except Restored as error:
            return self._compare(error)
        except (psycopg.Error, OSError) as error:
            self._note_missed()
            sizer.failed(self._in_flight)
            return await self._faults.failed(error)
        if sizer.skip and not tally.claimed:
            sizer.rewind()
            # Nothing is behind what failed: back to that, after a longer delay.
            return 0.0 if self._faults.failing else None
        self._delivered(tally)
        if tally.fault:
            return await self._faults.failed(tally.fault)
        self._faults.succeeded()
        more = sizer.delivered(tally.claimed, progress=bool(tally.answered or tally.postponed))
        return 0.0 if more else None

    async def _has_work(self) -> bool:
        async with self._databases.supabase.connection() as supabase:
            return bool(await with_work(supabase, {self._route.queue: self._route.postponed}))

    def _claimed(self, records: int) -> None:
        self._in_flight = records
        self._wake_next(0, records)

    # The loops ahead

    def _wake_next(self, number: int, records: int) -> None:
        """Wake the loop with this number, if there is one and more rows may be behind a claimed batch."""
        if number < AHEAD and records == self._sizer.maximum:
            self._full_batches[number].set()

    async def _deliver_ahead(self, number: int) -> None:
        """Deliver the next batch while the loop before this one is busy with a full one, so that neither the databases
        nor this process wait for each other. A fault is left to the first loop, which meets it too.
        """
        claimed = partial(self._wake_next, number + 1)
        while True:
            await self._full_batches[number].wait()
            self._ahead += 1
            try:
                while not self._databases.stop.is_set():
                    tally = await deliver(self._databases, self.entity, claimed=claimed)
                    self._delivered(tally)
                    if tally.claimed < self._sizer.maximum or not tally.answered or tally.fault:
                        break
            except Restored:
                self.wakeup.set()
            except (psycopg.Error, OSError) as error:
                self._note_missed()
                self._monitor.retry(self.name, error)
                self.wakeup.set()
            finally:
                self._ahead -= 1

    # Postponed rows

    async def _retry_postponed(self) -> None:
        """Retry postponed rows when they are due, in a loop of their own: what holds them up holds up no other row."""
        postponed = self._route.postponed, self._route.unreleased
        delays, throttle = backoff(), LogThrottle()
        while True:
            due = [seconds for rows in postponed if (seconds := rows.next_due()) is not None]
            with anyio.move_on_after(min(due, default=None)):
                await self._postponed.wait()
            try:
                await self._retry_due()
                delays = backoff()
            except Restored as error:
                await anyio.sleep(self._compare(error))
                self.wakeup.set()
            except (psycopg.Error, OSError) as error:
                self._monitor.retry(self.name, error)
                if (times := throttle.seen(reason := with_database(error))) is not None:
                    log.warning("again.fault", entity=self.name, error=reason, times=times)
                await anyio.sleep(max(FIRST_PAUSE, next(delays)))

    async def _retry_due(self) -> None:
        """Retry what is due by now: releases, acknowledgements, deliveries."""
        databases, entity = self._databases, self.entity
        postponed, unreleased = self._route.postponed, self._route.unreleased
        if keys := unreleased.due(databases.batch_size, acknowledge=False):
            await release_again(databases, entity, keys)
        if keys := postponed.due(databases.batch_size, acknowledge=True):
            acknowledged = await acknowledge_again(databases, entity, keys)
            if acknowledged.missed:
                self._note_missed()
        if keys := postponed.due(databases.batch_size, acknowledge=False):
            self._delivered(await deliver(databases, entity, among=keys))

    # What the loops share

    def _delivered(self, tally: Tally) -> None:
        if tally.missed:
            self._note_missed()
        self._postponed.set()
        self._monitor.delivered(self.name, tally)
        self.records_changed()

    def _note_missed(self) -> None:
        """Have rows acknowledged by the pull that could not be when they were settled."""
        self.missed = True
        self._pull_now.set()

    def _compare(self, error: Restored) -> float:
        """A database was restored: nothing of this entity goes on before a pull has compared both.

        Returns:
            Seconds until the next look.
        """
        self.restored = True
        self._faults.report(str(error))
        self._pull_now.set()
        return RESTORED_DELAY
