"""Tells the service manager how the worker is: ready, alive, what it is doing, stopping. See sd_notify(3).

The protocol is one datagram to ``$NOTIFY_SOCKET``, part of systemd's promise of stability, and systemd's manual
prints it to be copied: shorter than a dependency on a C library or on a package without releases since 2017.
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
from worker.postgres.errors import LogThrottle

log = structlog.get_logger("worker.systemd")

STATUS_EVERY = 5.0
"""Seconds between two words on what it is doing, at most."""
RETRY_SECONDS = 0.2
"""How soon a word that must arrive is said again to a manager that does not take it."""
LONGEST_STATUS = 500
START_SECONDS = 60.0
"""So much longer a start takes while the tasks are alive: what does not listen yet delivers all the same."""


class Supervisor:
    """The service manager, if there is one. Nothing it does or fails to do harms the worker."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        """Know where to send.

        Args:
            address: a path, or ``@`` and a name of Linux's abstract namespace; empty where nobody supervises.
            watchdog: seconds after which the manager replaces a worker it has not heard of; 0: never.
        """
        self._address, self._watchdog = address, watchdog
        self._ready = self._stopping = False
        self._owed: list[str] = []
        """What the manager has not taken and must hear."""
        self._throttle = LogThrottle()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What systemd's variables say; a watchdog that is meant for another process is left to that one."""
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
        """Whether somebody supervises."""
        return bool(self._address)

    def ready(self) -> None:
        """The worker listens: what is ordered after it may start."""
        self._ready = True
        self._send("READY=1", _status("Listening"))

    def waiting(self, reason: str, seconds: float) -> None:
        """The start waits for something, and is still alive; word will come again within so many seconds."""
        self._send(_extend(seconds), _status(f"Waiting: {reason}"))

    def stopping(self) -> None:
        """No new batch is begun; the running one is finished."""
        self._stopping = True
        self._send("STOPPING=1", _status("Stopping: finishing the running batch"))

    async def report(self, monitor: Monitor) -> None:
        """Say what the worker does, and that it is alive while its tasks are, for ever.

        The truth is ``/healthz``'s: where a task hangs, the watchdog hears nothing.
        """
        if not self:
            return
        while True:
            hangs = monitor.stalled()
            said = [] if self._stopping else [_status(monitor.in_words())]
            if not hangs and not self._ready:
                said.append(_extend(START_SECONDS))
            if not hangs and self._watchdog:
                said.append("WATCHDOG=1")
            if said:
                self._send(*said)
            pause = min(STATUS_EVERY, self._watchdog / 2 or STATUS_EVERY)
            await anyio.sleep(min(pause, RETRY_SECONDS) if self._owed else pause)

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        name = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        said = [*self._owed, *(one for one in assignments if one not in self._owed)]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
                link.setblocking(False)  # a manager that takes nothing is not waited for
                link.connect(name)
                link.send("\n".join(said).encode())
            self._owed = []
        except OSError as error:
            self._owed = [one for one in said if one in _LASTING]
            if (times := self._throttle.seen(str(error))) is not None:
                log.warning("systemd.notify_failed", error=str(error), times=times)


_LASTING = ("READY=1", "STOPPING=1")
"""What is said once, and must arrive. All else is said again, as it is by then."""


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={math.ceil(seconds * 1e6)}"


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:LONGEST_STATUS]}"
