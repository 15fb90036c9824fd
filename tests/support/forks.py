"""Workers that start in milliseconds: each is forked from a process that has loaded the worker's code, and is a process
of its own from then on, with its own connections. ``kill -9`` does to it what it does to any other.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

_PR_SET_PDEATHSIG = 1


class Nursery:
    """The process that has loaded the code, and forks whatever is asked of it. Its children die with it."""

    def __init__(self) -> None:
        self._one_asks = threading.Lock()
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
        with self._one_asks:
            socket.send_fds(self._link, [json.dumps(what).encode()], fds)
            return json.loads(self._link.recv(4096))

    def start(self, command: list[str], environment: dict[str, str], folder: Path, *fds: int) -> int:
        """Fork a command of the worker, with these for stdin, stdout and stderr; its number."""
        pid = self.ask({"command": command, "environment": environment, "folder": str(folder)}, *fds)
        assert pid
        return pid


def _has_ended(process: int, seconds: float | None) -> bool:
    """Wait for the end of a process by its descriptor, and ask nobody meanwhile."""
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    return bool(waiting.poll(None if seconds is None else seconds * 1000))


class Forked:
    """A command of the worker as :class:`subprocess.Popen` has it: stdin is empty or ``input``, stderr is a pipe,
    stdout too where it is wanted.
    """

    def __init__(
        self,
        nursery: Nursery,
        command: list[str],
        environment: dict[str, str],
        folder: Path,
        *,
        input: str = "",
        stdout: bool = True,
    ) -> None:
        self._nursery = nursery
        self.args = ["enrichment-worker", *command]
        self.returncode: int | None = None
        with tempfile.TemporaryFile() as given, ExitStack() as theirs:
            given.write(input.encode())
            given.seek(0)
            ends = []
            for wanted in (stdout, True):
                ours, end = os.pipe() if wanted else (None, os.open(os.devnull, os.O_WRONLY))
                theirs.callback(os.close, end)
                ends.append((ours, end))
            self.pid = nursery.start(command, environment, folder, given.fileno(), *(end for _, end in ends))
            self._ended = os.pidfd_open(self.pid)
        self.stdout, self.stderr = (os.fdopen(ours, encoding="utf-8") if ours is not None else None for ours, _ in ends)

    def poll(self) -> int | None:
        """The exit status, if it has ended; negative: the signal that ended it."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})
            if self.returncode is not None:
                os.close(self._ended)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status.

        Raises:
            subprocess.TimeoutExpired: it goes on for longer.
        """
        if self.poll() is None and not _has_ended(self._ended, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        while (status := self.poll()) is None:
            pass  # it has ended, and is about to be seen
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it writes, and its end. It is killed where it goes on for longer."""
        said: dict[int, str] = {}

        def read(number: int, stream: IO[str]) -> None:
            with stream:
                said[number] = stream.read()

        streams = [(number, stream) for number, stream in enumerate((self.stdout, self.stderr)) if stream]
        readers = [threading.Thread(target=read, args=each, daemon=True) for each in streams]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for reader in readers:
            reader.join()
        return said.get(0, ""), said.get(1, "")

    def send_signal(self, number: int) -> None:
        """Send it, if the process is still there: its number is its own until its status was asked for."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Fork:
    """One command of the worker, and what it logs."""

    def __init__(self, nursery: Nursery, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._nursery = nursery
        self.returncode: int | None = None
        self.events: list[dict[str, Any]] = []
        self.noise: list[str] = []
        ours, theirs = os.pipe()
        nowhere = os.open(os.devnull, os.O_RDWR)
        out = nowhere if command == ["run"] else theirs
        self.pid = nursery.start(command, environment, folder, nowhere, out, theirs)
        self._ended = os.pidfd_open(self.pid)
        os.close(theirs)
        os.close(nowhere)
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
            if self.returncode is not None:
                os.close(self._ended)
        return self.returncode

    def wait(self, seconds: float) -> int | None:
        """The exit status; None if it goes on for longer than this."""
        if self.poll() is None and _has_ended(self._ended, seconds):
            while self.poll() is None:
                pass  # it has ended, and is about to be seen
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
    # Loaded once, for all: what the event loop loads when it starts, and the commands.
    import anyio._backends._asyncio  # noqa: F401 - it is named in a string only
    import uvloop  # noqa: F401

    import worker.cli.entities
    import worker.cli.faults
    import worker.cli.main
    import worker.cli.operator
    import worker.cli.run
    import worker.cli.setup
    import worker.cli.stages  # noqa: F401 - a command loads what it needs when it runs
    from worker.entities.folder import entity_folder
    from worker.entities.loader import load_entities

    for folder in (None, entity_folder()):
        load_entities(folder)
    gc.collect()
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(link, 1 << 20, 3)
        if not message:
            os._exit(0)  # whoever asked is gone, and the children go with this process
        asked = json.loads(message)
        if "command" in asked:
            answer: int | None = os.fork()
            if answer == 0:
                link.close()
                _become(asked, fds)
            for fd in fds:
                os.close(fd)
        else:
            answer = _status_of(asked["poll"])
        link.send(json.dumps(answer).encode())


def _status_of(pid: int) -> int | None:
    if not pid:
        return None
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _load_what_python_loads_at_its_start(path: str) -> None:
    """A ``sitecustomize`` of the test's own; modules that it changes are loaded already."""
    for folder in filter(None, path.split(os.pathsep)):
        if (file := Path(folder) / "sitecustomize.py").exists():
            spec = importlib.util.spec_from_file_location("sitecustomize", file)
            assert spec
            assert spec.loader
            sys.modules["sitecustomize"] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return


def _become(asked: dict[str, Any], fds: list[int]) -> NoReturn:
    code: int = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests with nohup ignores it
        for standard, fd in enumerate(fds):
            os.dup2(fd, standard)
            os.close(fd)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.argv = ["enrichment-worker", *asked["command"]]
        random.seed()  # no child pauses as its siblings do
        _load_what_python_loads_at_its_start(asked["environment"].get("PYTHONPATH", ""))
        from worker.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    _serve(socket.socket(fileno=int(sys.argv[1])))
