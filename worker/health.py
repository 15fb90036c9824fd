"""What the worker knows of its own health, and the HTTP that says it. A probe queries no database."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

STALLED_SECONDS = 180.0
"""A loop that has not turned for this long hangs: every batch is bounded well below."""


@dataclass
class Monitor:
    """What the tasks report, in one place. Times are of the monotonic clock, in seconds."""

    faults: dict[str, str] = field(default_factory=lambda: {"listener": "not listening yet"})
    """Task → why it does not do its work right now."""
    turned: dict[str, float] = field(default_factory=dict)
    """Task → when its loop last turned."""

    def fault(self, task: str, reason: str | None) -> None:
        """Say why a task does not do its work; None: it does."""
        if reason is None:
            self.faults.pop(task, None)
        else:
            self.faults[task] = reason

    def turn(self, task: str) -> None:
        """Say that a task's loop turned."""
        self.turned[task] = time.monotonic()

    def stalled(self) -> list[str]:
        """The tasks whose loop hangs."""
        now = time.monotonic()
        return [f"{task} hangs" for task, at in self.turned.items() if now - at > STALLED_SECONDS]

    def unready(self) -> list[str]:
        """Why the worker does not do its job at the moment."""
        return [f"{task}: {reason}" for task, reason in self.faults.items()] + self.stalled()


def application(monitor: Monitor) -> Starlette:
    """The addresses of SPEC 9."""

    async def healthz(_: Request) -> JSONResponse:
        return _report(monitor.stalled())

    async def readyz(_: Request) -> JSONResponse:
        return _report(monitor.unready())

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])


def _report(reasons: list[str]) -> JSONResponse:
    return JSONResponse(
        {"ok": not reasons, "reasons": reasons},
        status_code=503 if reasons else 200,
        headers={"Cache-Control": "no-store"},
    )


class Server(uvicorn.Server):
    """uvicorn inside somebody else's task group: signals are not its business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the daemon."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def server(monitor: Monitor) -> Server:
    """The HTTP server; ``serve(sockets=[…])`` runs it until ``should_exit``."""
    config = uvicorn.Config(
        application(monitor), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    return Server(config)
