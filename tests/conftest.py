"""Real servers, real databases, real processes. ``--postgres`` chooses where the servers come from."""

from __future__ import annotations

import gc
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from zlib import crc32

import hypothesis
import psycopg
import pytest
from declared import ENTITIES
from embedded import embedded
from forks import Forked, Nursery
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from steps import Steps

from worker.demo.embedded import EmbeddedServer
from worker.operate.setup import script

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")
ROOT = Path(__file__).parent.parent
VERSIONS = (16, 18)
PATIENCE = 30.0
DOCKER_SETTINGS = {"max_connections": "200", "shared_buffers": "32MB", "fsync": "off", "timezone": "UTC"}
T = TypeVar("T")
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres", choices=("auto", "embedded", "docker"), default="auto",
        help="where servers come from: testcontainers where a Docker engine answers and has the image "
        "(auto), or one of them by force; servers that a test stops and starts are always embedded",
    )  # fmt: skip
    parser.addoption(
        "--pg-version", choices=("either", "all", "14", "15", "16", "17", "18"), default="either",
        help="either: every test runs on 16 or 18, half of them on each; all: on both; of another version, POSTGRES_14_BIN "
        "and the like name the folder with its programs",
    )  # fmt: skip


def _versions(config: pytest.Config) -> tuple[int, ...]:
    wanted = config.getoption("--pg-version")
    return VERSIONS if wanted in ("either", "all") else (int(wanted),)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--postgres") != "docker" or hasattr(config, "workerinput"):
        return  # xdist's workers use what their controller has pulled
    for version in _versions(config):
        if trouble := _docker_trouble(version, pull=True):
            raise pytest.UsageError(f"--postgres=docker has no PostgreSQL {version}: {trouble}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What boots a machine, installs or measures first: it takes minutes, in which others wait for nothing."""
    items.sort(key=lambda item: "tests/deploy/" not in item.nodeid)


def pytest_report_header(config: pytest.Config) -> str:
    choice = config.getoption("--postgres")
    places = {
        v: "Docker" if choice == "docker" or (choice == "auto" and not _docker_trouble(v)) else "embedded"
        for v in _versions(config)
    }
    return "PostgreSQL: " + ", ".join(f"{version} {place}" for version, place in places.items())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg_server" in metafunc.fixturenames:
        versions = _versions(metafunc.config)
        if metafunc.definition.get_closest_marker("one_version"):
            versions = versions[:1]
        elif metafunc.config.getoption("--pg-version") == "either":
            # The same one in every run: by the test's name.
            versions = (versions[crc32(metafunc.definition.nodeid.encode()) % len(versions)],)
        old = pytest.mark.skip(reason="the view needs_attention needs PostgreSQL 15")
        view = metafunc.definition.get_closest_marker("needs_view")
        values = [pytest.param(v, id=f"pg{v}", marks=[old] if view and v < 15 else []) for v in versions]
        metafunc.parametrize("pg_server", values, indirect=True, scope="session")


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


def as_role(url: str, role: str, password: str) -> str:
    """The address, logged in to as somebody else."""
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{where}"))


class DockerServer:
    """PostgreSQL in a container, with the interface of :class:`EmbeddedServer` that tests use."""

    def __init__(self, version: int) -> None:
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.core.config import testcontainers_config as testcontainers

        testcontainers.max_tries = min(testcontainers.max_tries, 60)  # seconds; its 120 near a test's timeout
        self.version = version
        # The port is open to the network: a password that nobody can guess.
        self._container = PostgresContainer(
            f"postgres:{version}", username="postgres", password=secrets.token_hex(16), dbname="postgres",
            driver=None, command=["postgres", *(f"--{name}={value}" for name, value in DOCKER_SETTINGS.items())],
        )  # fmt: skip
        try:
            self._container.start()
            # Docker may give IPv4 and IPv6 different ports, and what it tells is the one of IPv4.
            host = self._container.get_container_host_ip().replace("localhost", "127.0.0.1")
            self._server = self._container.get_connection_url(host=host).rsplit("/", 1)[0]
        except BaseException:
            self.close()
            raise

    def url(self, database: str = "postgres") -> str:
        return f"{self._server}/{database}"

    def close(self) -> None:
        with _their_warnings_aside():
            self._container.stop()


Server = EmbeddedServer | DockerServer


@contextmanager
def _their_warnings_aside() -> Iterator[None]:
    """Deprecations and unclosed sockets of Docker's libraries are no failures of ours.

    It goes around a ``try`` that catches: what an error holds is not collected while it is on its way.
    """
    with warnings.catch_warnings(action="ignore"):
        try:
            yield
        finally:
            gc.collect()  # a socket that they forgot warns here, not in some test


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _docker_trouble(version: int, *, pull: bool = False) -> str | None:
    """Cause no container of this version can start, in one line; ``None`` if one can."""
    with _their_warnings_aside():
        try:
            _find_images(version, pull=pull)
        except Exception as error:  # whatever is wrong with Docker, the embedded server does the job
            return _line(error)
    return None


def _find_images(version: int, *, pull: bool) -> None:
    from docker.errors import ImageNotFound
    from testcontainers.core.config import testcontainers_config as testcontainers
    from testcontainers.core.docker_client import DockerClient

    prefix = testcontainers.hub_image_name_prefix
    with closing(DockerClient(timeout=60 if pull else 5).client) as engine:

        def find(image: str) -> None:
            try:
                engine.images.get(image)
            except ImageNotFound:
                if not pull:
                    raise
                engine.images.pull(image)

        find(f"{prefix}postgres:{version}")
        if not testcontainers.ryuk_disabled:
            try:
                find(f"{prefix}{testcontainers.ryuk_image}")
            except Exception:  # it removes what a killed run leaves behind; the tests work without it
                testcontainers.ryuk_disabled = True


def _in_docker(version: int) -> DockerServer | str:
    """A server, or in one line why there is none."""
    with _their_warnings_aside():
        try:
            return DockerServer(version)
        except Exception as error:
            return _line(error)


@pytest.fixture(scope="session")
def pg_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each version; both databases of a test live in it."""
    choice, version = request.config.getoption("--postgres"), request.param
    server: Server | None = None
    if choice != "embedded" and (not _docker_trouble(version) or choice == "docker"):
        started = _in_docker(version)
        if isinstance(started, DockerServer):
            server = started
        elif choice == "docker":
            pytest.fail(f"PostgreSQL {version} does not start in Docker: {started}", pytrace=False)
        else:
            with warnings.catch_warnings(action="always"):  # to be read, not to fail
                warnings.warn(f"PostgreSQL {version} is embedded, as in Docker: {started}", stacklevel=1)
    if server is None:
        server = embedded(version)
        server.start()
    try:
        yield server
    finally:
        server.close()


@dataclass(frozen=True)
class Databases:
    neon_url: str
    supabase_url: str
    prepared: bool = False
    """Whether they are as ``setup`` leaves them already."""


def connect(url: str, **options: Any) -> psycopg.Connection[DictRow]:
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, options="-c TimeZone=UTC", **options)


SIDES = "Neon", "Supabase"


def set_up(url: str, side: str) -> None:
    """Bring a database to what ``setup`` makes of it, by the same SQL; ``test_setup.py`` runs the command."""
    with connect(url) as connection:
        connection.execute(script(side, ENTITIES.values()))


@pytest.fixture(scope="session")
def templates(pg_server: Server) -> dict[str, str]:
    """Side → name of a database that is set up, to be copied: a copy takes half of the time that the files take."""
    names = {side: f"set_up_{side.lower()}" for side in SIDES}
    for side, name in names.items():
        with connect(pg_server.url()) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        set_up(pg_server.url(name), side)
    return names


@pytest.fixture
def databases(pg_server: Server, request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Two new databases: empty, or, for a test that asks for them ``prepared``, as ``setup`` leaves them."""
    number = next(_numbers)
    names = f"neon_{number}", f"supabase_{number}"
    prepared = "prepared" in request.fixturenames
    templates = request.getfixturevalue("templates") if prepared else dict.fromkeys(SIDES, "template1")
    with connect(pg_server.url()) as admin:
        for name, side in zip(names, SIDES, strict=True):
            # Its files are copied, not its pages: a third of the time. Versions before 15 do nothing else.
            how = " STRATEGY FILE_COPY" if admin.info.server_version >= 150000 else ""
            statement = sql.SQL(f"CREATE DATABASE {{}} TEMPLATE {{}}{how}")
            admin.execute(statement.format(sql.Identifier(name), sql.Identifier(templates[side])))
        yield Databases(*(pg_server.url(name) for name in names), prepared)
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


SECRET = "hush-3b7e0f"
"""A password that no test server asks for, in the addresses of all that tests start: nothing may ever show it."""


def with_secret(url: str) -> str:
    """The address with a password, if it had none."""
    parts = urlsplit(url)
    return url if parts.password else urlunsplit(parts._replace(netloc=parts.netloc.replace("@", f":{SECRET}@", 1)))


def leaks(env: dict[str, str], text: str) -> list[str]:
    """The settings whose secret is in the output of a process."""
    secrets_of = {name: urlsplit(value).password for name, value in env.items() if "://" in value and "@" in value}
    secrets_of |= {name: value for name, value in env.items() if name.endswith(("_TOKEN", "_KEY", "_SECRET"))}
    return [name for name, secret in secrets_of.items() if secret and (secret in text or unquote(secret) in text)]


@pytest.fixture
def env(databases: Databases, pg_server: Server) -> dict[str, str]:
    """The settings of the processes that a test starts; change it before."""
    # Docker's gateway is no loopback: there the worker asks for TLS, which the image lacks.
    insecure = {"WORKER_ALLOW_INSECURE": "1"} if isinstance(pg_server, DockerServer) else {}
    return {
        **insecure,
        "NEON_DATABASE_URL": with_secret(databases.neon_url),
        "SUPABASE_DATABASE_URL": with_secret(databases.supabase_url),
        "WORKER_HEALTH_ADDRESS": "127.0.0.1:0",
        "WORKER_LOG_FORMAT": "json",
    }


def _environment(env: dict[str, str]) -> dict[str, str]:
    ours = ("WORKER_", "NEON_", "SUPABASE_", "N8N_", "PG", "CREDENTIALS_DIRECTORY")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**outside, "PYTHONPATH": str(ROOT), **env}


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What forks the workers and commands of the tests: most of a short command's time is loading the code."""
    with Nursery() as one:
        yield one


