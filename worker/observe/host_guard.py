"""Guards the health address against connections that would keep a probe waiting, and against other web pages."""

from __future__ import annotations

import asyncio
import ipaddress

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 5.0
"""How long a client may take to send a request, the first or a later one."""
CONNECTIONS = 128
"""Connections at most; one more replaces the oldest that asks nothing, or else the oldest."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer that does not set them itself."""


class Connection(H11Protocol):
    """An HTTP connection that has to ask soon, and is replaced by newer ones where there are too many."""

    _late: asyncio.TimerHandle | None = None
    since = 0.0
    """When it was made, by the loop's clock."""

    @property
    def idle(self) -> bool:
        """Whether it has no request that is being answered."""
        # None before the first request, though its annotation does not say so.
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, and make room."""
        self.since = self.loop.time()
        super().connection_made(transport)
        others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        if len(others) >= CONNECTIONS:
            oldest = min(others, key=lambda one: (not one.idle, one.since))
            self.connections.discard(oldest)
            oldest.transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; a request that is not complete does not stop the clock."""
        if self.idle:
            self._wait()
        super().data_received(data)
        if not self.idle:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. Where a request of it is being answered, or was, no second answer follows."""
        if self.cycle is not None:
            # Its answer, where it has not begun, is dropped: the connection takes no further request.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class HostGuard:
    """Refuses host names that are not this machine's, and adds the headers that restrict what a browser does."""

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        """Stand before an application.

        Args:
            app: what answers.
            local: it is bound to this machine only, so that a request by another name was sent by a web page whose
                name now points here (DNS rebinding).
        """
        self._app, self._local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        app = self._app
        if self._local and not _names_this_machine(Headers(scope=scope).get("host", "")):
            app = PlainTextResponse("ask for it by an IP address or as localhost\n", status_code=421)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, answer)


def is_local(host: str) -> bool:
    """Whether an address to bind is this machine's own."""
    return host == "localhost" or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names_this_machine(host: str) -> bool:
    """Whether a Host header is an IP address or localhost: no name that another's DNS decides."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
