"""Tells the service manager how the worker is: ready, alive, what it is doing, stopping. See sd_notify(3).

The protocol is one datagram to ``$NOTIFY_SOCKET``. systemd promises that it stays, and its manual prints code to copy:
shorter than a dependency on a C library or on a package without releases since 2017.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from typing import Self

import anyio
import structlog

from worker.observe.monitor import Monitor
from worker.postgres.backoff import LogThrottle

log = structlog.get_logger("worker.systemd")

STATUS_EVERY = 5.0
"""Seconds between two status messages at most."""
RETRY_SECONDS = 0.2
"""Seconds until a message that must arrive is sent again to a manager that does not take it."""
LONGEST_STATUS = 500
"""Characters."""
START_SECONDS = 60.0
"""Seconds by which a start is extended while the tasks are alive: before it listens, the worker delivers already."""


class Supervisor:
    """The service manager, if there is one. Nothing it does or fails to do harms the worker."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        """Know where to send.

        Args:
            address: a path, or ``@`` and a name of Linux's abstract namespace; empty where nobody supervises.
            watchdog: seconds after which the manager replaces a worker that sent no heartbeat; 0: never.
        """
        self._address, self._watchdog = address, watchdog
        self._ready = self._stopping = False
        self._unsent: list[str] = []
        """What the manager has not taken and must get."""
        self._throttle = LogThrottle()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As systemd's variables say; a watchdog that is meant for another process is left to that one."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            log.warning(
                "systemd.notify_failed", error=f"NOTIFY_SOCKET={address} is neither a path nor an abstract socket"
            )
            address = ""
        ours = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        try:
            watchdog = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if ours else 0.0
        except ValueError:
            watchdog = 0.0
        return cls(address, max(0.0, watchdog))

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def ready(self) -> None:
        """The worker listens: what is ordered after it may start."""
        self._ready = True
        self._send("READY=1", _status("Listening"))

    def waiting(self, reason: str, seconds: float) -> None:
        """The start waits for something, and is still alive; the next message comes within so many seconds."""
        self._send(_extend(seconds), _status(f"Waiting: {reason}"))

    def stopping(self) -> None:
        """No new batch is begun; the running one is finished."""
        self._stopping = True
        self._send("STOPPING=1", _status("Stopping: finishing the running batch"))

    async def report(self, monitor: Monitor) -> None:
        """Report what the worker does, and that it is alive while its tasks are, until cancelled.

        It says what ``/healthz`` says: while a task hangs, the watchdog gets no heartbeat.
        """
        if not self:
            return
        while True:
            stalled = monitor.health.stalled()
            messages = [] if self._stopping else [_status(monitor.in_words())]
            if not stalled and not self._ready:
                messages.append(_extend(START_SECONDS))
            if not stalled and self._watchdog:
                messages.append("WATCHDOG=1")
            if messages:
                self._send(*messages)
            pause = min(STATUS_EVERY, self._watchdog / 2 or STATUS_EVERY)
            await anyio.sleep(min(pause, RETRY_SECONDS) if self._unsent else pause)

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        name = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        messages = [*self._unsent, *(one for one in assignments if one not in self._unsent)]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
                link.setblocking(False)  # never wait for a manager that takes nothing
                link.connect(name)
                link.send("\n".join(messages).encode())
            self._unsent = []
        except OSError as error:
            self._unsent = [one for one in messages if one in _LASTING]
            if (times := self._throttle.seen(str(error))) is not None:
                log.warning("systemd.notify_failed", error=str(error), times=times)


_LASTING = ("READY=1", "STOPPING=1")
"""Sent once, and must arrive. All else is sent again soon, as it is by then."""


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={math.ceil(seconds * 1e6)}"


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:LONGEST_STATUS]}"
