"""The notifications to the service manager: a real socket, a real process. Word for word as in sd_notify(3)."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from conftest import PATIENCE, ROOT, Daemon
from declared import ENTITIES
from records import add_companies

from worker.daemon import systemd as module
from worker.daemon.puller import PullHeartbeat
from worker.daemon.systemd import STATUS_EVERY, Supervisor
from worker.observe.health import STALLED_SECONDS
from worker.observe.monitor import Monitor
from worker.settings import Settings
from worker.sync.databases import open_databases
from worker.sync.pull import pull

BEAT = 0.4
"""Seconds of the watchdog; word comes twice in it."""


class Manager:
    """The end of the socket that systemd would hold."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[list[str]] = []
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._link.bind(f"\0{address[1:]}" if address[0] == "@" else address)
        self._link.settimeout(PATIENCE)

    def hear(self) -> list[str]:
        """The next datagram's assignments."""
        self.heard.append(self._link.recv(8192).decode().split("\n"))
        return self.heard[-1]

    def hear_until(self, wanted: str) -> list[str]:
        """The next datagram with an assignment that begins so."""
        while not any(line.startswith(wanted) for line in self.hear()):
            pass
        return self.heard[-1]

    def close(self) -> None:
        self._link.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path_factory) -> Iterator[Manager]:
    name = f"notify-{secrets.token_hex(4)}"
    one = Manager(f"@{name}" if request.param == "abstract" else str(tmp_path_factory.mktemp("run") / name))
    yield one
    one.close()


@pytest.fixture
def supervised(env, manager) -> Manager:
    """Daemons of this test have a supervisor with a watchdog."""
    env |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(BEAT * 1e6)), "WORKER_SWEEP_INTERVAL": "100ms"}
    env.pop("WATCHDOG_PID", None)
    return manager


def test_ready_is_said_when_it_listens_and_not_before(prepared, env, supervised, daemon, supabase) -> None:
    nowhere = f"later_{secrets.token_hex(4)}"
    env["SUPABASE_LISTEN_URL"] = env["SUPABASE_DATABASE_URL"].rsplit("/", 1)[0] + f"/{nowhere}"
    worker: Daemon = daemon(ready=False)
    # It delivers meanwhile, so its start is prolonged, and it is alive.
    said = supervised.hear_until("STATUS=Trouble: listener")
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in said)
    assert "WATCHDOG=1" in said
    supabase.execute(f"CREATE DATABASE {nowhere}")
    try:
        supervised.hear_until("READY=1")
        assert [said.count("READY=1") for said in supervised.heard].count(1) == 1
        worker.wait_event("listener.listening")
        said = supervised.hear_until("STATUS=Listening; in the queue: 0 company, 0 people")
        assert said[1:] == ["WATCHDOG=1"]
    finally:
        worker.kill()
        supabase.execute(f"DROP DATABASE {nowhere} WITH (FORCE)")


def test_stopping_is_said_before_it_stops_cleanly(prepared, supervised, daemon) -> None:
    worker = daemon()
    supervised.hear_until("READY=1")
    assert worker.terminate() == 0
    assert supervised.hear_until("STOPPING=1")[1].startswith("STATUS=Stopping")


def test_a_task_that_hangs_silences_the_watchdog(prepared, env, supervised, daemon) -> None:
    env["PYTHONPATH"] = f"{ROOT / 'tests' / 'support' / 'hang'}{os.pathsep}{ROOT}"
    worker = daemon()
    supervised.hear_until("WATCHDOG=1")
    said = supervised.hear_until("STATUS=Trouble: pull hangs")
    assert worker.health("/healthz")[0] == 503
    for _ in range(5):
        assert said == ["STATUS=Trouble: pull hangs"]
        said = supervised.hear()


