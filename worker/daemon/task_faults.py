"""The faults of a task of ``run``: reported, logged, and retried after the delays of :mod:`worker.postgres.backoff`."""

from __future__ import annotations

import time

import structlog

from worker.observe.monitor import Monitor
from worker.postgres.backoff import LogThrottle, backoff
from worker.postgres.errors import with_database
from worker.postgres.hints import hint_for, with_hint
from worker.sync.databases import Databases

log = structlog.get_logger("worker.daemon")


class RetryTimer:
    """The delay before the next try: none at first, longer with each one that does not succeed."""

    def __init__(self) -> None:
        self._delays = backoff()
        self._due: float | None = None

    def start(self) -> float:
        """Start the next delay; returns its seconds."""
        delay = next(self._delays)
        self._due = time.monotonic() + delay
        return delay

    def reset(self) -> None:
        """Start again from the shortest delay: a try succeeded."""
        self._delays, self._due = backoff(), None

    @property
    def remaining(self) -> float | None:
        """Seconds until the next try, 0 where it is due; None: nothing is to be tried again."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())


class TaskFaults:
    """One task's faults and retries. What an operator has to fix is retried too: everything else goes on meanwhile."""

    def __init__(self, task: str, databases: Databases, monitor: Monitor) -> None:
        """Begin with a task that works.

        Args:
            task: its name, as ``/readyz`` and the log have it.
            databases: whose connections are replaced after a fault.
            monitor: shows the fault until it is cleared.
        """
        self._task, self._databases, self._monitor = task, databases, monitor
        self._throttle = LogThrottle()
        self.timer = RetryTimer()
        self.failing = False
        """Whether a fault is shown."""

    async def failed(self, error: Exception, reason: str | None = None) -> float:
        """Report and log a fault.

        Args:
            error: the fault.
            reason: its line for ``/readyz`` and the log; by default the error's own, with a hint.

        Returns:
            Seconds until the next try. Before the first retry, which is immediate, dead connections are replaced.
        """
        reason = reason or with_hint(with_database(error), hint_for(error))
        delay = self.timer.start()
        self.report(reason)
        self._monitor.retry(self._task, error)
        if (times := self._throttle.seen(reason)) is not None:
            log.warning("worker.fault", task=self._task, error=reason, times=times, pause=round(delay, 2))
        if delay == 0:
            await self._databases.neon.renew()
            await self._databases.supabase.renew()
        return delay

    def report(self, reason: str) -> None:
        """Show why the task does not do its work."""
        self.failing = True
        self._monitor.fault(self._task, reason)

    def clear(self) -> None:
        """Show that the task works, or has nothing to do."""
        self.failing = False
        self._monitor.fault(self._task, None)

    def succeeded(self) -> None:
        """Show that the task works; its next fault is retried at once."""
        self.clear()
        self.timer.reset()
