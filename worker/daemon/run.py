"""What ``run`` is made of: a listener, a consumer for each entity, a sweep, a pull, a count, and where events are
wanted a poster for each entity; beside them the health address and the reports to the service manager.
"""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import structlog
from anyio import Event

from worker.daemon.consumer import Consumer
from worker.daemon.counter import count_records
from worker.daemon.listener import listen
from worker.daemon.puller import Puller
from worker.daemon.signals import stopping
from worker.daemon.startup import reach
from worker.daemon.sweeper import Sweep
from worker.daemon.systemd import Supervisor
from worker.daemon.wakeup import Wakeup
from worker.daemon.webhook import Webhook, new_client, post_events
from worker.domain.signature import signing_keys
from worker.observe.http import Server, bind, server
from worker.observe.monitor import Monitor
from worker.settings import Settings, SettingsError
from worker.supabase.channels import CHANNEL
from worker.sync.databases import Databases

log = structlog.get_logger("worker.daemon")

GC_THRESHOLD = 20_000
"""New objects before the garbage collector runs: a batch makes as many, and leaves no reference cycles."""


async def run(settings: Settings, *, ready: Callable[[str], None] = lambda _address: None) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP: no new batch then, the running one is finished.

    Args:
        settings: all of them.
        ready: called once, with the health address, when it listens.

    Raises:
        SettingsError: the health address cannot be bound, or the environment's proxy not used.
        Unreachable, SetupMissing: see :func:`worker.sync.databases.open_databases`; under a supervisor an unreachable
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
        handled = stopping()
        with anyio.open_signal_receiver(*handled) as signals:
            async with AsyncExitStack() as stack:
                if databases := await reach(settings, supervisor, signals, stack):
                    # What is there now stays to the end: no collection has to look through it again.
                    gc.collect()
                    gc.freeze()
                    gc.set_threshold(GC_THRESHOLD)
                    await _run_tasks(databases, settings, supervisor, link, ready, signals)
        # Signals that come again, as systemd's second hang-up does, do not cut the last lines of the log short.
        for number in handled:
            signal.signal(number, signal.SIG_IGN)


async def _run_tasks(
    databases: Databases,
    settings: Settings,
    supervisor: Supervisor,
    link: socket.socket,
    ready: Callable[[str], None],
    signals: AsyncIterator[signal.Signals],
) -> None:
    """Start all tasks, wait for a signal, and stop them."""
    address, interval = _address(link), settings.sweep_interval
    monitor = Monitor(
        databases.entities, (databases.neon, databases.supabase), rest=interval, pull_interval=settings.pull_interval,
        postponed={name: route.postponed for name, route in databases.routes.items()},
        rules_versions={name: entity.rules.version() for name, entity in databases.entities.items()},
    )  # fmt: skip
    pull_now, counts_changed = Wakeup(), Wakeup()
    consumers = [
        Consumer(entity, databases, monitor, interval=interval, pull_now=pull_now, counts_changed=counts_changed)
        for entity in databases.entities.values()
    ]
    puller = Puller(databases, settings, monitor, consumers=consumers, pull_now=pull_now)
    sweep = Sweep(
        databases, settings, monitor, consumers=consumers, pull_now=pull_now, counts_changed=counts_changed
    )  # fmt: skip
    listens = False

    def notified(entity: str | None) -> None:
        """A notification came, or may have been missed."""
        monitor.notified(entity)
        for consumer in [one for one in consumers if one.name == entity] or consumers:
            consumer.wakeup.set()

    def report_listener(reason: str | None) -> None:
        nonlocal listens
        monitor.listening(reason)
        if reason is None and not listens:
            listens = True
            log.info("worker.ready", health_address=address)
            supervisor.ready()
            ready(address)

    async with (
        _serving(monitor, supervisor, settings.health_host, link),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listen, settings.listen_conninfo, CHANNEL, notified, counts_changed.set, report_listener)
        for consumer in consumers:
            tasks.start_soon(consumer.run)
        tasks.start_soon(sweep.run)
        tasks.start_soon(puller.run)
        tasks.start_soon(count_records, databases, monitor, counts_changed, interval)
        if settings.n8n_webhook_url:
            keys = signing_keys(settings.n8n_webhook_secret) if settings.n8n_webhook_secret else ()
            webhook = Webhook(settings.n8n_webhook_url, settings.n8n_webhook_token, keys)
            for consumer in consumers:
                tasks.start_soon(post_events, databases, consumer.entity, webhook, monitor, consumer.events.wait)
        await anext(signals)
        log.info("worker.stopping")
        supervisor.stopping()
        databases.stop.set()
        # What is under way is shielded and bounded; all else ends here.
        tasks.cancel_scope.cancel()
    log.info("worker.stopped")


@asynccontextmanager
async def _serving(monitor: Monitor, supervisor: Supervisor, host: str, link: socket.socket) -> AsyncIterator[None]:
    """Answer at the health address and report to the supervisor, until after the last task has ended."""
    http, served = server(monitor, host), Event()
    async with anyio.create_task_group() as serving:
        serving.start_soon(_serve, http, link, served)
        serving.start_soon(supervisor.report, monitor)
        try:
            yield
        finally:
            # Also where a task broke: open pages end in order.
            monitor.feed.close()
            http.should_exit = True
            with anyio.CancelScope(shield=True):
                await served.wait()
            serving.cancel_scope.cancel()


async def _serve(http: Server, link: socket.socket, served: Event) -> None:
    try:
        await http.serve(sockets=[link])
    finally:
        served.set()


def _address(link: socket.socket) -> str:
    """Where it listens, as a URL has it: port 0 has become a real one."""
    host, port = link.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
