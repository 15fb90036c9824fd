"""Real servers, real databases, real processes. ``--postgres`` chooses where the servers come from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from worker.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
VERSIONS = (16, 18)
PATIENCE = 30.0
T = TypeVar("T")
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres", choices=("auto", "embedded", "docker"), default="auto",
        help="where servers come from: testcontainers where a Docker engine answers and has the image "
        "(auto), or one of them by force",
    )  # fmt: skip
    parser.addoption("--pg-version", choices=("all", "16", "18"), default="all")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg_server" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--pg-version")
        versions = VERSIONS if wanted == "all" else (int(wanted),)
        metafunc.parametrize("pg_server", versions, indirect=True, ids=[f"pg{v}" for v in versions], scope="session")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of the crash points: where the worker was killed, what was found, what recovery did."""
    lines = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "crash point"
    ]
    if lines:
        terminalreporter.section("the worker was killed")
        for line in lines:
            terminalreporter.write_line(line)


class DockerServer:
    """PostgreSQL in a container, with the interface of :class:`EmbeddedServer` that tests use."""

    def __init__(self, version: int) -> None:
        from testcontainers.postgres import PostgresContainer

        self.version = version
        self._container = PostgresContainer(
            f"postgres:{version}", username="postgres", password="postgres", dbname="postgres", driver=None
        )
        self._container.start()

    def url(self, database: str = "postgres") -> str:
        return self._container.get_connection_url().rsplit("/", 1)[0] + f"/{database}"

    def close(self) -> None:
        self._container.stop()


Server = EmbeddedServer | DockerServer


def _docker_has(version: int) -> bool:
    # In a process of its own: the client leaves sockets open where no engine answers.
    look = f"import docker; docker.from_env(timeout=5).images.get('postgres:{version}')"
    return subprocess.run([sys.executable, "-c", look], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def pg_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each version; both databases of a test live in it."""
    choice, version = request.config.getoption("--postgres"), request.param
    if choice == "docker" or (choice == "auto" and _docker_has(version)):
        server: Server = DockerServer(version)
    else:
        server = EmbeddedServer(version)
        server.start()
    try:
        yield server
    finally:
        server.close()


@dataclass(frozen=True)
class Databases:
    neon_url: str
    supabase_url: str


def connect(url: str, **options: Any) -> psycopg.Connection[DictRow]:
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, options="-c TimeZone=UTC", **options)


@pytest.fixture
def databases(pg_server: Server) -> Iterator[Databases]:
    """Two new, empty databases."""
    number = next(_numbers)
    names = f"neon_{number}", f"supabase_{number}"
    with connect(pg_server.url()) as admin:
        for name in names:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield Databases(*(pg_server.url(name) for name in names))
        for name in names:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def neon(databases: Databases) -> Iterator[psycopg.Connection[DictRow]]:
    with connect(databases.neon_url) as connection:
        yield connection


@pytest.fixture
def supabase(databases: Databases) -> Iterator[psycopg.Connection[DictRow]]:
    with connect(databases.supabase_url) as connection:
        yield connection


@pytest.fixture
def env(databases: Databases) -> dict[str, str]:
    """The settings of the processes that a test starts; change it before."""
    return {
        "NEON_DATABASE_URL": databases.neon_url,
        "SUPABASE_DATABASE_URL": databases.supabase_url,
        "WORKER_HEALTH_ADDRESS": "127.0.0.1:0",
        "WORKER_LOG_FORMAT": "json",
    }


def _environment(env: dict[str, str]) -> dict[str, str]:
    ours = ("WORKER_", "NEON_", "SUPABASE_", "N8N_", "PG", "CREDENTIALS_DIRECTORY")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**outside, "PYTHONPATH": str(ROOT), **env}


@pytest.fixture
def cli(env: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command as a process of its own."""

    def run(*arguments: str, input: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "worker", *arguments], env=_environment(env), cwd=tmp_path,
            input=input if input is not None else "", capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def prepared(cli: Callable[..., subprocess.CompletedProcess[str]], databases: Databases) -> Databases:
    """Two databases after ``setup``."""
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    return databases


class Daemon:
    """``python -m worker run`` as a process of its own, and what it logs."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run"], env=environment, cwd=folder, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.noise.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_event(self, name: str, *, timeout: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """The first event of this name and these fields, as soon as it is logged."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": name, **fields}
            return next((e for e in self.events if wanted.items() <= e.items()), None)

        with self._news:
            self._news.wait_for(lambda: found() or not self._reader.is_alive(), timeout)
            event = found()
        assert event is not None, f"no {name}: {self.events[-5:]} {self.noise}"
        return event

    @property
    def address(self) -> str:
        return str(self.wait_event("worker.ready")["health_address"])

    def health(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def daemon(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Daemon]]:
    """Starts daemons; each is ready when the call returns."""
    started: list[Daemon] = []

    def start(*, ready: bool = True) -> Daemon:
        one = Daemon(_environment(env), tmp_path)
        started.append(one)
        if ready:
            one.wait_event("worker.ready")
        return one

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()
        one._reader.join(timeout=10)
        one.process.stderr.close()
        # One line to the operator at the end of a process that stops loudly, and nothing else.
        noise = [line for line in one.noise if not line.startswith("enrichment-worker: ")]
        assert not noise, f"the daemon wrote what is no log line: {noise}"


@pytest.fixture
def eventually() -> Callable[[Callable[[], T]], T]:
    """Looks again until there is something to see."""

    def look(at: Callable[[], T], timeout: float = PATIENCE) -> T:
        deadline = time.monotonic() + timeout
        while not (seen := at()):
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.01)  # between two looks at a real database, not to synchronise
        return seen

    return look


@pytest.fixture
def own_servers() -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """Two servers that belong to one test, which may stop and start them."""
    with EmbeddedServer(18) as neon_server, EmbeddedServer(16) as supabase_server:
        yield neon_server, supabase_server
