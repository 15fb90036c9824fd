"""A stream of rows from one database, cut into batches for the other, and read ahead."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from anyio import BrokenResourceError, create_memory_object_stream, create_task_group

BATCH_BYTES = 64 * 1024 * 1024
"""A batch of large rows ends at this size: a database takes 1 GB at once, and this process has less memory."""
BLOCKS_AHEAD = 2
"""Blocks of rows that are read before they are asked for."""


class ReadAhead:
    """Reads blocks while earlier ones are written: each database works while the other one does. An async context
    manager; the source is closed at its end.
    """

    def __init__(self, rows: AsyncGenerator[list[bytes]]) -> None:
        """Nothing is read before ``async with``."""
        self._rows = rows
        self._into, self._blocks = create_memory_object_stream[list[bytes]](BLOCKS_AHEAD)
        self._tasks = create_task_group()
        self._failure: Exception | None = None

    async def __aenter__(self) -> AsyncIterator[list[bytes]]:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._read)
        return self._each()

    async def __aexit__(self, *_: object) -> None:
        # Not cancelled, which would leave the COPY running on the server: the reader ends when nobody takes its block.
        self._blocks.close()
        # The group is not told of an error: it would put it into another one.
        await self._tasks.__aexit__(None, None, None)

    async def _read(self) -> None:
        async with self._into, aclosing(self._rows):
            try:
                async for block in self._rows:
                    await self._into.send(block)
            except BrokenResourceError:
                pass  # nobody reads any more
            except Exception as error:  # noqa: BLE001 - raised where the rows are taken, and not in a group
                self._failure = error

    async def _each(self) -> AsyncIterator[list[bytes]]:
        async for block in self._blocks:
            yield block
        if self._failure:
            raise self._failure


class Batches:
    """Cuts a stream of rows into batches, buffering at most one extra block."""

    def __init__(self, rows: AsyncIterator[list[bytes]], size: int) -> None:
        self._source, self._size = rows, size
        self._next: list[bytes] = []
        self.rows = 0
        """Of the latest batch."""

    async def more(self) -> bool:
        """Whether there is another row."""
        self._next = self._next or await anext(self._source, [])
        return bool(self._next)

    async def blocks(self) -> AsyncIterator[list[bytes]]:
        """The next batch, block by block."""
        self.rows, size = 0, 0
        while self.rows < self._size and size < BATCH_BYTES and await self.more():
            block, self._next = self._next[: self._size - self.rows], self._next[self._size - self.rows :]
            self.rows += len(block)
            size += sum(map(len, block))
            yield block

    async def next_batch(self) -> list[bytes]:
        """The next batch."""
        return [row async for block in self.blocks() for row in block]
