"""Processes of the bench: started with both addresses, ready when they say so, ended for certain."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent
_PR_SET_PDEATHSIG = 1
_OURS = ("WORKER_", "NEON_", "SUPABASE_", "N8N_", "PG", "CREDENTIALS_DIRECTORY")


class Failed(Exception):
    """A contestant, or a step of the bench, failed. The text says how, in one line."""


class TimedOut(Failed):
    """It took longer than it may."""


class Skipped(Failed):
    """Something that a contestant needs is not on this machine, and cannot be had."""


def environment(neon_url: str, supabase_url: str, **more: str) -> dict[str, str]:
    """What a process is started with: this machine's environment without its own settings of databases."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {
        **outside,
        "PYTHONPATH": str(ROOT),
        "NEON_DATABASE_URL": neon_url,
        "SUPABASE_DATABASE_URL": supabase_url,
        "WORKER_HEALTH_ADDRESS": "127.0.0.1:0",
        "WORKER_LOG_FORMAT": "json",
        "WORKER_PULL_INTERVAL": "24h",
        **more,
    }


def await_that(what: str, test: Callable[[], bool], *, seconds: float, pause: float = 0.02) -> None:
    """Observation until it is so.

    Raises:
        TimedOut: it did not become so.
    """
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)


class Process:
    """A process whose output goes to a file; a context manager that ends it and all its children."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as sink:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *command], env=dict(env), cwd=log.parent, stdin=subprocess.DEVNULL,
                stdout=sink, stderr=sink, start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, word: str, *, seconds: float = 60.0) -> None:
        """Wait until its output holds ``word``.

        Raises:
            Failed: it ended, or did not say it in time.
        """

        def said() -> bool:
            if word in self.log.read_text(errors="replace"):
                return True
            self.check()
            return False

        await_that(f"{word!r} from the contestant", said, seconds=seconds)

    def check(self) -> None:
        """Raise :class:`Failed` where it has ended, with the last line it wrote."""
        if self.popen.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise Failed(f"ended with status {self.popen.returncode}: {lines[-1][:300] if lines else 'in silence'}")

    def peak_memory(self) -> int | None:
        """The most memory it ever held (VmHWM), in bytes; ``None`` where the system does not tell."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None

    def stop(self, *, seconds: float = 20.0) -> None:
        """SIGTERM, then, where that does not help, SIGKILL to its group."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=seconds)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def run(command: Sequence[str], env: Mapping[str, str], *, seconds: float, python: bool = True) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        Failed: it ended with another status than 0, or not in time.
    """
    line = [sys.executable, "-m", *command] if python else list(command)
    try:
        done = subprocess.run(
            line, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(f"{' '.join(command[:3])}: not within {seconds:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise Failed(f"{' '.join(command[:3])} ended with {done.returncode}: {lines[-1][:300] if lines else ''}")
    return done.stdout


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