@pytest.fixture
def cli(env: dict[str, str], tmp_path: Path, nursery: Nursery) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command as a process of its own."""

    def run(*arguments: str, input: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        process = Forked(nursery, list(arguments), _environment(env), tmp_path, input=input or "")
        stdout, stderr = process.communicate(timeout)
        done = subprocess.CompletedProcess(process.args, process.wait(), stdout, stderr)
        assert "Traceback" not in done.stderr, done.stderr
        assert not leaks(env, done.stdout + done.stderr), "a secret was shown"
        return done

    return run


@pytest.fixture
def prepared(databases: Databases) -> Databases:
    """Two databases as ``setup`` leaves them."""
    if not databases.prepared:
        for url, side in zip((databases.neon_url, databases.supabase_url), SIDES, strict=True):
            set_up(url, side)
    return databases


@pytest.fixture
def steps(prepared: Databases, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The worker's own steps, one at a time, on two databases as ``setup`` leaves them."""
    return Steps(prepared, monkeypatch.setenv)


class Daemon:
    """``enrichment-worker run`` as a process of its own, and what it logs."""

    def __init__(self, environment: dict[str, str], folder: Path, nursery: Nursery | None = None) -> None:
        self._environment = environment
        self.leaks: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._news = threading.Condition()
        # Without a nursery it starts as an operator's does, and loads all that Python is told to load.
        self.process = (
            Forked(nursery, ["run"], environment, folder, stdout=False)
            if nursery
            else subprocess.Popen(
                [sys.executable, "-m", "worker", "run"], env=environment, cwd=folder, stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL, text=True,
            )
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.leaks += leaks(self._environment, line)
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
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        self.leaks += leaks(self._environment, text)
        return status, text

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def daemon(env: dict[str, str], tmp_path: Path, nursery: Nursery) -> Iterator[Callable[[], Daemon]]:
    """Starts daemons; each is ready when the call returns."""
    started: list[Daemon] = []

    def start(*, ready: bool = True) -> Daemon:
        # What Python is told to load at its start it loads at its start only.
        one = Daemon(_environment(env), tmp_path, None if "PYTHONPATH" in env else nursery)
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
        assert not one.leaks, f"a secret was shown: {one.leaks}"
        # One line to the operator at the end of a process that stops loudly, and nothing else.
        noise = [line for line in one.noise if not line.startswith("enrichment-worker: ")]
        assert not noise, f"the daemon wrote what is no log line: {noise}"


@pytest.fixture
def project(databases, supabase) -> Iterator[None]:
    """Roles and default privileges as Supabase gives them to a new project, before ``setup``."""
    for role, attributes in (("anon", "NOLOGIN"), ("authenticated", "NOLOGIN"), ("service_role", "NOLOGIN BYPASSRLS")):
        supabase.execute(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
                         f"ALTER ROLE {role} {attributes}; GRANT USAGE ON SCHEMA public TO {role}")  # fmt: skip
    for things in ("TABLES", "FUNCTIONS", "SEQUENCES"):
        supabase.execute(
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {things} TO anon, authenticated, service_role"
        )
    yield
    supabase.execute("DROP OWNED BY anon, authenticated, service_role")


@pytest.fixture
def eventually() -> Callable[[Callable[[], T]], T]:
    """Looks again until there is something to see."""

    def look(at: Callable[[], T], timeout: float = PATIENCE) -> T:
        began = time.monotonic()
        while not (seen := at()):
            waited = time.monotonic() - began
            assert waited < timeout, "it never happened"
            # Between two looks at a real database, not to synchronise. What takes seconds is not looked at a hundred
            # times in each: that takes the processor from those who are waited for.
            time.sleep(min(max(0.01, waited / 20), 0.1))
        return seen

    return look


@pytest.fixture(scope="session")
def initialised() -> Iterator[dict[int, Path]]:
    """Version → the files of a server that was never started, to be copied: initdb takes seconds."""
    with ExitStack() as stack:
        servers = {version: embedded(version) for version in VERSIONS}
        for server in servers.values():
            stack.callback(server.close)
            server.initialise()
        yield {version: server.data for version, server in servers.items()}


@pytest.fixture
def own_servers(initialised: dict[int, Path]) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """Two servers that belong to one test, which may stop and start them."""
    with ExitStack() as stack:
        servers = embedded(18), embedded(16)
        for server in servers:
            stack.callback(server.close)
            # With their owner, who is not the one that runs the tests where that is root.
            subprocess.run(["cp", "-a", initialised[server.version], server.data], check=True)
            server.start()
        yield servers
