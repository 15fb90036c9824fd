"""The guide's scripts, one after the other: SPEC 7."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from records import (
    Connection,
    add_companies,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    everything,
    invalid,
    ledger,
    master,
    person,
    work,
)


@pytest.fixture
def edited(cli, prepared, neon, supabase):
    """Five companies and a person, pulled and repaired; 4 and 5 not well enough."""
    add_companies(neon, 1, 2, 3, 4, 5, 6)
    add_people(neon, 1, of=1)
    add_slot(neon, 1, of=1)
    assert cli("pull").returncode == 0
    for number in (1, 2, 3):
        complete(supabase, company(number), website=f"c{number}.example")
    complete(supabase, company(4), website="n/a")
    complete(supabase, company(5), website="https://c5.example", employee_count=-5)
    complete(supabase, person(1), email="robin@alder.example")


def test_push_carries_without_judging(cli, edited, neon, supabase) -> None:
    done = cli("push")
    assert done.returncode == 0, done.stderr
    assert "pushed 5 companies" in done.stdout
    there = invalid(neon, company(1))
    assert there["website"] == "https://c1.example"
    assert (there["enrichment_status"], there["still_invalid"]) == ("complete", False)
    assert there["enriched_by"]
    assert there["enriched_at"] is not None
    row = work(supabase, company(1))
    assert row["pushed_to_neon_at"] is not None
    assert row["promoted_at"] is None
    assert invalid(neon, company(6))["enrichment_status"] is None
    counts = json.loads(cli("status", "--json").stdout)["entities"]["company"]["counts"]
    assert (counts["complete"], counts["promoted"]) == (5, 0), "carried and not judged"
    assert "pushed 0 companies" in cli("push").stdout


def test_revalidate_prints_the_keys_that_passed_and_the_counts_beside(cli, edited, neon, supabase) -> None:
    cli("push")
    done = cli("revalidate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [company(1), company(2), company(3), person(1)]
    assert "PASSED: 3 companies" in done.stderr
    assert "FAILED: 2 companies" in done.stderr
    assert invalid(neon, company(4))["still_invalid"] is True
    row = work(supabase, company(4))
    assert row["enrichment_status"] == "failed"
    assert "website" in row["validation_errors"]


def test_revalidate_into_promote_through_a_real_pipe(cli, edited, env, tmp_path, neon, supabase) -> None:
    cli("push")
    command = f"{sys.executable} -m worker revalidate | {sys.executable} -m worker promote"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, **env, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "promoted 4 records" in done.stdout, done.stderr
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert master(neon, company(1))["website_url"] == "https://c1.example"
    assert master(neon, person(1))["email"] == "robin@alder.example"
    assert work(supabase, company(1))["promoted_at"] is not None
    # The master would refuse a negative number.
    assert work(supabase, company(5))["enrichment_status"] == "failed"
    assert "employee_count" in work(supabase, company(5))["validation_errors"]


def test_promote_refuses_by_name_what_does_not_pass_or_is_not_there(cli, edited, tmp_path, neon) -> None:
    cli("push")
    keys = tmp_path / "keys.txt"
    keys.write_text(f"\n{company(1)}\r\n  {company(4)}\n{company(1)}\nnobody\n", encoding="utf-8")
    done = cli("promote", "--passed-ids-file", str(keys))
    assert done.returncode == 1
    assert "promoted 1 records" in done.stdout
    assert f"refused {company(4)}: website" in done.stderr
    assert "refused nobody: it is not in the invalid table" in done.stderr
    assert master(neon, company(4)) is None


def test_the_stages_leave_both_databases_as_the_daemon_would(
    cli, edited, daemon, env, neon, supabase, eventually
) -> None:
    cli("push")
    passed = cli("revalidate").stdout
    cli("promote", input=passed)
    by_stages = {k: _essence(neon, supabase, k) for k in _keys()}
    add_companies(neon, *range(11, 17))
    add_people(neon, 11, of=11)
    add_slot(neon, 11, of=11)
    cli("pull")
    for number in (11, 12, 13):
        complete(supabase, company(number), website=f"c{number - 10}.example")
    complete(supabase, company(14), website="n/a")
    complete(supabase, company(15), website="https://c5.example", employee_count=-5)
    complete(supabase, person(11), email="robin@alder.example")
    daemon()
    for key in (*(company(n) for n in range(11, 16)), person(11)):
        eventually(lambda key=key: work(supabase, key)["pushed_to_neon_at"])
    by_daemon = {k: _essence(neon, supabase, k.replace(".0000", ".0001")) for k in _keys()}
    assert by_daemon == by_stages


def _keys() -> list[str]:
    return [*(company(number) for number in range(1, 7)), person(1)]


def _essence(neon: Connection, supabase: Connection, key: str) -> dict[str, object]:
    row, there = work(supabase, key), master(neon, key)
    left = invalid(neon, key)
    return {
        "status": row["enrichment_status"],
        "errors": row["validation_errors"],
        # The daemon's records are duplicates of those that the stages promoted.
        "warnings": {
            name: said for name, said in (row["validation_warnings"] or {}).items() if name not in ("website", "email")
        },
        "website": row.get("website"),
        "pushed": row["pushed_to_neon_at"] is not None,
        "promoted": row["promoted_at"] is not None,
        "note": row["sync_note"],
        "in master": there is not None,
        "master website": there and there.get("website_url"),
        "in invalid": left and (left["still_invalid"], left["validation_errors"], left["enrichment_status"]),
        "reason": left and left["reason_code"],
    }


@pytest.mark.parametrize("command", ["push", "revalidate", "promote", "pipeline"])
def test_dry_run_leaves_both_databases_as_they_were(cli, edited, neon, supabase, command) -> None:
    if command != "push":
        cli("push")
        complete(supabase, company(6), website="https://c6.example")
    # What the master would say is rehearsed: rows are locked, and all is rolled back.
    before = everything(neon, locks=command == "push"), everything(supabase)
    done = cli(command, "--dry-run", input=f"{company(1)}\n{company(4)}\n")
    assert company(1) in done.stdout
    assert (everything(neon, locks=command == "push"), everything(supabase)) == before


def test_pipeline_goes_through_all_stages(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    assert cli("pipeline", "--yes").returncode == 0
    complete(supabase, company(1), website="https://c1.example")
    complete(supabase, company(2), website="none")
    done = cli("pipeline", "--yes")
    assert done.returncode == 0
    assert "pushed 2 companies" in done.stdout
    assert "promoted 1 records" in done.stdout
    assert "PASSED: 1 company" in done.stderr
    assert work(supabase, company(2))["enrichment_status"] == "failed"


def test_pipeline_without_a_terminal_asks_for_yes(cli, prepared) -> None:
    done = cli("pipeline", input="")
    assert done.returncode == 2
    assert "--yes" in done.stderr


def test_every_run_leaves_its_row_in_the_log(cli, edited, neon) -> None:
    cli("push")
    passed = cli("revalidate").stdout
    cli("promote", input=passed)
    rows = neon.execute("SELECT * FROM public.shq_validation_log WHERE source_table LIKE '%company%'"
                        " OR target_table LIKE '%company%' ORDER BY executed_at").fetchall()  # fmt: skip
    stages = {row["validation_run_id"].split("-")[0]: row for row in rows}
    assert set(stages) == {"PULL", "PUSH", "REVALIDATE", "PROMOTE"}
    assert all(re.fullmatch(r"[A-Z]+-\d{8}-\d{6}-[0-9a-f]{8}", row["validation_run_id"]) for row in rows)
    counts = {
        stage: (row["total_records"], row["passed_records"], row["failed_records"]) for stage, row in stages.items()
    }
    assert counts == {"PULL": (6, 6, 0), "PUSH": (5, 5, 0), "REVALIDATE": (5, 3, 2), "PROMOTE": (3, 3, 0)}


def test_only_the_entity_asked_for(cli, edited, neon, supabase) -> None:
    cli("push", "--entity", "people")
    assert work(supabase, person(1))["pushed_to_neon_at"] is not None
    assert work(supabase, company(1))["pushed_to_neon_at"] is None
    done = cli("promote", "--entity", "people", input=company(1))
    assert f"refused {company(1)}: it is not in the invalid table" in done.stderr, "not among people"


def test_batches_of_one_do_the_same(cli, edited, neon) -> None:
    assert "pushed 5 companies" in cli("push", "--batch-size", "1").stdout
    assert invalid(neon, company(3))["enrichment_status"] == "complete"


def test_a_newer_edit_on_its_way_is_not_judged_over(cli, edited, neon, supabase) -> None:
    cli("push")
    complete(supabase, company(1), website="https://newer.example")
    done = cli("promote", input=company(1))
    assert done.returncode == 1
    assert "push that first" in done.stderr
    assert master(neon, company(1)) is None
    logged = neon.execute("SELECT total_records, passed_records, failed_records FROM public.shq_validation_log"
                          " WHERE validation_run_id LIKE 'PROMOTE-%%' AND source_table LIKE '%%company%%'").fetchone()  # fmt: skip
    assert tuple(logged.values()) == (1, 0, 1), "what was left was refused"


def test_an_edit_in_progress_survives_a_revalidation(cli, edited, neon, supabase) -> None:
    cli("push")
    edit(supabase, company(4), website="half-typed", enrichment_status="in_progress")
    cli("revalidate")
    row = work(supabase, company(4))
    assert (row["website"], row["enrichment_status"]) == ("half-typed", "in_progress")
    complete(supabase, company(4), website="https://c4.example")
    cli("pipeline", "--yes")
    assert master(neon, company(4))["website_url"] == "https://c4.example"


def test_revalidating_again_changes_nothing(cli, edited, neon, supabase) -> None:
    cli("push")
    cli("revalidate")
    before = len(ledger(neon, company(4))), invalid(neon, company(4)), work(supabase, company(4))
    cli("revalidate")
    assert (len(ledger(neon, company(4))), invalid(neon, company(4)), work(supabase, company(4))) == before


def test_a_record_that_fails_as_before_and_with_other_warnings_is_told_of_them(steps, neon, supabase) -> None:
    add_companies(neon, 1)
    steps.pull()
    complete(supabase, company(1), website="n/a")
    steps.deliver()
    assert "phone" in work(supabase, company(1))["validation_warnings"]
    neon.execute("UPDATE marketing.company_invalid SET phone = '+13042930101', enrichment_status = 'complete'")
    steps.revalidate()
    for row in (invalid(neon, company(1)), work(supabase, company(1))):
        assert set(row["validation_errors"]) == {"website"}
        assert "phone" not in row["validation_warnings"]


TELL = ("enrichment_status", "validation_errors", "validation_warnings", "reason_code", "sync_note", "promoted_at")


def _as_a_dead_worker_left_it(supabase: Connection, key: str, before: dict[str, object]) -> None:
    """The row before its acknowledgement: what a worker leaves that dies after it has settled in Neon."""
    table = "company_needs_enrichment" if key.startswith("04.04.01.") else "people_needs_enrichment"
    column = "company_unique_id" if key.startswith("04.04.01.") else "unique_id"
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(
            f"UPDATE {table} SET ({', '.join(TELL)}) = (SELECT {', '.join(TELL)} FROM"
            f" jsonb_populate_record(NULL::{table}, %s)) WHERE {column} = %s",
            [json.dumps({name: before[name] for name in TELL}, default=str), key],
        )


@pytest.mark.parametrize("repair", ["pull", "promote"])
def test_a_row_that_was_not_told_of_its_promotion_hears_of_it(cli, edited, neon, supabase, repair) -> None:
    cli("push")
    cli("revalidate")
    before = work(supabase, company(1))
    assert cli("promote", input=company(1)).returncode == 0
    told = work(supabase, company(1))
    _as_a_dead_worker_left_it(supabase, company(1), before)
    assert work(supabase, company(1))["promoted_at"] is None
    if repair == "promote":
        # Another record's promotion does not care; the next pull does.
        assert "promoted 1 records" in cli("promote", input=company(2)).stdout
    assert cli("pull").returncode == 0
    row = work(supabase, company(1))
    assert row["promoted_at"] == told["promoted_at"]
    assert row["enrichment_status"] == "complete"
    assert row["sync_note"].startswith("This record was promoted on ")
    assert "Edits" not in row["sync_note"]
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["waiting", "promoted"]


@pytest.mark.parametrize("repair", ["pull", "revalidate"])
def test_a_row_that_was_not_told_of_its_failure_hears_of_it_and_the_ledger_has_it_once(
    cli, edited, neon, supabase, repair
) -> None:
    cli("push")
    before = work(supabase, company(4))
    cli("revalidate")
    told = work(supabase, company(4))
    assert told["enrichment_status"] == "failed"
    _as_a_dead_worker_left_it(supabase, company(4), before)
    assert work(supabase, company(4))["enrichment_status"] == "complete"
    assert cli(repair).returncode == 0
    row = work(supabase, company(4))
    assert {name: row[name] for name in TELL} == {name: told[name] for name in TELL}
    assert [entry["outcome"] for entry in ledger(neon, company(4))] == ["waiting", "flagged"]


def test_a_person_that_waits_for_a_company_whose_row_was_not_told_goes_on(cli, edited, neon, supabase) -> None:
    neon.execute("DELETE FROM marketing.company_slots")
    cli("push")
    cli("revalidate")
    assert cli("promote", input=person(1)).returncode == 1
    assert work(supabase, person(1))["waiting_for"] == company(1)
    before = work(supabase, company(1))
    add_slot(neon, 1, of=1)
    neon.execute("UPDATE marketing.company_slots SET company_unique_id = %s", [company(1)])
    assert cli("promote", input=company(1)).returncode == 0
    _as_a_dead_worker_left_it(supabase, company(1), before)
    assert cli("pull").returncode == 0
    assert work(supabase, company(1))["promoted_at"] is not None
    assert person(1) not in cli("pipeline", "--yes").stderr  # the master refuses another record
    assert work(supabase, person(1))["promoted_at"] is not None


def test_long_work_shows_a_bar_on_a_terminal_and_nothing_elsewhere(cli, edited, env, tmp_path) -> None:
    stages = ("pull", "push", "revalidate", f"undo {company(1)}")
    assert all("\x1b" not in cli(*stage.split()).stderr for stage in stages)
    for stage, title in (("pull --full", "pulling"), ("revalidate", "judging"), (f"undo {company(1)}", "taking back")):
        shown = _on_a_terminal(f"{sys.executable} -m worker {stage}", env, tmp_path)
        assert title in shown
        assert "0:00:0" in shown or "-:--:--" in shown, "time left"


def _on_a_terminal(command: str, env: dict[str, str], folder: Path) -> str:
    """What a command writes where all it has is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, **env, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command.split(" "), env=environment, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:
            pass  # the other end is closed: it has ended
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["push", "--batch-size", "0"], 2, "--batch-size"),
        (["push", "--batch-size", "many"], 2, "--batch-size"),
        (["pull", "--entity", "horses"], 2, "horses"),
        (["promote", "--passed-ids-file", "/nowhere"], 2, "/nowhere"),
        (["teleport"], 2, "teleport"),
    ],
)
def test_wrong_usage_is_exit_2(cli, arguments, status, said) -> None:
    done = cli(*arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_that_are_no_text_are_refused(cli, prepared, tmp_path) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\xff\xfe\x00\x01")
    done = cli("promote", "--passed-ids-file", str(nonsense))
    assert done.returncode == 2
    assert "one key a line" in done.stderr


def test_an_unreachable_database_is_one_line_and_exit_3(cli, prepared, env) -> None:
    env["NEON_DATABASE_URL"] = "postgresql://somebody:hunter2@127.0.0.1:1/neon"
    for command in ("push", "run", "setup", "pull"):
        done = cli(command)
        assert done.returncode == 3
        assert len(done.stderr.strip().splitlines()) == 1
        assert "NEON_DATABASE_URL" in done.stderr
        assert "hunter2" not in done.stderr


def test_a_missing_setting_is_one_line_and_exit_2(cli, prepared, env) -> None:
    del env["SUPABASE_DATABASE_URL"]
    done = cli("push")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "SUPABASE_DATABASE_URL" in done.stderr


def test_a_dotenv_file_works(cli, prepared, env, tmp_path) -> None:
    lines = [f"{name}={env.pop(name)}" for name in ("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL")]
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    assert cli("pull").returncode == 0
