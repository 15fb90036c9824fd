"""``pause`` and ``resume`` (SPEC 7): for all workers at once, kept in Supabase, exact."""

import json
import re
from datetime import UTC, datetime

import pytest
from declared import COMPANY
from records import add_companies, add_people, company, complete, invalid, person, work

from worker.domain.postponed import Cause
from worker.domain.progress import Progress
from worker.observe.monitor import Monitor
from worker.supabase.pause import Paused
from worker.sync.deliver import deliver
from worker.sync.pull import pull

PAUSE = "INSERT INTO enrichment_paused (entity) VALUES ('company')"
RESUME = "DELETE FROM enrichment_paused"


def test_a_paused_entity_rests_in_all_workers_and_after_restarts_until_it_is_resumed(
    cli, prepared, neon, supabase, env, daemon, eventually
) -> None:
    env |= {"WORKER_SWEEP_INTERVAL": "0.2", "WORKER_PULL_INTERVAL": "0.3"}
    add_companies(neon, 1)
    add_people(neon, 1)

    def rows(table: str) -> int:
        return supabase.execute(f"SELECT FROM {table}_needs_enrichment").rowcount

    def state(of: str) -> tuple:
        found = supabase.execute("SELECT pulls, xmin FROM enrichment_pull_position WHERE entity = %s", [of]).fetchone()
        return tuple(found.values())

    workers = [daemon(), daemon()]
    eventually(lambda: rows("company") == 1 and rows("people") == 1)
    assert cli("pause", "company").returncode == 0
    again = cli("pause", "company")
    assert (again.returncode, "paused already, since" in again.stdout) == (0, True)
    for worker in workers:
        eventually(lambda worker=worker: "company: paused since" in worker.health("/readyz")[1])
    # A pull that had begun before has ended once the position is free; from then on it stays as it is.
    with supabase.transaction():
        supabase.execute("SELECT FROM enrichment_pull_position WHERE entity = 'company' FOR UPDATE")
    before = state("company")
    complete(supabase, company(1), website="https://one.example")
    add_companies(neon, 2)
    workers[0].kill()
    workers[0] = daemon()
    for number in (2, 3):  # what the other entity does meanwhile says that there was time for it
        pulls = state("people")[0]
        add_people(neon, number)
        eventually(lambda number=number: rows("people") == number)
        complete(supabase, person(number), email="n/a@n/a.com")
        eventually(lambda number=number: work(supabase, person(number))["enrichment_status"] == "failed")
        eventually(lambda pulls=pulls: state("people")[0] > pulls + 1)
    assert (state("company"), rows("company"), work(supabase, company(1))["pushed_to_neon_at"]) == (before, 1, None)

    for worker in workers:
        status, text = worker.health("/readyz")
        assert (status, json.loads(text)["reasons"]) == (200, [])
        [said] = json.loads(text)["warnings"]
        assert re.fullmatch(r"company: paused since .*; `enrichment-worker resume company` lets it go on", said)
        eventually(lambda worker=worker: json.loads(worker.health("/status.json")[1])["entities"]["company"]["queue"])
        shown = json.loads(worker.health("/status.json")[1])["entities"]
        assert shown["company"]["paused_since"]
        assert shown["people"]["paused_since"] is None
        assert 'enrichment_worker_paused{entity="company"} 1.0' in worker.health("/metrics")[1]
        assert 'enrichment_worker_paused{entity="people"} 0.0' in worker.health("/metrics")[1]
    assert "  paused since " in cli("status").stdout
    assert "company is paused since" in cli("doctor").stdout

    supabase.execute(RESUME)  # without a notification: the sweep finds it
    eventually(lambda: work(supabase, company(1))["promoted_at"] and rows("company") == 2)
    for worker in workers:
        eventually(lambda worker=worker: "warnings" not in worker.health("/readyz")[1])
    assert 'enrichment_worker_paused{entity="company"} 0.0' in workers[0].health("/metrics")[1]


def test_a_resume_wakes_the_workers(cli, prepared, neon, supabase, env, daemon, eventually) -> None:
    env["WORKER_SWEEP_INTERVAL"] = "600"
    add_companies(neon, 1)
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT FROM company_needs_enrichment").rowcount)
    assert cli("pause", "company").returncode == 0
    complete(supabase, company(1), website="https://one.example")
    eventually(lambda: json.loads(worker.health("/status.json")[1])["entities"]["company"]["paused_since"])
    assert work(supabase, company(1))["pushed_to_neon_at"] is None
    assert cli("resume", "company").stdout == "companies: resumed\n"
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    assert cli("resume", "company").stdout == "companies: not paused; nothing to do\n"


