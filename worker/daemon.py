"""What ``run`` is made of: a listener, a courier for each entity, a sweep, a pull, the health address."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import anyio
import psycopg
import structlog

from worker import staging, workspace
from worker.bridge import Bridge, open_bridge
from worker.delivery import deliver
from worker.entities import ENTITIES, Entity
from worker.faults import Kind, Storm, in_one_line, kind_of, pauses
from worker.health import Monitor, bind, server
from worker.listener import Bell, listen
from worker.pull import pull
from worker.settings import Settings, SettingsError

log = structlog.get_logger("worker.daemon")


async def run(settings: Settings, *, ready: Callable[[str], None] = lambda _address: None) -> None:
    """Run until SIGTERM or SIGINT: no new batch then, the running one is finished.

    Args:
        settings: all of them.
        ready: called once, with the health address, when it listens.

    Raises:
        SettingsError: the health address cannot be bound.
        Unreachable, SetupMissing: see :func:`worker.bridge.open_bridge`.
    """
    try:
        link = bind(settings.health_host, settings.health_port)
    except OSError as error:
        raise SettingsError(
            [f"WORKER_HEALTH_ADDRESS: {settings.health_address} cannot be bound ({error.strerror}); set another"]
        ) from None
    with link:
        host, port = link.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        async with open_bridge(settings) as bridge:
            await _Daemon(bridge, settings).run(link, partial(ready, address), address)


class _Daemon:
    def __init__(self, bridge: Bridge, settings: Settings) -> None:
        self.bridge, self.settings = bridge, settings
        self.monitor = Monitor()
        self.bells = {name: Bell() for name in ENTITIES}
        self._said_ready = False

    async def run(self, link: object, ready: Callable[[], None], address: str) -> None:
        http = server(self.monitor)
        async with anyio.create_task_group() as serving:
            serving.start_soon(partial(http.serve, sockets=[link]))  # type: ignore[list-item]
            async with anyio.create_task_group() as tasks:

                def report(reason: str | None) -> None:
                    self.monitor.fault("listener", reason)
                    if reason is None and not self._said_ready:
                        self._said_ready = True
                        log.info("worker.ready", health_address=address)
                        ready()

                tasks.start_soon(listen, self.settings.listen_conninfo, workspace.CHANNEL, self.ring, report)
                for entity in ENTITIES.values():
                    tasks.start_soon(self._carry, entity)
                tasks.start_soon(self._every, "sweep", self._sweep)
                tasks.start_soon(self._every, "pull", self._pull)
                await _signalled()
                log.info("worker.stopping")
                self.bridge.stop.set()
                # What is under way is shielded and bounded; all else ends here.
                tasks.cancel_scope.cancel()
            http.should_exit = True
        log.info("worker.stopped")

    def ring(self, name: str | None) -> None:
        """Wake the courier of an entity, or of all."""
        for bell in [self.bells[name]] if name in self.bells else self.bells.values():
            bell.ring()

    async def _carry(self, entity: Entity) -> None:
        """Deliver whenever the bell rings, until the queue is empty. A fault halves the next batch, so
        that what cannot be carried holds up as little as possible.
        """
        waits, limit, storm = pauses(), self.bridge.batch_size, Storm()
        bell = self.bells[entity.name]
        while True:
            self.monitor.turn(entity.name)
            with anyio.move_on_after(self.settings.sweep_interval) as waiting:
                await bell.wait()
            if waiting.cancelled_caught:
                continue
            while not self.bridge.stop.is_set():
                self.monitor.turn(entity.name)
                try:
                    # Neon is not woken to learn that there is nothing to do.
                    if not self.bridge.neon.warm and not await self._has_work(entity):
                        self.monitor.fault(entity.name, None)
                        break
                    tally = await deliver(self.bridge, entity, limit=limit)
                except (psycopg.Error, OSError) as error:
                    await self._fault(entity.name, error, waits, storm)
                    limit = max(1, limit // 2)
                    continue
                self.monitor.fault(entity.name, None)
                full = tally.claimed == limit
                waits, limit = pauses(), min(limit * 2, self.bridge.batch_size)
                if not full or not tally.answered:
                    break

    async def _has_work(self, entity: Entity) -> bool:
        async with self.bridge.supabase.connection() as here:
            return bool(await workspace.has_work(here, [entity]))

    async def _every(self, task: str, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step at every sweep interval, for ever."""
        waits, storm = pauses(), Storm()
        while True:
            self.monitor.turn(task)
            try:
                await step()
            except (psycopg.Error, OSError) as error:
                await self._fault(task, error, waits, storm)
                continue
            self.monitor.fault(task, None)
            waits = pauses()
            await anyio.sleep(self.settings.sweep_interval)

    async def _sweep(self) -> None:
        """Find work that no notification told of."""
        async with self.bridge.supabase.connection() as here:
            for name in await workspace.has_work(here, ENTITIES.values()):
                self.ring(name)

    async def _pull(self) -> None:
        """Pull what is due; the position is shared, so several workers pull once."""
        async with self.bridge.supabase.connection() as here:
            names = await staging.due(here, list(ENTITIES.values()), self.settings.pull_interval)
        for name in names:
            await pull(self.bridge, ENTITIES[name])
            self.monitor.turn("pull")

    async def _fault(self, task: str, error: psycopg.Error | OSError, waits: Iterator[float], storm: Storm) -> None:
        """Wait a transient fault out; stop the process loudly for any other, which needs an operator."""
        reason, kind = in_one_line(error), kind_of(error)
        if kind is not Kind.TRANSIENT:
            log.critical("worker.broken", task=task, exc_info=error)
            raise error
        pause = next(waits)
        self.monitor.fault(task, reason)
        if (times := storm.seen(reason)) is not None:
            log.warning("worker.fault", task=task, error=reason, times=times, pause=round(pause, 2))
        if pause == 0:
            await self.bridge.neon.renew()
            await self.bridge.supabase.renew()
        await anyio.sleep(pause)


async def _signalled() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return
