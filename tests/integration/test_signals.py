"""Signals: no new batch, the running one is finished, and the status says what came. SPEC 11."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Daemon, _environment, connect
from records import Connection, add_companies, company, complete, ledger, master, work

pytestmark = pytest.mark.one_version

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def _as_on_a_terminal() -> None:
    """The process that runs the tests may ignore SIGHUP; the worker must not inherit that."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)


def _as_with_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.fixture
def terminal(monkeypatch) -> None:
    """Processes of this test do not ignore SIGHUP."""
    start = subprocess.Popen.__init__

    def begin(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("preexec_fn", _as_on_a_terminal)
        start(self, *arguments, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", begin)


@pytest.fixture
def filled(cli, prepared, neon) -> None:
    add_companies(neon, *range(1, 10))
    assert cli("pull").returncode == 0


WAIT = "WHILE NOT pg_try_advisory_xact_lock(17) LOOP PERFORM pg_sleep(0.01); END LOOP;"
"""Until a gate opens, in SQL. It waits for no lock: a worker puts aside what somebody's lock holds up."""


def held(neon: Connection) -> Connection:
    """A trigger makes every promotion wait for this gate; it is shut."""
    neon.execute(
        f"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {WAIT} RETURN NEW; END $$;"
        "CREATE TRIGGER wait BEFORE INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    neon.execute("SELECT pg_advisory_lock(17)")
    return neon


def waits(neon: Connection) -> bool:
    asleep = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    return bool(neon.execute(asleep).fetchall())


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_the_running_batch_is_finished_and_no_new_one_begun(
    terminal, filled, daemon, neon, supabase, eventually, number
) -> None:
    worker: Daemon = daemon()
    held(neon)
    complete(supabase, company(1), website="https://a.example")
    eventually(lambda: waits(neon))
    worker.process.send_signal(number)
    worker.wait_event("worker.stopping")
    # Asked again while it finishes, whichever way.
    for again in STOPS:
        worker.process.send_signal(again)
    complete(supabase, company(2), website="https://b.example")
    assert worker.process.poll() is None
    neon.execute("SELECT pg_advisory_unlock(17)")
    assert worker.process.wait(PATIENCE) == 0
    worker.wait_event("worker.stopped")
    assert work(supabase, company(1))["promoted_at"]
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["promoted"]
    assert master(neon, company(2)) is None
    assert work(supabase, company(2))["enrichment_status"] == "complete"


def test_a_hangup_that_is_ignored_stays_ignored(filled, env, tmp_path, neon, supabase, eventually) -> None:
    with _started(env, tmp_path, "run", preexec_fn=_as_with_nohup) as process:
        assert process.stderr is not None
        assert any("worker.ready" in line for line in process.stderr)
        process.send_signal(signal.SIGHUP)
        complete(supabase, company(1), website="https://a.example")
        eventually(lambda: master(neon, company(1)))
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_broken_pipes_signal_ends_nobody(filled, daemon, neon, supabase, eventually) -> None:
    worker: Daemon = daemon()
    worker.process.send_signal(signal.SIGPIPE)
    complete(supabase, company(1), website="https://a.example")
    eventually(lambda: master(neon, company(1)))
    assert worker.terminate() == 0


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_signal_while_it_waits_for_a_database_ends_the_start(terminal, env, daemon, tmp_path_factory, number) -> None:
    import socket

    env["NEON_DATABASE_URL"] = "postgresql://postgres@127.0.0.1:1/nothing"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        env["NOTIFY_SOCKET"] = str(tmp_path_factory.mktemp("run") / "notify")
        manager.bind(env["NOTIFY_SOCKET"])
        worker: Daemon = daemon(ready=False)
        worker.wait_event("worker.waiting")
        worker.process.send_signal(number)
        assert worker.process.wait(PATIENCE) == 0


class _Started:
    def __init__(self, environment: dict[str, str], folder: Path, line: str, options: dict[str, Any]) -> None:
        options.setdefault("preexec_fn", _as_on_a_terminal)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker", *line.split()], env=environment, cwd=folder, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, **options,
        )  # fmt: skip

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def _started(env: dict[str, str], folder: Path, line: str, **options: Any) -> _Started:
    return _Started(_environment(env), folder, line, options)


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_watch_that_is_stopped_says_so_and_its_status_names_the_signal(filled, env, tmp_path, number) -> None:
    with _started(env, tmp_path, "status --watch") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (128 + number, "enrichment-worker: stopped\n")


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("line", ["push", "promote --passed-ids-file keys"])
def test_a_stage_that_is_stopped_finishes_its_batch_and_begins_no_other(
    filled, databases, env, tmp_path, neon, supabase, eventually, line, number
) -> None:
    keys = [company(n) for n in range(1, 10)]
    (tmp_path / "keys").write_text("\n".join(keys))
    for key in keys:
        complete(supabase, key, website="https://a.example")
    if line.startswith("promote"):
        with _started(env, tmp_path, "push") as before:
            assert before.wait(PATIENCE) == 0
    # Every batch waits where it writes its run to Neon.
    with connect(databases.neon_url) as gate:
        gate.execute(
            f"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {WAIT} RETURN NULL; END $$;"
            "CREATE TRIGGER wait AFTER INSERT ON marketing.enrichment_ledger EXECUTE FUNCTION wait()"
        )
        booked = gate.execute("SELECT count(*) AS n FROM marketing.enrichment_ledger").fetchone()["n"]
        gate.execute("SELECT pg_advisory_lock(17)")
        with _started(env, tmp_path, f"{line} --batch-size 3") as process:
            eventually(lambda: waits(gate))
            process.send_signal(number)
            # It is under way until the gate opens.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            gate.execute("SELECT pg_advisory_unlock(17)")
            _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said.splitlines()[-1:]) == (128 + number, ["enrichment-worker: stopped"])
        now = gate.execute("SELECT count(*) AS n FROM marketing.enrichment_ledger").fetchone()["n"]
        assert now - booked == 3
        gate.execute("DROP TRIGGER wait ON marketing.enrichment_ledger")
    with _started(env, tmp_path, line) as again:
        out, said = again.communicate(timeout=PATIENCE)
    assert "6" in out


def test_a_pull_that_is_stopped_can_be_begun_again(cli, prepared, databases, env, tmp_path, neon, eventually) -> None:
    add_companies(neon, *range(1, 10))
    with connect(databases.supabase_url) as gate:
        gate.execute(
            f"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {WAIT} RETURN NULL; END $$;"
            "CREATE TRIGGER wait AFTER INSERT ON company_needs_enrichment EXECUTE FUNCTION wait()"
        )
        gate.execute("SELECT pg_advisory_lock(17)")
        with _started(env, tmp_path, "pull --batch-size 3") as process:
            eventually(lambda: waits(gate))
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            gate.execute("SELECT pg_advisory_unlock(17)")
            _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (128 + signal.SIGTERM, "enrichment-worker: stopped\n")
        assert len(gate.execute("SELECT FROM company_needs_enrichment").fetchall()) == 3
        assert cli("pull").returncode == 0
        assert len(gate.execute("SELECT FROM company_needs_enrichment").fetchall()) == 9


def test_a_second_ctrl_c_waits_for_nothing(filled, databases, env, tmp_path, neon, supabase, eventually) -> None:
    held(neon)
    complete(supabase, company(1), website="https://a.example")
    with _started(env, tmp_path, "push") as before:
        assert before.wait(PATIENCE) == 0
    (tmp_path / "keys").write_text(company(1))
    with _started(env, tmp_path, "promote --passed-ids-file keys") as process:
        eventually(lambda: waits(neon))
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in said


@pytest.mark.parametrize("module", ["click", "psycopg.pq", "pydantic", "worker.domain.model"])
def test_ctrl_c_while_it_is_being_loaded_leaves_no_traceback(env, tmp_path, module) -> None:
    """Python tells of each module that it has loaded. What comes before the worker's own first line is Python's."""
    with _started({**env, "PYTHONPROFILEIMPORTTIME": "1"}, tmp_path, "doctor") as process:
        assert process.stderr is not None
        assert any(line.split("|")[-1].strip() == module for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in said
    assert "most recent" not in said