def test_what_is_asked_by_hand_is_refused_in_one_line_that_names_resume(
    cli, prepared, neon, supabase, tmp_path
) -> None:
    add_companies(neon, 1)
    add_people(neon, 1)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="https://one.example")
    assert cli("pause", "company").returncode == 0
    keys = tmp_path / "keys"
    keys.write_text(company(1))
    stages = (["pull"], ["push"], ["revalidate"], ["promote", "--passed-ids-file", str(keys)], ["pipeline", "--yes"])
    said = "enrichment-worker: company is paused: `enrichment-worker resume company` first, or leave it out with --entity\n"
    for stage in [*stages, ["reconcile", "--repair"]]:
        done = cli(*stage)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said), stage
    assert work(supabase, company(1))["pushed_to_neon_at"] is None
    for stage in stages:  # what writes nothing, and another entity
        assert cli(*stage, "--dry-run").returncode in (0, 1)
    assert cli("pull", "--entity", "people").returncode == 0
    assert cli("pause", "people").returncode == 0
    assert "company and people are paused: `enrichment-worker resume company` and" in cli("push").stderr

    for command in ("pause", "resume"):
        wrong = cli(command, "companies")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "there is no entity 'companies'; did you mean company?" in wrong.stderr
        assert "choose from company, people" in cli(command, "\U0001f4a3" * 500).stderr
        assert cli(command).returncode == 2
    supabase.execute("DROP TABLE enrichment_paused")
    wrong = cli("pause", "company")
    assert (wrong.returncode, "run `enrichment-worker setup`" in wrong.stderr) == (1, True)


class Pausing(Progress):
    """Pauses when the first batch is done."""

    def __init__(self, supabase) -> None:
        self.supabase, self.batches = supabase, 0

    def advance(self, records: int) -> None:
        self.batches += records > 0
        if self.batches == 1 and records:
            self.supabase.execute(PAUSE)


def test_a_batch_on_its_way_is_finished_and_no_other_one_claimed(steps, neon, supabase) -> None:
    add_companies(neon, 1, 2, 3)
    pausing = Pausing(supabase)
    # A pull, with batches of one: it stops between two of them, and begins again from where it was.
    steps.run(lambda opened: pull(opened, COMPANY, full=True))
    supabase.execute("DELETE FROM company_needs_enrichment WHERE company_unique_id <> %s", [company(3)])
    before = supabase.execute("SELECT pulls, position FROM enrichment_pull_position").fetchall()
    with pytest.raises(Paused):
        steps.run(lambda opened: pull(opened, COMPANY, full=True, batch_size=1, progress=pausing))
    assert supabase.execute("SELECT pulls, position FROM enrichment_pull_position").fetchall() == before
    assert supabase.execute("SELECT FROM company_needs_enrichment").rowcount < 3
    supabase.execute(RESUME)
    steps.pull()
    assert supabase.execute("SELECT FROM company_needs_enrichment").rowcount == 3

    # A delivery: paused when its rows are locked.
    for number in (1, 2, 3):
        complete(supabase, company(number), website=f"https://c{number}.example")
    tally = steps.run(lambda opened: deliver(opened, COMPANY, limit=1, claimed=lambda _: supabase.execute(PAUSE)))
    assert tally.outcomes == {"promoted": 1}
    waiting = [company(number) for number in (1, 2, 3) if invalid(neon, company(number))]
    assert len(waiting) == 2

    async def all_ways(opened) -> list[int]:
        postponed = opened.routes["company"].postponed
        tallies = [await deliver(opened, COMPANY), await deliver(opened, COMPANY, among=waiting)]
        postponed.put(Cause.HELD, [(waiting[0], work(supabase, waiting[0])["updated_at"])], "")
        tallies.append(await deliver(opened, COMPANY))
        return [tally.claimed for tally in tallies]

    assert steps.run(all_ways) == [0, 0, 0]
    for stage in (steps.push, steps.revalidate, lambda: steps.promote(*waiting), steps.pull):
        with pytest.raises(Paused):
            stage()
    supabase.execute(RESUME)
    assert steps.deliver().outcomes == {"promoted": 2}


def test_a_queue_that_rests_because_it_is_paused_is_no_fault() -> None:
    clock = [0.0]
    monitor = Monitor(["company"], clock=lambda: clock[0], pull_interval=1.0)
    monitor.listening(None)
    queued = {"company": {"oldest_queued_at": "2026-01-01", "last_pull": {}, "paused_since": None}}
    monitor.health.counted(queued)
    clock[0] = 1000.0
    assert len(monitor.health.unready()) == 2
    monitor.paused("company", datetime.now(UTC).replace(tzinfo=None))
    assert monitor.health.unready() == []
    monitor.paused("company", None)
    assert monitor.health.unready() == [], "it has had no time yet"
    clock[0] = 2000.0
    assert len(monitor.health.unready()) == 2
