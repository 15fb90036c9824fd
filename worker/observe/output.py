"""What a process writes to: results to stdout, all else to stderr. Neither may harm the work.

A thread of its own writes to stderr. Where that fails, or nothing reads it, lines are lost and counted, and no task
waits. Results matter more: where they cannot be written, the command ends and says so.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LIMIT = 1024 * 1024
"""Bytes that wait to be written at most; what comes then is lost."""
CHUNK = 4096
"""Bytes written at once: a pipe takes so many without splitting them."""
STALL_SECONDS = 2.0
"""A reader that takes nothing for so long is not waited for."""
FINISH_SECONDS = 10.0
"""Seconds that the end of the process waits for a slow reader."""
RETRY_SECONDS = 1.0
"""Seconds until the next try to report that lines were lost."""

closed: set[int] = set()
"""Those of the three standard descriptors that were closed when the process began."""


class NotWritten(Exception):
    """The results could not be written to stdout. No ``OSError``, which would be taken for a database's."""

    def __init__(self, error: OSError) -> None:
        """Keep the reason."""
        super().__init__(error.strerror or str(error))
        self.unread = error.errno == errno.EPIPE
        """Whether the reader closed the pipe: it has read enough."""


class BackgroundWriter:
    """Writes lines to a descriptor from a thread: the descriptor never blocks the caller."""

    def __init__(self, descriptor: int, limit: int = LIMIT) -> None:
        """Nothing is written, and no thread begun, before there is a line.

        Args:
            descriptor: an open one.
            limit: bytes that may wait.
        """
        self.lost = 0
        """Lines that were lost since the start."""
        self.loss_in_words: Callable[[int], str] = _loss_in_words
        """Renders the line that reports how many were lost."""
        self._descriptor, self._limit = descriptor, limit
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._unreported = 0
        self._busy = self._mid_line = False
        """Whether the thread writes; whether the last byte written did not end a line."""
        self._chunks = 0
        """Chunks written so far, or given up."""
        self._stalled: int | None = None
        """How many there were when a wait last ended in vain."""
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, data: bytes) -> None:
        """Write it soon."""
        with self._change:
            fits = not self._size or self._size + len(data) <= self._limit
            if not fits and not (_may_wait() and self._wait(lambda: self._size + len(data) <= self._limit)):
                self._lose(data)
                return
            self._waiting.append(data)
            self._size += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="log", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Wait until all is written, while the reader reads, and no longer than this."""
        with self._change:
            self._wait(lambda: not self._waiting and not self._busy, seconds)

    def _wait(self, done: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait for something while chunks are being written; returns whether it came about."""
        deadline = time.monotonic() + seconds
        while not done():
            chunks, left = self._chunks, deadline - time.monotonic()
            if chunks == self._stalled or not self._change.wait_for(
                lambda: done() or self._chunks != chunks,  # noqa: B023 - it is called in this turn only
                max(0.0, min(STALL_SECONDS, left)),
            ):
                self._stalled = chunks
                return False
        return True

    def _lose(self, data: bytes) -> None:
        lines = data.count(b"\n")
        self.lost += lines
        self._unreported += lines

    def _work(self) -> None:
        written = True
        while True:
            with self._change:
                while not self._waiting:
                    self._busy = False
                    self._change.notify_all()
                    if self._unreported and not self._change.wait(RETRY_SECONDS):
                        break
                    if not self._unreported:
                        self._change.wait()
                self._busy = True
                chunk = self._next_chunk()
            if chunk:
                written = self._write(chunk)
            with self._change:
                self._size -= len(chunk)
                self._chunks += 1
                self._change.notify_all()
                unreported = 0 if self._waiting else self._unreported
            # After the lines from before the loss, as soon as it can be written.
            if unreported and (written or not chunk):
                written = self._report_loss(unreported)

    def _next_chunk(self) -> bytes:
        """As many lines as are written at once, or one that is longer."""
        chunk = self._waiting.popleft() if self._waiting else b""
        while self._waiting and len(chunk) + len(self._waiting[0]) <= CHUNK:
            chunk += self._waiting.popleft()
        return chunk

    def _report_loss(self, lines: int) -> bool:
        if reported := self._write(self.loss_in_words(lines).encode(), count=False):
            with self._change:
                self._unreported -= lines
        return reported

    def _write(self, data: bytes, *, count: bool = True) -> bool:
        """Write it all; where that fails, the rest is lost."""
        rest = memoryview(b"\n" + data if self._mid_line else data)
        while rest:
            try:
                written = os.write(self._descriptor, rest)
            except BlockingIOError:
                self._await_room()
                continue
            except OSError:
                if count:
                    with self._change:
                        self._lose(bytes(rest)[-len(data) :])
                return False
            self._mid_line = rest[written - 1] != ord("\n") if written else self._mid_line
            rest = rest[written:]
        # A prompt or a bar that ends in no newline is whole all the same.
        self._mid_line = False
        return True

    def _await_room(self) -> None:
        """Wait until a descriptor takes more that another process has made non-blocking."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll(1000)


def _loss_in_words(lines: int) -> str:
    return f"enrichment-worker: {lines} lines that belong here could not be written\n"


def _may_wait() -> bool:
    """Whether waiting blocks no task: the main thread has no event loop. A reader that reads is worth it then."""
    if threading.current_thread() is not threading.main_thread():
        return False
    import asyncio  # noqa: PLC0415 - takes as long to load as all of `--help`, which never comes here

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


class _Stderr(io.RawIOBase):
    """Stands in for stderr's descriptor, so that everything written there goes through the background writer."""

    def __init__(self, writer: BackgroundWriter) -> None:
        self._writer, self._tty = writer, os.isatty(2)

    def write(self, data: ReadableBuffer) -> int:
        self._writer.put(bytes(data))
        return memoryview(data).nbytes

    def isatty(self) -> bool:
        return self._tty

    def fileno(self) -> int:
        return 2

    def writable(self) -> bool:
        return True


class _Stdout(io.FileIO):
    """Stdout's descriptor; a failure raises :class:`NotWritten`."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is left in buffers is discarded, without further errors.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise NotWritten(error) from None


_stderr = BackgroundWriter(2)


def prepare() -> None:
    """Give the process three standard descriptors that are open, and streams that never block its work."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest free number: this one. Else a socket would get it, and output would go there.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            closed.add(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, for good
    results = io.BufferedWriter(_Stdout(1, "w", closefd=False))
    errors = sys.stdout.errors if sys.stdout else None
    sys.stdout = io.TextIOWrapper(results, _encoding(sys.stdout), errors, line_buffering=os.isatty(1))
    # It is written to by the line: a raw stream needs no buffer between, as with `python -u`.
    raw: Any = _Stderr(_stderr)
    sys.stderr = io.TextIOWrapper(raw, _encoding(sys.stderr), "backslashreplace", line_buffering=True)


def _encoding(stream: TextIO | None) -> str:
    return stream.encoding if stream else "utf-8"


def finish() -> None:
    """Write what waits, while the reader reads. The process may end then."""
    sys.stderr.flush()
    _stderr.finish()


def lost() -> int:
    """Lines for stderr that were lost since the start."""
    return _stderr.lost


def report_losses(in_words: Callable[[int], str]) -> None:
    """Set how losses are reported: a line, made from the number of lost ones."""
    _stderr.loss_in_words = in_words
