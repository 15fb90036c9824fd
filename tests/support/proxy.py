"""A TCP proxy that misbehaves on request: it delays, cuts, swallows, and cuts in the middle of a message."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

RESET = struct.pack("ii", 1, 0)


COMMITTED = {"neon": b"Z\0\0\0\5I", "supabase": b"COMMIT\0"}
"""Link → what the server says when a delivery's transaction there has committed. A settlement in Neon has no COMMIT: it ends
with the sync, which is answered by ReadyForQuery.
"""


class Proxy:
    """In front of one server. Every fault can be undone; ``faults`` counts those that struck."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._url = url
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.delay = 0.0
        """Seconds added to each direction."""
        self.deaf = False
        """Bytes are accepted and dropped silently."""
        self.closed = False
        """New connections are cut at once."""
        self._cut_answer: bytes | None = None
        self._cut_after: int | None = None
        self.faults = 0
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A blocked accept does not notice a close: shut down first.
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut()

    @property
    def url(self) -> str:
        """The server's address, through the proxy."""
        parts = urlsplit(self._url)
        user = f"{parts.username}@" if parts.username else ""
        return urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{self.port}"))

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.faults += 1
            for end in pair:
                _close(end, reset=True)

    def hear_again(self) -> None:
        """End the deafness. What was swallowed is lost, so the connections are cut."""
        self.deaf = False
        self.cut()

    def cut_on_answer(self, text: bytes) -> None:
        """Swallow the server's next message that holds ``text``, and cut: the answer never arrives."""
        self._cut_answer = text

    def cut_after(self, number: int) -> None:
        """Cut in the middle of what the client sends, after so many more bytes."""
        self._cut_after = number

    def _until_the_cut(self, block: bytes) -> bytes | None:
        with self._lock:
            if self._cut_after is None:
                return None
            part, left = block[: self._cut_after], self._cut_after - len(block)
            self._cut_after = left if left > 0 else None
            return part if left <= 0 else None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            try:
                if self.closed:
                    raise ConnectionError
                server = socket.create_connection(self._target, timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            pair = (client, server)
            for end in pair:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                # Closed while the server was reached: the cut of all there were has missed this one.
                if not self.closed:
                    self._pairs.append(pair)
            if self.closed:
                client.close()
                server.close()
                continue
            threading.Thread(target=self._pump, args=(pair, client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(pair, server, client, False), daemon=True).start()

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket, up: bool
    ) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                if self.delay:
                    time.sleep(self.delay)  # the link's latency
                if self.deaf:
                    self.faults += 1
                    continue
                if not up and self._cut_answer and self._cut_answer in block:
                    self._cut_answer = None
                    self.cut()
                    return
                if up and (part := self._until_the_cut(block)) is not None:
                    sink.sendall(part)
                    self.cut()
                    return
                sink.sendall(block)
        for end in pair:
            _close(end)
        with self._lock, suppress(ValueError):
            self._pairs.remove(pair)


def _close(end: socket.socket, *, reset: bool = False) -> None:
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
    end.close()
