"""What ``run`` is made of: a listener, two couriers for each entity and one for what was put aside, a sweep, a pull,
the health address.
"""

from __future__ import annotations

import gc
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial

import anyio
import psycopg
import structlog
from anyio import Event

from worker.daemon.listener import Wakeup, listen
from worker.daemon.puller import Puller
from worker.daemon.signals import stopping
from worker.daemon.startup import reach
from worker.daemon.systemd import Supervisor
from worker.daemon.webhook import Hook, new_client, post_events
from worker.entities.declaration import ENTITIES, Entity
from worker.observe.health import Server, bind, server
from worker.observe.monitor import Monitor
from worker.operate.status import COUNT_SECONDS, read_status
from worker.postgres.errors import FIRST_PAUSE, LogThrottle, Restored, backoff, with_database
from worker.postgres.hints import hint_for, with_hint
from worker.settings import Settings, SettingsError
from worker.supabase import queue
from worker.sync.acknowledge import acknowledge_again, release_again
from worker.sync.databases import Databases
from worker.sync.deliver import Tally, deliver

log = structlog.get_logger("worker.daemon")

GARBAGE = 20_000
"""New objects before the collector looks through them: a batch makes as many, and leaves no circles."""
COUNT_SHARE = 50
"""A count of the workspace is followed by a pause this many times as long: it takes 2 % of a core at most."""
RESTORED_PAUSE = 0.5
"""Seconds before a courier looks again whether both databases were compared."""
COUNT_PAUSE = 1.0
"""Seconds between two counts at least."""


