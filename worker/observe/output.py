"""What a process writes to: results to stdout, all else to stderr. Neither may harm the work.

What goes to stderr is written by a thread of its own. Where it cannot be written, or nobody reads it, lines are lost
and counted, and nobody waits. Results are wanted: where they cannot be written, the command ends and says so.
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
PIECE = 4096
"""Bytes written at once: a pipe takes so many whole."""
STALL_SECONDS = 2.0
"""A reader that takes nothing for so long is not waited for."""
FINISH_SECONDS = 10.0
"""How long the end of the process waits for a reader that reads slowly."""
RETRY_SECONDS = 1.0
"""How soon it is tried again to say that lines were lost."""

closed: set[int] = set()
"""Those of the three standard descriptors that were closed when the process began."""


class NotWritten(Exception):
    """The results could not be written to stdout. No ``OSError``: nobody takes it for a database's."""

    def __init__(self, error: OSError) -> None:
        """Keep why."""
        super().__init__(error.strerror or str(error))
        self.unread = error.errno == errno.EPIPE
        """Whether the reader has enough and went away."""


class Spool:
    """Lines on their way to a descriptor. Whoever puts one there is never held up by the descriptor."""

    def __init__(self, descriptor: int, limit: int = LIMIT) -> None:
        """Nothing is written, and no thread begun, before there is a line.

        Args:
            descriptor: an open one.
            limit: bytes that may wait.
        """
        self.lost = 0
        """Lines that were lost since the start."""
        self.loss_in_words: Callable[[int], str] = _loss_in_words
        """The line that says how many were lost."""
        self._descriptor, self._limit = descriptor, limit
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._untold = 0
        self._busy = self._torn = False
        self._pieces = 0
        """Written so far, or given up."""
        self._stalled: int | None = None
        """How many were, when it was last waited for in vain."""
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, data: bytes) -> None:
        """Have it written soon."""
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
        """Wait until all is written, as long as somebody reads, and no longer than this."""
        with self._change:
            self._wait(lambda: not self._waiting and not self._busy, seconds)

    def _wait(self, done: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait for something while pieces are being written; says whether it came about."""
        deadline = time.monotonic() + seconds
        while not done():
            pieces, left = self._pieces, deadline - time.monotonic()
            if pieces == self._stalled or not self._change.wait_for(
                lambda: done() or self._pieces != pieces,  # noqa: B023 - it is called in this turn only
                max(0.0, min(STALL_SECONDS, left)),
            ):
                self._stalled = pieces
                return False
        return True

    def _lose(self, data: bytes) -> None:
        lines = data.count(b"\n")
        self.lost += lines
        self._untold += lines

    def _work(self) -> None:
        written = True
        while True:
            with self._change:
                while not self._waiting:
                    self._busy = False
                    self._change.notify_all()
                    if self._untold and not self._change.wait(RETRY_SECONDS):
                        break
                    if not self._untold:
                        self._change.wait()
                self._busy = True
                piece = self._next_piece()
            if piece:
                written = self._write(piece)
            with self._change:
                self._size -= len(piece)
                self._pieces += 1
                self._change.notify_all()
                untold = 0 if self._waiting else self._untold
            # After what had come before the loss, as soon as it can be told.
            if untold and (written or not piece):
                written = self._tell(untold)

    def _next_piece(self) -> bytes:
        """As many lines as are written at once, or one that is longer."""
        piece = self._waiting.popleft() if self._waiting else b""
        while self._waiting and len(piece) + len(self._waiting[0]) <= PIECE:
            piece += self._waiting.popleft()
        return piece

    def _tell(self, lines: int) -> bool:
        if told := self._write(self.loss_in_words(lines).encode(), count=False):
            with self._change:
                self._untold -= lines
        return told

    def _write(self, data: bytes, *, count: bool = True) -> bool:
        """Write it all; where that fails, the rest is lost."""
        rest = memoryview(b"\n" + data if self._torn else data)
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
            self._torn = rest[written - 1] != ord("\n") if written else self._torn
            rest = rest[written:]
        # A prompt or a bar that ends in no newline is whole all the same.
        self._torn = False
        return True

    def _await_room(self) -> None:
        """The descriptor is somebody's who made it non-blocking."""
        ear = select.poll()
        ear.register(self._descriptor, select.POLLOUT)
        ear.poll(1000)


def _loss_in_words(lines: int) -> str:
    return f"enrichment-worker: {lines} lines that belong here could not be written\n"


def _may_wait() -> bool:
    """Whether waiting holds up nobody: the main thread has no event loop. What is read is worth waiting for then."""
    if threading.current_thread() is not threading.main_thread():
        return False
    import asyncio  # noqa: PLC0415 - takes as long to load as all of `--help`, which never comes here

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


class _Stderr(io.RawIOBase):
    """Stands in for stderr's descriptor, so that whoever writes there goes by the spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._tty = spool, os.isatty(2)

    def write(self, data: ReadableBuffer) -> int:
        self._spool.put(bytes(data))
        return memoryview(data).nbytes

    def isatty(self) -> bool:
        return self._tty

    def fileno(self) -> int:
        return 2

    def writable(self) -> bool:
        return True


class _Stdout(io.FileIO):
    """Stdout's descriptor, whose failure is told as what it is."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is left in buffers goes nowhere, and complains no more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise NotWritten(error) from None


_spool = Spool(2)


def prepare() -> None:
    """Give the process three standard descriptors that are open, and streams that harm nobody."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest number that is free: this one. Else a socket would, and be taken for stdout.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            closed.add(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, for good
    results = io.BufferedWriter(_Stdout(1, "w", closefd=False))
    errors = sys.stdout.errors if sys.stdout else None
    sys.stdout = io.TextIOWrapper(results, _encoding(sys.stdout), errors, line_buffering=os.isatty(1))
    # It is written to by the line: a raw stream needs no buffer between, as with `python -u`.
    raw: Any = _Stderr(_spool)
    sys.stderr = io.TextIOWrapper(raw, _encoding(sys.stderr), "backslashreplace", line_buffering=True)


def _encoding(stream: TextIO | None) -> str:
    return stream.encoding if stream else "utf-8"


def finish() -> None:
    """Write what waits, as long as somebody reads it. The process may end then."""
    sys.stderr.flush()
    _spool.finish()


def lost() -> int:
    """Lines for stderr that were lost since the start."""
    return _spool.lost


def tell_losses(in_words: Callable[[int], str]) -> None:
    """Say losses so: a line, from the number of lost ones."""
    _spool.loss_in_words = in_words
