"""A link between a contestant and the servers: a proxy in a process of its own, which adds delay and counts.

It delays by a line, not by sleeping: what is under way stays under way together, as on a real network, and
bandwidth is not touched. It counts what a client sends: connections, bytes, statements (Query and Execute
messages), and round trips: messages after which a client waits for the server (Query, Sync, Flush, Close of
a copy). `python -m bench.link PORT…` serves; :class:`Links` starts it and talks to it.
"""

from __future__ import annotations

import asyncio
import json
import select
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from bench.process import ROOT, environment

_NEGOTIATE = {80877103, 80877104}
"""SSLRequest and GSSENCRequest: the start-up message is still to come."""
TEXT = 4000
"""Characters of SQL that are kept of one round trip."""


class _Counter:
    """Reads one client's messages."""

    def __init__(self, link: int, connection: int, trips: list[dict[str, Any]]) -> None:
        self._link, self._connection, self._trips = link, connection, trips
        self._buffer = bytearray()
        self._started = False
        self._statements, self._messages = 0, 0
        self._texts: list[str] = []
        self._prepared: dict[bytes, str] = {}

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head = 1 if self._started else 0
            if len(self._buffer) < head + 4:
                return
            size = head + int.from_bytes(self._buffer[head : head + 4], "big")
            if len(self._buffer) < size:
                return
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            if self._started:
                self._take(message[:1], message[5:])
            elif int.from_bytes(message[4:8], "big") not in _NEGOTIATE:
                self._started = True

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind in b"pX":  # a password; the end
            return
        if kind == b"Q":
            self._texts.append(body.split(b"\0")[0].decode(errors="replace"))
        elif kind == b"P":
            name, text = body.split(b"\0")[:2]
            self._prepared[name] = text.decode(errors="replace")
        elif kind == b"B":  # one that was prepared earlier is sent by its name
            self._texts.append(self._prepared.get(body.split(b"\0")[1], ""))
        self._statements += kind in b"QE"
        self._messages += 1
        if kind == b"Q" or (kind in b"SHcf" and self._messages > 1):
            self._trips.append({
                "at": time.monotonic(), "link": self._link, "connection": self._connection,
                "statements": self._statements, "text": "\n".join(self._texts)[:TEXT],
            })  # fmt: skip
            self._statements, self._messages, self._texts = 0, 0, []
        elif kind in b"SH":
            self._messages = 0


class _End(asyncio.Protocol):
    """One end of a connection: what it receives leaves by the other end, later."""

    def __init__(self, proxy: _Proxy, counter: _Counter | None = None) -> None:
        self.proxy, self.counter = proxy, counter
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self._line: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()
        self._armed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.counter is not None and self.proxy.counting:
            self.counter.feed(data)
        if self.counter is not None:
            self.proxy.sent[self.proxy.index] += len(data)
        self._line.append((self._loop.time() + self.proxy.delay, data))
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.append((self._loop.time() + self.proxy.delay, b""))
        self._arm()

    def _arm(self) -> None:
        if not self._line or self._armed:
            return
        due = self._line[0][0]
        if due <= self._loop.time():
            self._release()
        else:
            self._armed = True
            self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._armed = False
        self._release()

    def _release(self) -> None:
        now = self._loop.time()
        while self._line and self._line[0][0] <= now:
            _, data = self._line.popleft()
            sink = self.other.transport if self.other else None
            if sink is None:  # the server has not accepted yet
                self._line.appendleft((now, data))
                return
            if data:
                sink.write(data)
                # A fast sender waits for a slow receiver, as in a real network.
                if self.transport and sink.get_write_buffer_size() > 1 << 22:
                    self.transport.pause_reading()
                    self._loop.call_later(0.002, self._resume)
            elif not sink.is_closing():
                sink.close()
        self._arm()

    def _resume(self) -> None:
        sink = self.other.transport if self.other else None
        if sink is not None and sink.get_write_buffer_size() > 1 << 21 and not sink.is_closing():
            self._loop.call_later(0.002, self._resume)
        elif self.transport and not self.transport.is_closing():
            self.transport.resume_reading()


class _Proxy:
    """One link."""

    def __init__(self, index: int, port: int, trips: list[dict[str, Any]], sent: list[int]) -> None:
        self.index, self.port, self.trips, self.sent = index, port, trips, sent
        self.delay, self.counting, self.connections = 0.0, False, 0
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self) -> _End:
        self.connections += 1
        client = _End(self, _Counter(self.index, self.connections, self.trips))
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return client

    async def _connect(self, client: _End) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, server = await loop.create_connection(lambda: _End(self), "127.0.0.1", self.port)
        except OSError:
            if client.transport:
                client.transport.close()
            return
        client.other, server.other = server, client
        client._arm()  # noqa: SLF001 - what came before the server was there


async def _serve(ports: Sequence[int]) -> None:
    loop = asyncio.get_running_loop()
    trips: list[dict[str, Any]] = []
    sent = [0] * len(ports)
    proxies = [_Proxy(index, port, trips, sent) for index, port in enumerate(ports)]
    doors = [await loop.create_server(proxy.accept, "127.0.0.1", 0) for proxy in proxies]
    print(json.dumps([door.sockets[0].getsockname()[1] for door in doors]), flush=True)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        for proxy in proxies:
            proxy.delay = order.get("delay", proxy.delay)
            proxy.counting = order.get("counting", proxy.counting)
        answer = {"trips": trips[:], "sent": sent[:], "connections": [proxy.connections for proxy in proxies]}
        trips.clear()
        print(json.dumps(answer), flush=True)


class Links:
    """Both links, in a process of their own; a context manager."""

    def __init__(self, urls: Sequence[str], *, delay: float = 0.0, counting: bool = False) -> None:
        """Start the links.

        Args:
            urls: the servers behind them.
            delay: seconds added to each direction.
            counting: read what clients send, and keep every round trip.
        """
        ports = [str(urlsplit(url).port) for url in urls]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.link", *ports], env=environment("", ""), cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        opened = json.loads(self._process.stdout.readline())
        self.urls = [_through(url, port) for url, port in zip(urls, opened, strict=True)]
        self.order(delay=delay, counting=counting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def order(self, **settings: Any) -> dict[str, Any]:
        """Change ``delay`` or ``counting``, and fetch what was counted: the round trips since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(settings) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))


if __name__ == "__main__":
    # epoll counts in milliseconds; select in microseconds, which a delay line needs.
    chosen = selectors.SelectSelector() if hasattr(select, "select") else None
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(chosen)) as runner:
        runner.run(_serve([int(port) for port in sys.argv[1:]]))