def test_a_supervised_start_waits_for_its_databases(own_servers, env, supervised, daemon, cli) -> None:
    neon_server, supabase_server = own_servers
    env["NEON_DATABASE_URL"] = neon_server.url().replace("postgres@", "postgres:s3cret@")
    env["SUPABASE_DATABASE_URL"] = supabase_server.url()
    assert cli("setup").returncode == 0
    neon_server.stop()
    worker = daemon(ready=False)
    said = supervised.hear_until("STATUS=Waiting: Neon cannot be reached")
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in said)
    assert "NEON_DATABASE_URL" in worker.wait_event("worker.waiting", level="warning")["error"]
    neon_server.start()
    supervised.hear_until("READY=1")
    assert "s3cret" not in str((supervised.heard, worker.events))
    assert worker.terminate() == 0


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_stop_while_it_waits_for_a_database_is_clean(env, supervised, daemon) -> None:
    env["NEON_DATABASE_URL"] = "postgresql://postgres@127.0.0.1:1/nothing"
    worker = daemon(ready=False)
    worker.wait_event("worker.waiting")
    assert worker.terminate() == 0


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_supervised_start_ends_when_its_patience_does(env, supervised, daemon, tmp_path) -> None:
    env["NEON_DATABASE_URL"] = "postgresql://postgres@127.0.0.1:1/nothing"
    impatient = tmp_path / "impatient"
    impatient.mkdir()
    (impatient / "sitecustomize.py").write_text("from worker.daemon import startup\nstartup.START_PATIENCE = 0.2\n")
    env["PYTHONPATH"] = f"{impatient}{os.pathsep}{ROOT}"
    worker = daemon(ready=False)
    assert worker.process.wait(timeout=PATIENCE) == 3
    worker.wait_event("worker.waiting")


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_manager_that_went_away_harms_nothing(prepared, supervised, daemon) -> None:
    worker = daemon()
    supervised.hear_until("READY=1")
    supervised.close()
    Path(supervised.address).unlink()
    worker.wait_event("systemd.notify_failed")
    assert worker.health("/readyz")[0] == 200
    assert worker.terminate() == 0


def test_a_watchdog_for_another_process_is_left_to_that_one(manager) -> None:
    there = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    for pid, ours in ((str(os.getpid()), True), ("1", False)):
        anyio.run(_report_once, Supervisor.from_environment({**there, "WATCHDOG_PID": pid}))
        assert ("WATCHDOG=1" in manager.hear()) is ours


class _Enough(Exception):
    pass


@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize(("watchdog", "pause"), [(0.0, STATUS_EVERY), (4.0, 2.0), (3600.0, STATUS_EVERY)])
def test_word_comes_twice_in_the_watchdogs_time_and_every_few_seconds_at_least(
    manager, monkeypatch, watchdog, pause
) -> None:
    async def sleep(seconds: float) -> None:
        raise _Enough(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    with pytest.raises(_Enough) as slept:
        anyio.run(Supervisor(manager.address, watchdog).report, Monitor(ENTITIES))
    assert slept.value.args == (pause,)


async def _report_once(supervisor: Supervisor) -> None:
    with anyio.move_on_after(BEAT / 4):
        await supervisor.report(Monitor(ENTITIES))


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_where_nobody_supervises_nothing_is_sent(address) -> None:
    one = Supervisor.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "nonsense"})
    assert not one
    one.ready()
    one.stopping()


def test_a_status_is_one_line_of_bounded_length(manager) -> None:
    Supervisor(manager.address).waiting("two\nlines " + "x" * 9000, 1.5)
    extend, status = manager.hear()
    assert extend == "EXTEND_TIMEOUT_USEC=1500000"
    assert status.startswith("STATUS=Waiting: two lines x")
    assert len(status) < 8 + module.LONGEST_STATUS


def test_a_task_that_rests_as_long_as_it_was_told_does_not_hang() -> None:
    clock = [0.0]
    monitor = Monitor(["company"], clock=lambda: clock[0], rest=3600.0)
    monitor.heartbeat("sweep")
    clock[0] = 3600.0 + STALLED_SECONDS
    assert monitor.health.stalled() == []
    clock[0] += 1
    assert monitor.health.stalled() == ["sweep hangs"]


def test_every_batch_of_a_long_pull_is_a_heartbeat(prepared, databases, env, neon) -> None:
    add_companies(neon, *range(1, 8))
    monitor = Monitor(ENTITIES)
    heart = PullHeartbeat(monitor)
    beats: list[int] = []

    async def job() -> None:
        heart.advance = lambda records: (beats.append(records), PullHeartbeat.advance(heart, records))
        async with open_databases(Settings(**env)) as opened:
            await pull(opened, ENTITIES["company"])
            await pull(opened, ENTITIES["company"], full=True, batch_size=3, progress=heart)

    anyio.run(job)
    # Each batch, the proof after it that this is still the only puller, and the look for what left Neon.
    assert beats == [3, 0, 3, 0, 1, 0, 0]
    assert set(monitor.health._heartbeats) == {"pull"}
