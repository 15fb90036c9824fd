"""The service as an operator has it: a real systemd boots in a container, and deploy/README.md is followed."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import release_0_1_0 as release
from base_system import SOURCES, Unavailable, base, copy_sources, program
from booted import Machine
from conftest import ROOT
from records import Connection, add_companies, company, complete, master

from worker import __version__
from worker.demo.embedded import EmbeddedUnavailable

UNITS = [ROOT / "deploy" / "systemd" / name for name in ("enrichment-worker.service", "enrichment-worker@.service")]
WORKER, INSTANCES = "enrichment-worker", ("enrichment-worker@8081", "enrichment-worker@8082")
RATING = 2.0
DYNAMIC_USERS = 61184
"""The first number of the users that systemd makes up."""
NEWER_KEYS = {"RestartSteps", "RestartMaxDelaySec"}
"""Of systemd 254, which an older one ignores."""
CREDENTIALS = "etc/enrichment-worker/credentials"
DROP_IN = """\
[Service]
WatchdogSec=8
RestartSec=100ms
"""


@pytest.mark.skipif(not program("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_rated_two_or_lower_before_it_is_installed(unit) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, check=False
    )
    if "offline" in done.stderr and "unrecognized" in done.stderr:
        pytest.skip("this systemd-analyze cannot rate a file")
    assert _rating(done.stdout) <= RATING, done.stdout


@pytest.mark.skipif(not program("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_every_line_of_a_unit(unit, tmp_path) -> None:
    # What it starts is not installed here; an instance of a template needs a name.
    copy = tmp_path / unit.name.replace("@.", "@8081.")
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "enrichment-worker" in line]
    unknown = {match[1] for line in said if (match := re.search(r"Unknown key '?(\w+)'?", line))}
    assert unknown <= NEWER_KEYS
    assert [line for line in said if "Unknown key" not in line] == []


def test_the_two_units_differ_in_the_port_and_a_settings_file_only() -> None:
    one, several = (
        [line for line in unit.read_text().splitlines() if line and not line.startswith("#")] for unit in UNITS
    )
    assert [line for line in one if line not in several] == ["Description=Enrichment worker"]
    assert [line for line in several if line not in one] == [
        "Description=Enrichment worker, health on port %i",
        "Environment=WORKER_HEALTH_ADDRESS=127.0.0.1:%i",
        "EnvironmentFile=-/etc/enrichment-worker/environment-%i",
    ]


def _rating(text: str) -> float:
    match = re.search(r"Overall exposure level for .*?: (\d+\.\d+)", text)
    assert match, text
    return float(match[1])


@pytest.fixture
def machine(tmp_path) -> Iterator[Machine]:
    for name in ("systemd-nspawn", "nsenter"):
        if not program(name):
            pytest.skip(f"{name} is not installed (Debian: apt install systemd-container)")
    root, shared = tmp_path / "root", tmp_path / "shared"
    try:
        subprocess.run(["cp", "--archive", "--reflink=auto", base(), root], check=True)
        copy_sources(root / "src")
        shared.mkdir()
        shared.chmod(0o777)
        one = Machine(root, shared)
    except (Unavailable, EmbeddedUnavailable) as error:
        pytest.skip(str(error))
    try:
        try:
            one.wait_booted()
        except Unavailable as error:
            pytest.skip(str(error))
        yield one
    finally:
        one.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.timeout(540)  # it makes a Debian the first time
def test_the_service_lives_through_what_an_operator_and_a_bad_day_do_to_it(machine, eventually) -> None:
    _it_is_installed_as_documented(machine)
    with machine.connect("neon") as neon, machine.connect("supabase") as supabase:
        life = Life(machine, neon, supabase, eventually)
        life.it_starts_and_carries_a_row()
        life.it_is_confined()
        life.it_comes_back_when_it_is_killed_and_finishes()
        life.the_watchdog_replaces_it_when_it_is_frozen()
        life.it_stops_cleanly_under_load()
        life.it_is_upgraded_while_people_work()
        life.nothing_was_done_twice()
    _it_waits_for_a_database_that_is_away(machine, eventually)
    _two_of_them_share_the_queue(machine, eventually)
    _the_journal_holds_no_password(machine)
    _it_is_removed(machine)


@pytest.mark.timeout(540)
def test_release_0_1_0_is_upgraded_while_people_work_and_there_is_a_way_back(machine, eventually) -> None:
    """The databases first, then the program: at no moment is there a worker that cannot start."""
    source = machine.root / "src-0.1.0"
    source.mkdir()
    if not release.checkout(source, *(name for name in SOURCES if name != "docs")):  # it had none
        pytest.skip(f"the history of this checkout does not have {release.COMMIT}, release 0.1.0")
    # The wheels here are of these versions.
    shutil.copy(ROOT / "constraints.txt", source)
    machine.install(source="/src-0.1.0")
    _the_databases_are_named(machine)
    machine.run(WORKER, "setup")
    with machine.connect("neon") as neon, machine.connect("supabase") as supabase:
        add_companies(neon, *range(1, 101))
        machine.run("systemctl", "enable", "--now", WORKER)
        eventually(lambda: _count(supabase, "true") == 100)
        life = Upgrade(machine, neon, supabase, eventually)
        life.it_carries(1)
        life.the_old_worker_goes_on_until_the_databases_are_ready()
        life.it_is_replaced_while_people_work()
        life.there_is_a_way_back()
        outcomes = neon.execute("SELECT key, count(*) AS n FROM marketing.enrichment_ledger GROUP BY key").fetchall()
        assert {row["n"] for row in outcomes} == {1}
        assert len(outcomes) == 52
    _the_journal_is_clean(machine)


class Upgrade:
    """From a release whose tables lack what this one needs."""

    def __init__(
        self, machine: Machine, neon: Connection, supabase: Connection, eventually: Callable[..., Any]
    ) -> None:
        self.machine, self.neon, self.supabase, self.eventually = machine, neon, supabase, eventually
        self.current = machine.root / "opt/enrichment-worker/current"
        self.old, self.process = self.current.readlink(), machine.show()["MainPID"]

    def it_carries(self, number: int) -> None:
        complete(self.supabase, company(number), website=f"https://alder{number}.example")
        self.eventually(lambda: master(self.neon, company(number)))

    def the_old_worker_goes_on_until_the_databases_are_ready(self) -> None:
        refused = self.machine.install(check=False)
        assert refused.returncode == 1, refused.stdout
        assert "the worker that runs goes on as it is" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert self.current.readlink() == self.old
        self.it_carries(2)
        (told,) = re.findall(r"sudo (/\S+ setup)$", refused.stderr, re.MULTILINE)
        self.machine.run(*told.split())
        self.it_carries(3)
        state = self.machine.show()
        assert (state["MainPID"], state["NRestarts"]) == (self.process, "0"), "the old one was disturbed"

    def it_is_replaced_while_people_work(self) -> None:
        over = threading.Event()

        def work() -> None:
            with self.machine.connect("supabase") as enricher:
                for number in range(4, 51):
                    complete(enricher, company(number), website=f"https://alder{number}.example")
                    over.wait(0.2)

        with ThreadPoolExecutor() as pool:
            done = pool.submit(work)
            try:
                assert f"{__version__} is installed" in self.machine.install().stdout
            finally:
                over.set()
            done.result()
        state = self.machine.show()
        assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
        assert state["MainPID"] != self.process
        assert __version__ in self.machine.run(WORKER, "--version").stdout
        assert not (self.current.parent / "next").is_symlink()
        releases = {one.name for one in (self.current.parent / "releases").iterdir()}
        assert releases == {self.old.name, self.current.readlink().name}, "one that was refused is still there"
        self.eventually(lambda: _count(self.supabase, "promoted_at IS NOT NULL") == 50)

    def there_is_a_way_back(self) -> None:
        """As deploy/README.md says it, and on again."""
        new = self.current.readlink()
        for folder, number in ((self.old, 51), (new, 52)):
            self.machine.run("ln", "-sfn", str(folder), "/opt/enrichment-worker/current")
            self.machine.run("systemctl", "restart", "enrichment-worker*")
            self.it_carries(number)


def _it_is_installed_as_documented(machine: Machine) -> None:
    assert "is installed" in machine.install().stdout
    # Without addresses it is refused in words, once and not in a loop.
    assert machine.run("systemctl", "start", WORKER, check=False).returncode != 0
    state = machine.show()
    assert (state["ActiveState"], state["ExecMainStatus"], state["NRestarts"]) == ("failed", "2", "0")
    assert "NEON_DATABASE_URL: is required" in machine.journal(WORKER)

    _the_databases_are_named(machine)
    (machine.root / CREDENTIALS / "N8N_WEBHOOK_URL").unlink()  # not needed: neither full nor there
    for unit in UNITS:
        drop_in = machine.root / "etc/systemd/system" / f"{unit.name}.d"
        drop_in.mkdir()
        (drop_in / "test.conf").write_text(DROP_IN)
    machine.run("systemctl", "daemon-reload")
    machine.run(WORKER, "setup")


def _the_databases_are_named(machine: Machine) -> None:
    machine.run("systemctl", "start", "postgres")
    for setting, name in (("NEON_DATABASE_URL", "neon"), ("SUPABASE_DATABASE_URL", "supabase")):
        with machine.connect("postgres") as admin:
            admin.execute(f"CREATE DATABASE {name}")
        file = machine.root / CREDENTIALS / setting
        assert oct(file.stat().st_mode)[-3:] == "600"
        file.write_text(f"{machine.address(name)}\n")
    (machine.root / "etc/enrichment-worker/environment").write_text("WORKER_SWEEP_INTERVAL=1s\nWORKER_BATCH_SIZE=5\n")


class Life:
    """What happens to the service, one thing after the other."""

    def __init__(
        self, machine: Machine, neon: Connection, supabase: Connection, eventually: Callable[..., Any]
    ) -> None:
        self.machine, self.neon, self.supabase, self.eventually = machine, neon, supabase, eventually

    def promoted(self) -> int:
        return _count(self.supabase, "promoted_at IS NOT NULL")

    def until_it_is_active(self) -> None:
        self.eventually(lambda: self.machine.show()["ActiveState"] == "active")

    @contextmanager
    def restarted_by_systemd(self) -> Iterator[None]:
        """At the end it was restarted."""
        before = self.machine.show()["NRestarts"]
        yield
        self.eventually(lambda: self.machine.show()["NRestarts"] != before)

    def it_starts_and_carries_a_row(self) -> None:
        add_companies(self.neon, *range(1, 1001))
        self.machine.run("systemctl", "enable", "--now", WORKER)
        state = self.machine.show()
        assert (state["ActiveState"], state["SubState"], state["NRestarts"]) == ("active", "running", "0")
        self.eventually(lambda: _count(self.supabase, "true") == 1000)
        self.eventually(lambda: self.machine.show()["StatusText"] == "Listening; in the queue: 0 company, 0 people")
        complete(self.supabase, company(1), website="https://alder1.example")
        self.eventually(lambda: master(self.neon, company(1)))

    def it_is_confined(self) -> None:
        assert _rating(self.machine.run("systemd-analyze", "security", WORKER).stdout) <= RATING
        process = Path("/proc") / _seen_from_outside(self.machine)
        assert self.machine.password not in (process / "environ").read_text() + (process / "cmdline").read_text()
        assert process.stat().st_uid >= DYNAMIC_USERS
        assert re.search(r"CapEff:\t0+\n", (process / "status").read_text())
        # The page has the process's own figures too, which need a part of /proc.
        assert "process_start_time_seconds" in self.machine.get(8080, "/metrics")

    def it_comes_back_when_it_is_killed_and_finishes(self) -> None:
        _flip(self.supabase, 2, 300)
        self.eventually(lambda: self.promoted() > 1)
        with self.restarted_by_systemd():
            self.machine.run("systemctl", "kill", "--signal=KILL", WORKER)
            assert self.promoted() < 300, "it was killed in the middle"
        self.eventually(lambda: self.promoted() == 300)

    def the_watchdog_replaces_it_when_it_is_frozen(self) -> None:
        self.until_it_is_active()
        with self.restarted_by_systemd():
            self.machine.run("systemctl", "kill", "--signal=STOP", WORKER)
            complete(self.supabase, company(301), website="https://alder301.example")
        self.eventually(lambda: self.promoted() == 301)
        assert "Watchdog timeout" in self.machine.journal(WORKER)

    def it_stops_cleanly_under_load(self) -> None:
        self.until_it_is_active()
        _flip(self.supabase, 302, 800)
        self.eventually(lambda: self.promoted() > 301)
        self.machine.run("systemctl", "stop", WORKER)
        state = self.machine.show()
        assert (state["ActiveState"], state["Result"], state["ExecMainStatus"]) == ("inactive", "success", "0")
        assert 301 < self.promoted() < 800, "it was stopped under load"
        # The running batch was finished on both sides.
        settled = self.neon.execute("SELECT count(*) AS n FROM marketing.company_master").fetchone()["n"]
        assert settled == self.promoted()
        assert '"event": "worker.stopped"' in self.machine.journal(WORKER)
        self.machine.run("systemctl", "start", WORKER)

    def it_is_upgraded_while_people_work(self) -> None:
        """One row after the other is flipped, also while nobody listens."""
        current = self.machine.root / "opt/enrichment-worker/current"
        old, over, flipped = current.readlink(), threading.Event(), []
        process = self.machine.show()["MainPID"]
        (self.machine.root / "src/broken-1.0-py3-none-any.whl").touch()
        broken = self.machine.run("/src/deploy/install", "--from", "/src/broken-1.0-py3-none-any.whl", check=False)
        assert "nothing was changed" in broken.stderr
        assert current.readlink() == old
        assert [one.name for one in (current.parent / "releases").iterdir()] == [old.name]

        def work() -> None:
            with self.machine.connect("supabase") as enricher:
                for number in range(801, 901):
                    complete(enricher, company(number), website=f"https://alder{number}.example")
                    flipped.append(number)
                    over.wait(0.2)

        with ThreadPoolExecutor() as pool:
            done = pool.submit(work)
            assert "the one before is" in self.machine.install().stdout
            assert flipped
            over.set()
            done.result()
        assert current.readlink() != old
        assert self.machine.show()["MainPID"] != process, "the old release still runs"
        assert (self.machine.root / str(old).lstrip("/")).exists(), "there is no way back"
        self.until_it_is_active()
        self.eventually(lambda: self.promoted() == 900)

    def nothing_was_done_twice(self) -> None:
        entries = self.neon.execute(
            "SELECT key, count(*) AS n FROM marketing.enrichment_ledger GROUP BY key"
        ).fetchall()
        assert {entry["n"] for entry in entries} == {1}
        assert len(entries) == 900


def _it_waits_for_a_database_that_is_away(machine: Machine, eventually: Callable[..., Any]) -> None:
    machine.run("systemctl", "stop", WORKER, "postgres")
    machine.run("systemctl", "start", "--no-block", WORKER)
    eventually(lambda: " cannot be reached" in machine.show().get("StatusText", ""))
    assert machine.show()["ActiveState"] == "activating"
    machine.run("systemctl", "start", "postgres")
    eventually(lambda: machine.show()["ActiveState"] == "active")
    assert machine.show()["NRestarts"] == "0"


def _two_of_them_share_the_queue(machine: Machine, eventually: Callable[..., Any]) -> None:
    machine.run("systemctl", "disable", "--now", WORKER)
    machine.run("systemctl", "enable", "--now", *INSTANCES)
    for port in (8081, 8082):
        assert '"ok":true' in machine.get(port, "/readyz")
    with machine.connect("supabase") as supabase:
        _flip(supabase, 901, 1000)
        eventually(lambda: _count(supabase, "promoted_at IS NOT NULL") == 1000)


def _the_journal_holds_no_password(machine: Machine) -> None:
    assert machine.journal().count('"event": "worker.ready"') >= 7
    _the_journal_is_clean(machine)


def _the_journal_is_clean(machine: Machine) -> None:
    journal = machine.journal()
    for unwanted in (machine.password, "Traceback", "SIGSYS"):
        assert unwanted not in journal


def _it_is_removed(machine: Machine) -> None:
    assert "still in" in machine.install("--uninstall").stdout
    assert (machine.root / CREDENTIALS / "NEON_DATABASE_URL").exists()
    assert {machine.show(unit)["LoadState"] for unit in (WORKER, *INSTANCES)} == {"not-found"}
    machine.install("--purge")
    assert machine.run("find", "/etc", "/opt", "/usr/local", "-xdev", "-name", "*enrichment*").stdout == ""


def _seen_from_outside(machine: Machine) -> str:
    """The number of the worker's process as this side of the container sees it."""
    inner = machine.show()["MainPID"]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:  # it ended meanwhile
            continue
        if re.search(rf"(?m)^NSpid:\t\d+\t{inner}$", text) and "enrichment" in text:
            return status.parent.name
    raise AssertionError


def _flip(supabase: Connection, first: int, last: int) -> None:
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete',"
        " website = 'https://alder' || substr(company_unique_id, 13, 5) || '.example'"
        " WHERE company_unique_id BETWEEN %s AND %s",
        (company(first), company(last)),
    )


def _count(supabase: Connection, condition: str) -> int:
    return supabase.execute(f"SELECT count(*) AS n FROM company_needs_enrichment WHERE {condition}").fetchone()["n"]
