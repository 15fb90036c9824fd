"""A Debian to install the worker in, for a booted machine and for a container image; kept between runs.

Nothing inside reaches a network: packages come from a wheelhouse that is filled outside.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT

SUITE, PYTHON = "bookworm", "3.11"
"""The oldest Python and nearly the oldest systemd that the worker promises to run with."""
DOWNLOAD_SECONDS = 300
PACKAGES = ("systemd", "systemd-sysv", "python3", "python3-venv")
SOURCES = ("worker", "sql", "deploy", "docs", "README.md", "constraints.txt", "pyproject.toml")


class Unavailable(Exception):
    """It cannot be had on this machine; the text says why."""


def base() -> Path:
    """The root file system of a small Debian with Python; not to be written to.

    Raises:
        Unavailable: nobody but root can make one, ``debootstrap`` is missing, or it reaches no mirror.
    """
    if os.geteuid() != 0:
        raise Unavailable("only root can make a root file system")
    if not (debootstrap := program("debootstrap")):
        raise Unavailable("debootstrap is not installed")
    with _cache() as cache:
        there = cache / f"{SUITE}-{_digest(*PACKAGES)}"
        if not there.exists():
            new = cache / "new"
            shutil.rmtree(new, ignore_errors=True)
            try:
                done = subprocess.run(
                    [debootstrap, "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, new],
                    capture_output=True, text=True, check=False, timeout=DOWNLOAD_SECONDS,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise Unavailable(f"debootstrap made no {SUITE} in {DOWNLOAD_SECONDS} s; is its mirror slow?") from None
            if done.returncode != 0:
                last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                raise Unavailable(f"debootstrap could not make {SUITE}: {' '.join(last)}")
            for left in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(new / left, ignore_errors=True)
            new.rename(there)
        return there


def wheelhouse() -> Path:
    """A folder with every package that the worker is built from and runs with, for the Python of the base.

    Raises:
        Unavailable: pip cannot find them.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    with _cache() as cache:
        there = cache / f"wheels-{_digest((ROOT / 'constraints.txt').read_text(), *wanted)}"
        if not there.exists():
            new = cache / "new-wheels"
            shutil.rmtree(new, ignore_errors=True)
            done = subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:",
                 f"--python-version={PYTHON}", f"--constraint={ROOT / 'constraints.txt'}", f"--dest={new}", *wanted],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise Unavailable(f"pip cannot fill a wheelhouse: {done.stderr.strip()[-300:]}")
            new.rename(there)
        return there


def copy_sources(to: Path) -> None:
    """What a release holds, and the wheels beside it."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)
    shutil.copytree(wheelhouse(), to / "wheels")


def program(name: str) -> str | None:
    """Where a program is, also one for administrators only."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


@contextmanager
def _cache() -> Iterator[Path]:
    """The user's cache, for one process at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enrichment-worker"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache
