"""Sends events to the status pages that are open, and waits for none of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

WATCHERS = 32
"""Status pages at most, so that opening many does not exhaust the worker."""
BACKLOG = 64
"""Events that a slow page may be behind before it is cut off; it connects again and gets the whole status."""

Event = tuple[str, dict[str, Any]]
"""Name and content of a server-sent event."""


class Feed:
    """Sends events to all watchers, and waits for none of them."""

    def __init__(self) -> None:
        self._watchers: set[MemoryObjectSendStream[Event]] = set()
        self._open = 0
        self._closed = False

    def publish(self, name: str, data: dict[str, Any]) -> None:
        """Send an event to all; a watcher that is too far behind is cut off."""
        for watcher in list(self._watchers):
            try:
                watcher.send_nowait((name, data))
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._cut(watcher)

    @property
    def watchers(self) -> int:
        """How many watch, including those that were cut off and have not disconnected yet."""
        return self._open

    @property
    def full(self) -> bool:
        """Whether no further one may watch."""
        return self._closed or self._open >= WATCHERS

    @contextmanager
    def watch(self) -> Iterator[MemoryObjectReceiveStream[Event]]:
        """The events from now on; the stream ends when the worker stops or its reader is too slow."""
        send, receive = anyio.create_memory_object_stream[Event](BACKLOG)
        if self._closed:
            send.close()
        else:
            self._watchers.add(send)
        self._open += 1
        try:
            with receive:
                yield receive
        finally:
            self._open -= 1
            self._cut(send)

    def close(self) -> None:
        """End all streams, and every later one at once."""
        self._closed = True
        for watcher in list(self._watchers):
            self._cut(watcher)

    def _cut(self, watcher: MemoryObjectSendStream[Event]) -> None:
        self._watchers.discard(watcher)
        watcher.close()
