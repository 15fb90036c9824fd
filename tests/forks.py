"""Workers that start in milliseconds: each is forked from a process that has loaded the worker's code, and is a process
of its own from then on, with its own connections. ``kill -9`` does to it what it does to any other.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1


class Nursery:
    """The process that has loaded the code, and forks whatever is asked of it. Its children die with it."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self.ask({"poll": 0})  # the code is loaded

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()
        self._process.wait(30)

    def ask(self, what: dict[str, Any], *fds: int) -> int | None:
        socket.send_fds(self._link, [json.dumps(what).encode()], fds)
        return json.loads(self._link.recv(4096))


class Fork:
    """One command of the worker, and what it logs."""

    def __init__(self, nursery: Nursery, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._nursery = nursery
        self.returncode: int | None = None
        self.events: list[dict[str, Any]] = []
        self.noise: list[str] = []
        ours, theirs = os.pipe()
        asked = {"command": command, "environment": environment, "folder": str(folder)}
        pid = nursery.ask(asked, theirs)
        assert pid
        self.pid = pid
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, encoding="utf-8") as lines:
            for line in lines:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.noise.append(line)

    def poll(self) -> int | None:
        """The exit status, if it has ended; negative: the signal that ended it."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})
        return self.returncode

    def wait(self, seconds: float) -> int | None:
        """The exit status; None if it goes on for longer than this."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)  # between two looks
        return self.returncode

    def kill(self) -> bool:
        """SIGKILL; whether it was still alive."""
        if self.poll() is not None:
            return False
        # The number is its own until the nursery has asked for its status.
        os.kill(self.pid, signal.SIGKILL)
        self.wait(30)
        return self.returncode == -signal.SIGKILL

    def close(self) -> None:
        """After its end: read all that it said."""
        self._reader.join(10)


def _serve(link: socket.socket) -> NoReturn:
    import worker.cli
    import worker.daemon  # noqa: F401 - loaded once, for all

    gc.collect()
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(link, 1 << 20, 1)
        if not message:
            os._exit(0)  # whoever asked is gone, and the children go with this process
        asked = json.loads(message)
        if "command" in asked:
            answer: int | None = os.fork()
            if answer == 0:
                link.close()
                _become(asked, fds[0])
            os.close(fds[0])
        else:
            answer = _status_of(asked["poll"])
        link.send(json.dumps(answer).encode())


def _status_of(pid: int) -> int | None:
    if not pid:
        return None
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(asked: dict[str, Any], log: int) -> NoReturn:
    code: int = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere if asked["command"] == ["run"] else log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.argv = ["enrichment-worker", *asked["command"]]
        random.seed()  # no child pauses as its siblings do
        from worker.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    _serve(socket.socket(fileno=int(sys.argv[1])))
