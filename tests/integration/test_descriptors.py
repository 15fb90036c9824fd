"""Every command with each standard descriptor closed, full, or with a reader that goes away; and errors that are no database's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import _environment
from records import add_companies, company, complete, master

pytestmark = pytest.mark.one_version

Shell = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = (
    "status --json", "doctor", "pull", "push", "revalidate", "promote --passed-ids-file /dev/null", "pipeline --yes",
    "setup", "history 04.04.01.01.00001.001", "undo 04.04.01.01.00001.001", "--help",
)  # fmt: skip
SAYS = {"undo 04.04.01.01.00001.001": 1}
"""Exit statuses where all is well, other than 0."""


@pytest.fixture
def shell(env, tmp_path) -> Shell:
    """Runs a command line of a shell, in which WORKER stands for the worker."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        script = line.replace("WORKER", f"{sys.executable} -m worker")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script], env=_environment(env), cwd=tmp_path, capture_output=True,
            text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert "Exception ignored" not in done.stderr, done.stderr
        assert "could not be reached" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def lived(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, 2, 3)
    assert cli("pull").returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_a_closed_descriptor_does_its_work(lived, shell, command) -> None:
    right = SAYS.get(command, 0)
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = shell(f"WORKER {command} {closed}")
        assert done.returncode == right, (closed, done)


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(("undo", "revalidate"))])
def test_results_that_cannot_be_written_are_told_as_that(lived, shell, command) -> None:
    done = shell(f"WORKER {command} > /dev/full")
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last == "enrichment-worker: the result cannot be written to stdout: No space left on device"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_said_beside_the_results_may_be_lost(lived, shell, command) -> None:
    right = SAYS.get(command, 0)
    assert shell(f"WORKER {command} 2> /dev/full").returncode == right
    # Its reader is gone before anything is said.
    assert shell(f"(WORKER {command} 2>&1 >&3 | true) 3> /dev/null").returncode == right


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_enough_is_no_fault(lived, shell, command) -> None:
    for reader in ("head -1", "true"):
        done = shell(f"WORKER {command} | {reader}")
        assert done.returncode in (0, 1)
        assert "cannot be written" not in done.stderr


def test_keys_on_a_closed_stdin_are_asked_for_elsewhere(lived, shell) -> None:
    done = shell("WORKER promote <&-")
    assert done.returncode == 2
    assert "--passed-ids-file" in done.stderr
    assert shell("WORKER promote < /dev/null").returncode == 0


@pytest.mark.parametrize("source", ["--passed-ids-file /proc/self/mem", "0> written"])
def test_keys_that_cannot_be_read_are_told_as_that(lived, shell, source) -> None:
    done = shell(f"WORKER promote {source}")
    assert done.returncode == 2
    assert "the keys cannot be read from" in done.stderr


def test_what_was_done_before_the_results_were_lost_stays_done(lived, shell, neon, supabase) -> None:
    complete(supabase, company(1), website="https://a.example")
    assert shell("WORKER pipeline --yes > /dev/full").returncode == 1
    assert shell("WORKER pipeline --yes >&-").returncode == 0
    assert master(neon, company(1)) is not None


def test_a_host_that_no_dns_knows_is_a_database_that_cannot_be_reached(env, cli) -> None:
    env["SUPABASE_DATABASE_URL"] = "postgresql://worker@nowhere.invalid/postgres?sslmode=require"
    done = cli("status")
    assert done.returncode == 3
    assert "check the host in SUPABASE_DATABASE_URL" in done.stderr


def test_a_settings_file_that_cannot_be_read_is_a_setting(cli, env, tmp_path) -> None:
    env["NEON_DATABASE_URL_FILE"] = "/proc/self/mem"
    env.pop("NEON_DATABASE_URL")
    done = cli("status")
    assert done.returncode == 2
    assert "NEON_DATABASE_URL_FILE: /proc/self/mem cannot be read" in done.stderr
    env.update(NEON_DATABASE_URL_FILE="", CREDENTIALS_DIRECTORY=str(tmp_path))
    (tmp_path / "NEON_DATABASE_URL").mkdir()
    done = cli("status")
    assert (done.returncode, "NEON_DATABASE_URL: " in done.stderr) == (2, True)


def test_a_machine_without_files_to_open_is_no_database_that_is_away(prepared, shell) -> None:
    done = shell("ulimit -n 9; WORKER status; exit $?")
    assert done.returncode in (1, 3)
    assert "Too many open files" in done.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 70, "a..b"])
def test_a_health_address_that_is_none_is_a_setting(prepared, cli, env, host) -> None:
    env["WORKER_HEALTH_ADDRESS"] = f"{host}:0"
    done = cli("run")
    assert done.returncode == 2
    assert "WORKER_HEALTH_ADDRESS" in done.stderr
