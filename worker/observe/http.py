"""The HTTP endpoints that say how the worker is. No request queries a database."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.observe import page, runbook
from worker.observe.host_guard import Connection, HostGuard, is_local
from worker.observe.monitor import Monitor

NO_STORE = {"Cache-Control": "no-store"}


def application(monitor: Monitor) -> Starlette:
    """The addresses that docs/operating.md lists, and ``/events`` for the page. All else is 404; other methods 405."""

    async def healthz(_: Request) -> Response:
        return _report(monitor.health.stalled())

    async def readyz(_: Request) -> Response:
        health = monitor.health
        return _report(health.unready(), [*health.pauses(), *health.warnings()])

    async def metrics(request: Request) -> Response:
        text, content_type = monitor.exposition(request.headers.get("accept", ""))
        return Response(text, headers={**NO_STORE, "Content-Type": content_type})

    async def status(_: Request) -> Response:
        return JSONResponse(monitor.status(), headers=NO_STORE)

    async def root(_: Request) -> Response:
        return page.page()

    async def manual(_: Request) -> Response:
        return runbook.page()

    async def events(request: Request) -> Response:
        return page.events(request, monitor)

    addresses = {
        "/healthz": healthz, "/readyz": readyz, "/metrics": metrics, "/status.json": status, "/": root,
        "/events": events, f"/{runbook.ADDRESS}": manual,
    }  # fmt: skip
    app = Starlette(routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in addresses.items()])
    app.router.redirect_slashes = False
    return app


def _report(reasons: list[str], warnings: Sequence[str] = ()) -> JSONResponse:
    content: dict[str, object] = {"ok": not reasons, "reasons": reasons}
    if warnings:
        content["warnings"] = warnings
    if texts := [*reasons, *warnings]:
        content["runbook"] = {text: runbook.section(text) for text in texts}
    return JSONResponse(content, status_code=503 if reasons else 200, headers=NO_STORE)


class Server(uvicorn.Server):
    """uvicorn inside the daemon's task group: it handles no signals."""

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
    try:
        return socket.create_server((host, port), family=family)
    except UnicodeError:
        raise OSError(errno.EINVAL, "no host can have this name") from None


def server(monitor: Monitor, host: str) -> Server:
    """The HTTP server; ``serve(sockets=[…])`` runs it until ``should_exit``.

    Args:
        monitor: what it shows.
        host: what it is bound to.
    """
    config = uvicorn.Config(
        HostGuard(application(monitor), local=is_local(host)), http=Connection, ws="none", log_config=None,
        access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    return Server(config)
