"""Careless enrichers and odd production tables: nobody's slip stops the worker or holds up the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import anyio
import psycopg
import pytest
from conftest import ROOT, Daemon, _environment
from declared import COMPANY
from psycopg import sql
from records import add_companies, add_master, company, complete, invalid, ledger, master, work

from worker.domain.model import Data
from worker.domain.steps import Verdict
from worker.settings import load_settings
from worker.sync.databases import open_databases
from worker.sync.stages import Pushed, push


@pytest.fixture
def running(cli, prepared, neon, daemon):
    add_companies(neon, *range(1, 10))
    assert cli("pull").returncode == 0
    return daemon()


def answered(supabase, key):
    return lambda: (row := work(supabase, key))["pushed_to_neon_at"] and row


@pytest.mark.parametrize("typed", ["20251-11-07", "infinity", "-infinity", "0044-03-15 BC"])
def test_a_date_far_off_the_calendar_is_carried_all_the_same(running, neon, supabase, eventually, typed) -> None:
    complete(supabase, company(1), website="https://a.example", enriched_at=typed)
    complete(supabase, company(2), website="https://b.example")
    promoted = "SELECT FROM company_needs_enrichment WHERE promoted_at IS NOT NULL"
    eventually(lambda: len(supabase.execute(promoted).fetchall()) == 2)
    assert running.process.poll() is None


@pytest.mark.parametrize("at", ["infinity", "-infinity", "9999-12-31 23:59:59.999999", "20251-11-07"])
def test_a_record_dated_far_off_the_calendar_goes_round_the_loop(
    cli, prepared, neon, supabase, daemon, eventually, at
) -> None:
    add_companies(neon, 1, updated_at=at, enriched_at=at)
    add_companies(neon, 2)
    assert cli("pull").returncode == 0
    worker = daemon()
    complete(supabase, company(1), website="n/a")
    eventually(lambda: work(supabase, company(1))["enrichment_status"] == "failed")
    neon.execute("UPDATE marketing.company_invalid SET updated_at = %s, city = 'Elkins'", [at])
    assert cli("pull", "--full").returncode == 0
    complete(supabase, company(1), website="https://a.example")
    assert eventually(answered(supabase, company(1)))["promoted_at"]
    assert worker.process.poll() is None


def test_an_invalid_table_that_refuses_its_own_row_stops_nobody(running, neon, supabase, eventually) -> None:
    neon.execute("UPDATE marketing.company_invalid SET zip = 'X1' WHERE company_unique_id = %s", [company(1)])
    neon.execute("ALTER TABLE marketing.company_invalid ADD CONSTRAINT zip_digits CHECK (zip !~ 'X') NOT VALID")
    complete(supabase, company(1), website="n/a")
    complete(supabase, company(2), website="https://b.example")
    complete(supabase, company(3), website="n/a")
    eventually(lambda: work(supabase, company(2))["promoted_at"])
    row = eventually(lambda: (row := work(supabase, company(1)))["enrichment_status"] == "failed" and row)
    assert "tell the operator" in json.dumps(row["validation_errors"])
    assert row["website"] == "n/a", "what the enricher typed stays"
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["flagged"]
    eventually(lambda: work(supabase, company(3))["enrichment_status"] == "failed")
    assert running.process.poll() is None


def refuse(neon, code: str) -> None:
    """A trigger of the master table that raises a code of its own for one record."""
    neon.execute(
        sql.SQL(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.company_name = 'No' THEN"
            " RAISE EXCEPTION 'not on a Monday' USING ERRCODE = {}; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION refuse()"
        ).format(sql.Literal(code))
    )


@pytest.mark.parametrize("code", ["45000", "PT403", "UE001", "09000", "27000", "21000"])
def test_a_masters_trigger_may_raise_a_code_of_its_own(running, neon, supabase, eventually, code) -> None:
    refuse(neon, code)
    complete(supabase, company(1), website="https://a.example", company_name="No")
    complete(supabase, company(2), website="https://b.example")
    eventually(lambda: work(supabase, company(2))["promoted_at"])
    row = eventually(lambda: (row := work(supabase, company(1)))["enrichment_status"] == "failed" and row)
    assert "not on a Monday" in json.dumps(row["validation_errors"])


def test_a_record_that_fails_as_if_by_a_passing_fault_holds_up_nobody_for_good(
    running, neon, supabase, eventually
) -> None:
    refuse(neon, "XX000")
    complete(supabase, company(1), website="https://a.example", company_name="No")
    for number in range(2, 9):
        complete(supabase, company(number), website="https://b.example")
    for number in range(2, 9):
        eventually(lambda number=number: work(supabase, company(number))["promoted_at"])
    assert work(supabase, company(1))["enrichment_status"] == "complete"
    neon.execute("DROP TRIGGER refuse ON marketing.company_master")
    eventually(lambda: work(supabase, company(1))["promoted_at"], 60)


def test_a_workspace_made_by_hand_that_is_too_narrow_keeps_out_that_record_only(
    cli, prepared, neon, supabase, daemon, eventually
) -> None:
    supabase.execute("ALTER TABLE company_needs_enrichment ALTER city TYPE varchar(20)")
    add_companies(neon, 1, 2, 3, 5)
    add_companies(neon, 4, city="x" * 50)
    worker = daemon()
    eventually(lambda: len(supabase.execute("SELECT FROM company_needs_enrichment").fetchall()) == 4)
    assert worker.wait_event("pull.refused", key=company(4))["error"].startswith("value too long")
    # The same of a record that is there and grows.
    neon.execute("UPDATE marketing.company_invalid SET city = repeat('y', 50), updated_at = clock_timestamp()"
                 " AT TIME ZONE 'UTC' WHERE id = 1")  # fmt: skip
    neon.execute("UPDATE marketing.company_invalid SET zip = '26241', updated_at = clock_timestamp()"
                 " AT TIME ZONE 'UTC' WHERE id IN (2, 3)")  # fmt: skip
    assert cli("pull").returncode == 0
    assert [work(supabase, company(number))["zip"] for number in (2, 3)] == ["26241"] * 2
    assert worker.process.poll() is None


def test_a_row_that_a_table_of_the_customers_refers_to_is_not_withdrawn_and_holds_up_no_pull(
    cli, prepared, neon, supabase
) -> None:
    add_companies(neon, 1, 2, 3)
    assert cli("pull").returncode == 0
    supabase.execute("CREATE TABLE comments (row_id bigint REFERENCES company_needs_enrichment (id));"
                     "INSERT INTO comments SELECT id FROM company_needs_enrichment WHERE neon_id = 2")  # fmt: skip
    neon.execute("DELETE FROM marketing.company_invalid")
    assert cli("pull", "--full").returncode == 0
    left = supabase.execute("SELECT neon_id FROM company_needs_enrichment").fetchall()
    assert [row["neon_id"] for row in left] == [2]
    assert [len(ledger(neon, company(number))) for number in (1, 2, 3)] == [1, 0, 1]


def test_an_undo_before_the_row_heard_of_its_promotion_is_not_promoted_again(
    cli, prepared, env, tmp_path, nursery, neon, supabase, daemon, eventually
) -> None:
    add_companies(neon, 1, 2)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="https://a.example")
    path = os.pathsep.join([str(ROOT / "tests" / "support" / "crash"), str(ROOT)])
    # Dies when Neon has committed and before the row is told.
    victim = Daemon({**_environment(env), "PYTHONPATH": path, "CRASH_AT": "11:before"}, tmp_path, nursery)
    assert victim.process.wait(30) == -9
    victim._reader.join(10)
    victim.process.stderr.close()
    assert master(neon, company(1)) is not None
    assert cli("undo", company(1)).returncode == 0
    assert work(supabase, company(1))["enrichment_status"] == "pending"
    daemon()
    complete(supabase, company(2), website="https://b.example")
    eventually(lambda: work(supabase, company(2))["promoted_at"])
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["promoted_at"], row["website"]) == ("pending", None, "https://a.example")
    assert master(neon, company(1)) is None
    assert invalid(neon, company(1)) is not None


def test_numbers_come_back_to_the_last_digit(running, cli, neon, supabase, eventually) -> None:
    add_master(neon, 1, data_quality_score="1.10")
    add_master(neon, 2, data_quality_score="12345678901234567.123456789")
    for n in (1, 2):
        complete(supabase, company(n), website="https://a.example")
        eventually(answered(supabase, company(n)))
    assert cli("undo", company(1), company(2)).returncode == 0
    after = [master(neon, company(n)) for n in (1, 2)]
    assert [str(r["data_quality_score"]) for r in after] == ["1.10", "12345678901234567.123456789"]


def test_an_enrichers_open_transaction_holds_up_no_pull(cli, prepared, databases, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    assert cli("pull").returncode == 0
    neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now()")
    with psycopg.connect(databases.supabase_url) as enricher:
        enricher.execute("UPDATE company_needs_enrichment SET phone = '1' WHERE company_unique_id = %s", [company(1)])
        done = cli("pull")
        assert done.returncode == 0
        assert work(supabase, company(2))["city"] == "Elkins"
    assert cli("pull").returncode == 0
    assert work(supabase, company(1))["city"] == "Elkins"


def test_many_records_locked_in_neon_hold_up_nobody_else(
    cli, prepared, databases, env, daemon, neon, supabase, eventually
) -> None:
    env["WORKER_BATCH_SIZE"] = "2"
    add_companies(neon, *range(1, 10))
    assert cli("pull").returncode == 0
    with psycopg.connect(databases.neon_url) as dba:
        dba.execute("SELECT FROM marketing.company_invalid WHERE id <= 6 FOR UPDATE")
        daemon()
        for n in range(1, 10):
            complete(supabase, company(n), website="https://a.example")
        eventually(lambda: work(supabase, company(9))["promoted_at"])


def test_what_a_trigger_swallows_is_told_in_words(running, neon, supabase, eventually) -> None:
    neon.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    complete(supabase, company(1), website="https://a.example")
    row = eventually(answered(supabase, company(1)))
    assert "outcome" not in json.dumps(row["validation_errors"]), row["validation_errors"]


def test_a_table_that_refers_to_the_invalid_row(running, neon, supabase, eventually) -> None:
    neon.execute(
        "CREATE TABLE marketing.tickets (id int, c text REFERENCES marketing.company_invalid (company_unique_id));"
        "INSERT INTO marketing.tickets VALUES (1, '04.04.01.01.00001.001')"
    )
    complete(supabase, company(1), website="https://a.example")
    row = eventually(answered(supabase, company(1)))
    assert "refers to a row that is not in" not in json.dumps(row["validation_errors"]), row["validation_errors"]


def test_a_push_whose_rules_crash_keeps_what_the_enricher_typed(
    cli, prepared, env, neon, supabase, monkeypatch
) -> None:
    def crash(_data: Data) -> Verdict:
        raise ZeroDivisionError

    async def carry() -> None:
        async with open_databases(load_settings()) as opened:
            await push(opened, COMPANY, Pushed())

    add_companies(neon, 1)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="https://typed.example")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(COMPANY.rules, "judge", crash)
    anyio.run(carry)
    row = work(supabase, company(1))
    assert (row["website"], row["enrichment_status"]) == ("https://typed.example", "failed")
    assert "tell the operator" in row["validation_errors"]["record"]


def test_a_command_tells_every_fault_and_exits_2(tmp_path) -> None:
    address = "postgresql://ana:hunter2@ep-x-pooler.eu.aws.neon.example/neon"
    (tmp_path / ".env").write_text(f"NEON_DATABASE_URL={address}?sslmode=disable\nWORKER_BATCH_SIZE=0\n")
    done = subprocess.run(
        [sys.executable, "-m", "worker", "status"], env=_environment({}), cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    for name in ("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL", "WORKER_BATCH_SIZE"):
        assert f"{name}: " in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
