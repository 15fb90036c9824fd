"""How ``run`` opens its databases: by hand it tries once, under a supervisor again and again."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import structlog

from worker.daemon.systemd import Supervisor
from worker.postgres.backoff import LogThrottle, backoff
from worker.settings import Settings
from worker.sync.databases import Databases, Unreachable, open_databases

log = structlog.get_logger("worker.daemon")

START_PATIENCE = 300.0
"""Seconds that a supervised start waits for a database. Then it ends, and the supervisor starts it again with the
addresses as they are by then: a wrong password cannot be told from an outage by its code."""
TRY_SECONDS = 90.0
"""Seconds: one try to reach both databases, and the delay before it, take less."""


async def reach(
    settings: Settings, supervisor: Supervisor, signals: AsyncIterator[signal.Signals], stack: AsyncExitStack
) -> Databases | None:
    """Open both databases for as long as the stack is; None where a signal came first.

    Raises:
        Unreachable: there is no supervisor, or it has waited for ``START_PATIENCE``.
    """
    databases: Databases | None = None
    stopped = False
    deadline, delays, throttle = time.monotonic() + START_PATIENCE, backoff(), LogThrottle()

    async def stop_on_signal(scope: anyio.CancelScope) -> None:
        nonlocal stopped
        await anext(signals)
        stopped = True
        scope.cancel()

    async with anyio.create_task_group() as starting:
        starting.start_soon(stop_on_signal, starting.cancel_scope)
        reason = "both databases are being reached"
        while databases is None:
            supervisor.waiting(reason, TRY_SECONDS)
            try:
                databases = await stack.enter_async_context(open_databases(settings))
            except* Unreachable as errors:
                if not supervisor or time.monotonic() > deadline:
                    raise
                reason, delay = _first(errors), next(delays)
                if (times := throttle.seen(reason)) is not None:
                    log.warning("worker.waiting", error=reason, times=times, pause=round(delay, 2))
                supervisor.waiting(reason, TRY_SECONDS)
                await anyio.sleep(delay)
        starting.cancel_scope.cancel()
    return None if stopped else databases


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