async def run(settings: Settings, *, ready: Callable[[str], None] = lambda _address: None) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP: no new batch then, the running one is finished.

    Args:
        settings: all of them.
        ready: called once, with the health address, when it listens.

    Raises:
        SettingsError: the health address cannot be bound, or the environment's proxy not used.
        Unreachable, SetupMissing: see :func:`worker.sync.databases.open_bridge`; under a supervisor an unreachable
            database is waited for.
    """
    supervisor = Supervisor.from_environment()
    if settings.n8n_webhook_url:
        await new_client().aclose()  # says what is wrong before anything begins
    try:
        link = bind(settings.health_host, settings.health_port)
    except OSError as error:
        raise SettingsError(
            [f"WORKER_HEALTH_ADDRESS: {settings.health_address} cannot be bound ({error.strerror}); set another"]
        ) from None
    with link:
        host, port = link.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        heeded = stopping()
        with anyio.open_signal_receiver(*heeded) as signals:
            async with AsyncExitStack() as stack:
                if databases := await reach(settings, supervisor, signals, stack):
                    # What is there now stays to the end: no collection has to look through it again.
                    gc.collect()
                    gc.freeze()
                    gc.set_threshold(GARBAGE)
                    await _Daemon(databases, settings, supervisor).run(link, partial(ready, address), address, signals)
        # Whoever asks once more, as systemd does with a hang-up, does not cut the last lines short.
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)


class _Daemon:
    def __init__(self, databases: Databases, settings: Settings, supervisor: Supervisor) -> None:
        self.databases, self.settings, self.supervisor = databases, settings, supervisor
        self.monitor = Monitor(
            ENTITIES, (databases.neon, databases.supabase), rest=settings.sweep_interval,
            pull_interval=settings.pull_interval, postponed=databases.postponed,
        )  # fmt: skip
        self.wakeups = {name: Wakeup() for name in ENTITIES}
        self.events = {name: Wakeup() for name in ENTITIES}
        """Rung when there may be an event to post."""
        self._more = {name: Wakeup() for name in ENTITIES}
        """Rung when a courier's batch was full."""
        self._carrying: dict[str, int] = dict.fromkeys(ENTITIES, 1)
        """How many records an entity's courier tries to carry."""
        self._put_aside = {name: Wakeup() for name in ENTITIES}
        """Rung when rows were put aside."""
        self._helping: set[str] = set()
        """Entities whose second courier is on its way."""
        self.counts_changed = Wakeup()
        """Rung when the counts are not what they were."""
        self._waiting: set[str] = set()
        """Entities whose courier has nothing to do."""
        self._said_ready = False
        self._compare = Wakeup()
        """Rung when the databases are to be compared at once."""
        self._to_compare: set[str] = set()
        """Entities of which one database was found to have been restored."""
        self._untold = set(ENTITIES)
        """Entities with rows that may not have been told: a worker died, or a link broke, in the middle of it."""
        self._puller = Puller(
            databases, settings, self.monitor, compare=self._compare, to_compare=self._to_compare, untold=self._untold,
            pulled=self._has_news,
        )  # fmt: skip

    async def run(
        self, link: socket.socket, ready: Callable[[], None], address: str, signals: AsyncIterator[signal.Signals]
    ) -> None:
        http = server(self.monitor, self.settings.health_host)
        async with anyio.create_task_group() as serving:
            served = Event()
            serving.start_soon(_serve, http, link, served)
            serving.start_soon(self.supervisor.report, self.monitor)
            try:
                async with anyio.create_task_group() as tasks:

                    def report(reason: str | None) -> None:
                        self.monitor.listening(reason)
                        if reason is None and not self._said_ready:
                            self._said_ready = True
                            log.info("worker.ready", health_address=address)
                            self.supervisor.ready()
                            ready()

                    tasks.start_soon(listen, self.settings.listen_conninfo, queue.CHANNEL, self.on_notification, report)
                    for entity in ENTITIES.values():
                        tasks.start_soon(self._carry, entity)
                        tasks.start_soon(self._help, entity)
                        tasks.start_soon(self._try_again, entity)
                    tasks.start_soon(self._every, "sweep", self._sweep)
                    tasks.start_soon(self._puller.run)
                    tasks.start_soon(self._count)
                    if self.settings.n8n_webhook_url:
                        hook = Hook(self.settings.n8n_webhook_url, self.settings.n8n_webhook_token)
                        for entity in ENTITIES.values():
                            wait = self.events[entity.name].wait
                            post = partial(post_events, every=self.settings.sweep_interval)
                            tasks.start_soon(post, self.databases, entity, hook, self.monitor, wait)
                    await anext(signals)
                    log.info("worker.stopping")
                    self.supervisor.stopping()
                    self.databases.stop.set()
                    # What is under way is shielded and bounded; all else ends here.
                    tasks.cancel_scope.cancel()
            finally:
                # Also where a task broke: open pages end in order.
                self.monitor.feed.close()
                http.should_exit = True
                with anyio.CancelScope(shield=True):
                    await served.wait()
                serving.cancel_scope.cancel()
        log.info("worker.stopped")

    def on_notification(self, name: str | None) -> None:
        """A notification came, or may have been missed."""
        self.monitor.notified(name)
        self.wake(name)

    def wake(self, name: str | None) -> None:
        """Wake the courier of an entity, or of all."""
        for wakeup in [self.wakeups[name]] if name in self.wakeups else self.wakeups.values():
            wakeup.set()

    async def _carry(self, entity: Entity) -> None:
        """Deliver whenever the bell rings, until the queue is empty. A fault halves the next batch, so
        that what cannot be carried holds up as little as possible; what fails alone, or is locked by somebody
        in Neon, is passed over for this time.
        """
        waits, limit, skip, throttle = backoff(), self.databases.batch_size, 0, LogThrottle()
        wakeup = self.wakeups[entity.name]
        while True:
            self.monitor.heartbeat(entity.name)
            self._waiting.add(entity.name)
            with anyio.move_on_after(self.settings.sweep_interval) as waiting:
                await wakeup.wait()
            self._waiting.discard(entity.name)
            if waiting.cancelled_caught:
                continue
            while not self.databases.stop.is_set():
                self.monitor.heartbeat(entity.name)
                try:
                    # Neon is not woken to learn that there is nothing to do.
                    if not self.databases.neon.warm and not await self._has_work(entity):
                        self.monitor.fault(entity.name, None)
                        break
                    self._carrying[entity.name] = limit
                    claimed = partial(self._claimed, entity)
                    tally = await deliver(self.databases, entity, limit=limit, skip=skip, claimed=claimed)
                except Restored as error:
                    await self._restored(error)
                    continue
                except (psycopg.Error, OSError) as error:
                    self._untold.add(entity.name)
                    await self._fault(entity.name, error, waits, throttle)
                    carrying = min(limit, self._carrying[entity.name])
                    limit, skip = max(1, carrying // 2), skip + 1 if carrying == 1 else skip
                    continue
                if skip and not tally.claimed:
                    skip = 0
                    if entity.name in self.monitor.faults:
                        continue  # nobody is behind what failed: to that again, after a longer pause
                    break
                self._delivered(entity, tally)
                if tally.fault:
                    await self._fault(entity.name, tally.fault, waits, throttle)
                    continue
                self.monitor.fault(entity.name, None)
                answered = tally.answered or tally.postponed
                full, skip = tally.claimed == limit, skip if answered else skip + tally.claimed
                waits, limit = backoff(), min(limit * 2, self.databases.batch_size)
                if not full:
                    skip = 0
                    break

    async def _help(self, entity: Entity) -> None:
        """Carry the next batch while the courier is on its way with a full one, so that neither the databases nor
        this process wait for each other. Whatever is in its way, the courier meets too, and deals with it.
        """
        while True:
            await self._more[entity.name].wait()
            self._helping.add(entity.name)
            try:
                while not self.databases.stop.is_set():
                    tally = await deliver(self.databases, entity)
                    self._delivered(entity, tally)
                    if tally.claimed < self.databases.batch_size or not tally.answered or tally.fault:
                        break
            except Restored:
                self.wakeups[entity.name].set()  # the courier meets it too
            except (psycopg.Error, OSError) as error:
                self.monitor.retry(entity.name, error)
                self.wakeups[entity.name].set()
            finally:
                self._helping.discard(entity.name)

    async def _try_again(self, entity: Entity) -> None:
        """Carry what was put aside, apart from all others: whatever is in its way is in nobody else's."""
        postponed, unreleased = self.databases.postponed[entity.name], self.databases.unreleased[entity.name]
        waits, throttle = backoff(), LogThrottle()
        while True:
            due = [seconds for rows in (postponed, unreleased) if (seconds := rows.next_due()) is not None]
            with anyio.move_on_after(min(due, default=None) if due else None):
                await self._put_aside[entity.name].wait()
            try:
                if keys := unreleased.due(self.databases.batch_size, acknowledge=False):
                    await release_again(self.databases, entity, keys)
                if keys := postponed.due(self.databases.batch_size, acknowledge=True):
                    acknowledged = await acknowledge_again(self.databases, entity, keys)
                    self._note_missed(entity, missed=acknowledged.missed > 0)
                if keys := postponed.due(self.databases.batch_size, acknowledge=False):
                    self._delivered(entity, await deliver(self.databases, entity, among=keys))
                waits = backoff()
            except Restored as error:
                await self._restored(error)
                self.wakeups[entity.name].set()
            except (psycopg.Error, OSError) as error:
                self.monitor.retry(entity.name, error)
                if (times := throttle.seen(reason := with_database(error))) is not None:
                    log.warning("again.fault", entity=entity.name, error=reason, times=times)
                await anyio.sleep(max(FIRST_PAUSE, next(waits)))

    async def _restored(self, error: Restored) -> None:
        """A database was restored: nothing of this entity goes on before both are compared."""
        self._to_compare.add(error.entity)
        self.monitor.fault(error.entity, str(error))
        self._compare.set()
        await anyio.sleep(RESTORED_PAUSE)

    def _claimed(self, entity: Entity, records: int) -> None:
        self._carrying[entity.name] = records
        if records == self.databases.batch_size:
            self._more[entity.name].set()

    def _delivered(self, entity: Entity, tally: Tally) -> None:
        self._note_missed(entity, missed=bool(tally.missed))
        self._put_aside[entity.name].set()
        self.monitor.delivered(entity.name, tally)
        self._has_news(entity.name)

    def _has_news(self, name: str) -> None:
        self.counts_changed.set()
        self.events[name].set()

    def _note_missed(self, entity: Entity, *, missed: bool) -> None:
        if missed:
            self._untold.add(entity.name)
            self._compare.set()

    async def _has_work(self, entity: Entity) -> bool:
        async with self.databases.supabase.connection() as supabase:
            return bool(await queue.has_work(supabase, [entity], self.databases.postponed))

    async def _every(self, task: str, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step at every sweep interval, for ever."""
        waits, throttle = backoff(), LogThrottle()
        while True:
            self.monitor.heartbeat(task)
            try:
                await step()
            except (psycopg.Error, OSError) as error:
                await self._fault(task, error, waits, throttle)
                continue
            self.monitor.fault(task, None)
            waits = backoff()
            with anyio.move_on_after(self.settings.sweep_interval):
                await anyio.sleep_forever()

    async def _sweep(self) -> None:
        """Find work that no notification told of."""
        async with self.databases.supabase.connection() as supabase:
            for name in await queue.has_work(supabase, ENTITIES.values(), self.databases.postponed):
                if name in self._waiting and name not in self._helping and not self.wakeups[name].is_set:
                    self.monitor.swept(name)
                self.wake(name)

    async def _count(self) -> None:
        """Count where the records stand, after every change and at every sweep interval, for ever. A count
        that fails is told and holds up nothing.
        """
        throttle = LogThrottle()
        while True:
            counting = 0.0
            try:
                async with self.databases.supabase.connection() as supabase:
                    began = time.perf_counter()
                    status = await read_status(supabase, ENTITIES.values())
                counting = time.perf_counter() - began
            except (psycopg.Error, OSError) as error:
                # Only a count that the server was busy with is paused after: not a wait for a lost connection.
                if isinstance(error, psycopg.errors.QueryCanceled):
                    counting = COUNT_SECONDS
                reason = with_database(error)
                self.monitor.not_counted(reason)
                if (times := throttle.seen(reason)) is not None:
                    log.warning("count.failed", error=reason, times=times)
            else:
                self.monitor.counted(status, counting)
            await anyio.sleep(max(COUNT_PAUSE, COUNT_SHARE * counting))
            with anyio.move_on_after(self.settings.sweep_interval):
                await self.counts_changed.wait()

    async def _fault(
        self, task: str, error: psycopg.Error | OSError, waits: Iterator[float], throttle: LogThrottle
    ) -> None:
        """Wait a fault out. What an operator has to fix is waited for too: all else goes on meanwhile."""
        reason, pause = with_hint(with_database(error), hint_for(error)), next(waits)
        self.monitor.fault(task, reason)
        self.monitor.retry(task, error)
        if (times := throttle.seen(reason)) is not None:
            log.warning("worker.fault", task=task, error=reason, times=times, pause=round(pause, 2))
        if pause == 0:
            await self.databases.neon.renew()
            await self.databases.supabase.renew()
        await anyio.sleep(pause)


async def _serve(http: Server, link: socket.socket, served: Event) -> None:
    try:
        await http.serve(sockets=[link])
    finally:
        served.set()
