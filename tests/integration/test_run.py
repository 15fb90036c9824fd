"""``run``: a row's way, as the enricher sees it. SPEC 3 and 6."""

import json
import re
from datetime import timedelta

import psycopg
import pytest
from conftest import connect
from records import (
    Connection,
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    invalid,
    ledger,
    master,
    person,
    slot,
    work,
)


@pytest.fixture
def filled(cli, prepared, neon):
    add_companies(neon, *range(1, 9))
    add_people(neon, 1, 2, of=1)
    add_people(neon, 3, of=2)
    add_slot(neon, 1, of=1)
    add_slot(neon, 2, of=2)


@pytest.fixture
def running(filled, daemon, supabase, eventually):
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT count(*) AS n FROM people_needs_enrichment").fetchone()["n"] == 3)
    eventually(lambda: supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment").fetchone()["n"] == 8)
    return worker


def answered(supabase: Connection, key: str):
    def look():
        row = work(supabase, key)
        return row if row["pushed_to_neon_at"] is not None else None

    return look


def test_a_repaired_company_is_promoted_and_its_row_says_so(running, neon, supabase, eventually) -> None:
    complete(supabase, company(1), website=" Alder.Example/Shop ", phone="(304) 293-0100", employee_count=12)
    row = eventually(answered(supabase, company(1)))
    assert row["enrichment_status"] == "complete"
    assert row["promoted_at"] is not None
    assert row["validation_errors"] == {}
    assert "romoted" in row["sync_note"]
    assert row["enriched_at"] is not None
    assert row["enriched_by"]
    assert invalid(neon, company(1)) is None
    there = master(neon, company(1))
    assert there["website_url"] == "https://alder.example/Shop"
    assert (there["company_phone"], there["employee_count"]) == ("+13042930100", 12)
    assert (there["source_system"], there["source_record_id"]) == ("enrichment", "1")
    assert there["import_batch_id"] == "INTAKE-20251107-163209-b26be042"
    assert there["validated_at"] is not None
    assert there["validated_by"] == row["enriched_by"]
    (entry,) = ledger(neon, company(1))
    assert entry["outcome"] == "promoted"
    assert re.fullmatch(r"[A-Z]+-\d{8}-\d{6}-[0-9a-f]{8}", entry["run_id"])
    assert set(entry["enriched_fields"]) == {"website", "phone", "employee_count"}
    assert entry["invalid_before"]["company_name"] == "Alder Works 1"
    assert entry["master_before"] is None
    assert entry["master_after"]["website_url"] == "https://alder.example/Shop"
    # The row shows what was carried.
    assert row["website"] == "https://alder.example/Shop"
    assert row["domain"] == "alder.example"


def test_a_record_that_fails_comes_back_with_the_reasons_and_goes_again(running, neon, supabase, eventually) -> None:
    complete(supabase, company(2), website="test.com", company_name="N/A")
    row = eventually(answered(supabase, company(2)))
    assert row["enrichment_status"] == "failed"
    assert set(row["validation_errors"]) == {"company_name", "website"}
    there = invalid(neon, company(2))
    assert there["still_invalid"] is True
    assert there["enrichment_status"] == "complete"
    assert there["validation_errors"] == row["validation_errors"]
    assert there["reason_code"] == "PLACEHOLDER_COMPANY_NAME"
    assert there["enriched_by"] == row["enriched_by"]
    assert ledger(neon, company(2))[0]["outcome"] == "flagged"
    complete(supabase, company(2), website="birch.example", company_name="Birch Works")
    eventually(lambda: master(neon, company(2)))
    assert [entry["outcome"] for entry in ledger(neon, company(2))] == ["flagged", "promoted"]


def test_blanks_and_case_around_the_status_are_folded_and_other_words_refused(running, supabase, eventually) -> None:
    edit(supabase, company(1), website="https://a.example", enrichment_status="\u00a0 Complete ")
    assert eventually(answered(supabase, company(1)))["enrichment_status"] == "complete"
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        edit(supabase, company(2), enrichment_status="done")
    for word in ("pending", "in_progress", "complete", "failed"):
        assert word in str(refused.value)


def test_a_person_waits_for_the_company_and_goes_on_by_itself(running, neon, supabase, eventually) -> None:
    complete(supabase, person(1), email="robin@alder.example", phone="304-293-0101")

    row = eventually(lambda: (r := work(supabase, person(1)))["waiting_for"] and r)
    assert row["enrichment_status"] == "complete"
    assert row["pushed_to_neon_at"] is None
    assert company(1) in row["sync_note"]
    assert [entry["outcome"] for entry in ledger(neon, person(1))] == ["waiting"]
    complete(supabase, company(1), website="https://alder.example")
    row = eventually(answered(supabase, person(1)))
    assert row["promoted_at"] is not None
    there = master(neon, person(1))
    assert (there["first_name"], there["last_name"], there["full_name"]) == ("Robin", "Alder1", "Robin Alder1")
    assert there["work_phone_e164"] == "+13042930101"
    assert there["company_slot_unique_id"] == "04.04.05.01.00001.001"


def test_a_company_id_that_leads_nowhere_is_an_error_on_that_field(running, supabase, eventually) -> None:
    complete(supabase, person(1), email="robin@alder.example", company_unique_id="my company")
    row = eventually(answered(supabase, person(1)))
    assert row["enrichment_status"] == "failed"
    assert "company_slot_unique_id" in row["validation_errors"]["company_unique_id"]


def test_the_default_slot_comes_first_and_of_two_the_oldest(running, neon, supabase, eventually) -> None:
    neon.execute("UPDATE marketing.company_slots SET slot_type = 'ceo', created_at = '2020-01-01'")
    add_slot(neon, 9, of=1)
    add_slot(neon, 8, of=2, slot_type="ceo", created_at="2019-01-01")
    for number, (of, chosen) in {1: (1, 9), 3: (2, 8)}.items():
        complete(supabase, company(of), website="https://alder.example")
        complete(supabase, person(number), email="robin@alder.example", title="CEO" if number == 3 else None)
        eventually(answered(supabase, person(number)))
        assert master(neon, person(number))["company_slot_unique_id"] == slot(chosen)


def test_what_the_master_refuses_comes_back_in_words_and_holds_up_nobody(running, neon, supabase, eventually) -> None:
    with supabase.transaction():
        for number in range(1, 9):
            complete(
                supabase, company(number), website=f"https://c{number}.example",
                employee_count=-5 if number in (3, 7) else number,
            )  # fmt: skip
    rows = [eventually(answered(supabase, company(number))) for number in range(1, 9)]
    assert [row["enrichment_status"] for row in rows] == [
        "failed" if number in (3, 7) else "complete" for number in range(1, 9)
    ]
    assert "employee_count" in rows[2]["validation_errors"]
    assert "enter a number of 0 or more" in rows[2]["validation_errors"]["employee_count"]
    assert set(rows[2]["validation_warnings"]) == {"industry", "phone"}, "what the rules only warn of is told beside"
    assert rows[2]["validation_warnings"] == invalid(neon, company(3))["validation_warnings"]
    assert invalid(neon, company(3))["employee_count"] == -5


def test_a_trigger_of_the_master_speaks_to_the_enricher(running, neon, supabase, eventually) -> None:
    neon.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.company_name = 'Swallowed' THEN RETURN NULL; END IF;"
        " RAISE EXCEPTION 'not on a Monday'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    complete(supabase, company(1), website="https://a.example")
    row = eventually(answered(supabase, company(1)))
    assert row["enrichment_status"] == "failed"
    assert "not on a Monday" in json.dumps(row["validation_errors"])
    complete(supabase, company(2), website="https://b.example", company_name="Swallowed")
    assert eventually(answered(supabase, company(2)))["enrichment_status"] == "failed"
    assert invalid(neon, company(2)) is not None


def test_a_record_in_the_master_is_updated_never_with_null_over_a_value(running, neon, supabase, eventually) -> None:
    add_master(neon, 1, industry="Timber", company_phone="+13042930199")
    complete(supabase, company(1), website="https://new.example")
    eventually(answered(supabase, company(1)))
    there = master(neon, company(1))
    assert (there["website_url"], there["industry"], there["company_phone"]) == (
        "https://new.example", "Timber", "+13042930199",
    )  # fmt: skip
    (entry,) = ledger(neon, company(1))
    assert entry["master_before"]["website_url"] == "https://old.example"


def test_a_record_in_the_master_keeps_what_the_new_one_lacks(filled, daemon, neon, supabase, eventually) -> None:
    neon.execute("UPDATE marketing.people_invalid SET company_unique_id = NULL WHERE unique_id = %s", [person(1)])
    neon.execute(
        "INSERT INTO marketing.people_master (unique_id, company_unique_id, company_slot_unique_id, first_name, last_name,"
        " source_system) VALUES (%s, %s, %s, 'Robin', 'Alder1', 'intake')", [person(1), company(1), slot(1)]
    )  # fmt: skip
    # Not null in a master that is stricter than ours.
    neon.execute("ALTER TABLE marketing.company_master ALTER employee_count SET NOT NULL")
    add_master(neon, 1, employee_count=12)
    daemon().wait_event("pull.done", entity="people")
    complete(supabase, person(1), email="robin@alder.example")
    complete(supabase, company(1), website="https://alder.example")
    assert eventually(answered(supabase, person(1)))["promoted_at"] is not None
    assert eventually(answered(supabase, company(1)))["promoted_at"] is not None
    there = master(neon, person(1))
    assert (there["email"], there["company_unique_id"]) == ("robin@alder.example", company(1))
    assert there["company_slot_unique_id"] == slot(1)
    assert master(neon, company(1))["employee_count"] == 12


def test_neons_own_change_meanwhile_is_merged(running, neon, supabase, eventually) -> None:
    neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins' WHERE company_unique_id = %s", [company(1)])
    complete(supabase, company(1), website="https://mine.example")
    eventually(answered(supabase, company(1)))
    there = master(neon, company(1))
    assert (there["website_url"], there["address_city"]) == ("https://mine.example", "Elkins")


def test_an_enricher_whose_edit_lost_reads_so(running, neon, supabase, eventually) -> None:
    for number in (1, 2):
        edit(supabase, company(number), city="mine")
        at = work(supabase, company(number))["updated_at"] + timedelta(minutes=5)
        neon.execute("UPDATE marketing.company_invalid SET city = 'theirs', updated_at = %s"
                     " WHERE company_unique_id = %s", [at, company(number)])  # fmt: skip
    complete(supabase, company(1), website="https://mine.example")
    complete(supabase, company(2), website="n/a")
    row = eventually(answered(supabase, company(1)))
    assert master(neon, company(1))["address_city"] == "theirs"
    given_back = eventually(answered(supabase, company(2)))
    assert given_back["enrichment_status"] == "failed"
    for told in (row, given_back):
        assert "Your change to city was not kept" in told["sync_note"]
        assert told["city"] == "theirs"
    (entry,) = ledger(neon, company(1))
    assert entry["conflicts"] == [{"field": "city", "enricher": "mine", "neon": "theirs", "winner": "neon"}]


def test_a_record_that_is_gone_is_told_to_the_enricher(running, neon, supabase, eventually) -> None:
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    complete(supabase, company(1), website="https://mine.example")
    row = eventually(lambda: (r := work(supabase, company(1)))["enrichment_status"] == "failed" and r)
    assert "no longer in the invalid table" in row["sync_note"]
    assert row["website"] == "https://mine.example"


def test_edits_after_promotion_are_not_carried_and_the_row_says_so(running, neon, supabase, eventually) -> None:
    complete(supabase, company(1), website="https://mine.example")
    first = eventually(answered(supabase, company(1)))
    before = master(neon, company(1))
    complete(supabase, company(1), website="https://later.example")
    row = eventually(lambda: (r := answered(supabase, company(1))()) and "undo" in r["sync_note"] and r)
    assert row["enrichment_status"] == "complete"
    assert row["promoted_at"] == first["promoted_at"]
    assert master(neon, company(1)) == before
    assert len(ledger(neon, company(1))) == 1


def test_one_statement_that_flips_many_makes_one_notification(running, databases, supabase, eventually) -> None:
    with psycopg.connect(databases.supabase_url, autocommit=True) as ear:
        ear.execute("LISTEN enrichment_complete")
        supabase.execute("UPDATE company_needs_enrichment SET website = 'https://a.example',"
                         " enrichment_status = 'complete'")  # fmt: skip
        notices = list(ear.notifies(timeout=5, stop_after=1))
        assert [json.loads(notice.payload) for notice in notices] == [{"entity": "company"}]
        assert list(ear.notifies(timeout=0)) == []
    eventually(lambda: supabase.execute(
        "SELECT count(*) AS n FROM company_needs_enrichment WHERE promoted_at IS NULL").fetchone()["n"] == 0)  # fmt: skip


def test_a_row_inserted_complete_is_work_like_any_other(running, neon, supabase, eventually) -> None:
    # A CSV import of a record that the pull has not brought yet.
    add_companies(neon, 50)
    supabase.execute(
        "INSERT INTO company_needs_enrichment (company_unique_id, company_name, website, enrichment_status,"
        " pushed_to_neon_at) VALUES (%s, 'Alder Works 50', 'https://csv.example', 'complete', '2020-01-01')",
        [company(50)],
    )
    eventually(lambda: master(neon, company(50)))
    assert master(neon, company(50))["website_url"] == "https://csv.example"


def test_work_nobody_heard_of_is_swept(filled, daemon, env, supabase, eventually, neon) -> None:
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    daemon()
    eventually(lambda: supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment").fetchone()["n"] == 8)
    with supabase.transaction():
        supabase.execute("SET LOCAL session_replication_role = replica")
        complete(supabase, company(1), website="https://quiet.example")
    eventually(answered(supabase, company(1)))
    assert master(neon, company(1)) is not None


def test_whether_a_worker_would_start_is_asked_without_starting_it(cli, databases, supabase) -> None:
    """What `deploy/install` asks before it replaces a worker that runs."""
    done = cli("run", "--check")
    assert done.returncode == 1
    assert "enrichment-worker setup" in done.stderr
    assert cli("setup").returncode == 0
    done = cli("run", "--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "both databases have what this release needs\n"


def test_the_pull_comes_by_itself(running, env, neon, supabase, daemon, eventually) -> None:
    assert running.terminate() == 0
    env.update(WORKER_PULL_INTERVAL="1s", WORKER_SWEEP_INTERVAL="0.2")
    add_companies(neon, 60)
    daemon()
    eventually(lambda: supabase.execute(
        "SELECT FROM company_needs_enrichment WHERE company_unique_id = %s", [company(60)]).fetchone() is not None)  # fmt: skip


def test_every_batch_leaves_its_row_in_the_log(running, neon, supabase, eventually) -> None:
    complete(supabase, company(1), website="https://a.example")
    eventually(answered(supabase, company(1)))
    row = neon.execute(
        "SELECT * FROM public.shq_validation_log WHERE target_table = 'marketing.company_master'"
    ).fetchone()
    assert (row["total_records"], row["passed_records"], row["failed_records"]) == (1, 1, 0)
    assert row["source_table"] == "public.company_needs_enrichment"
    assert row["validation_run_id"] == ledger(neon, company(1))[0]["run_id"]


def test_a_column_whose_type_changes_under_a_prepared_statement_stops_nobody(
    running, databases, supabase, eventually
) -> None:
    # Until every connection of the pool has prepared what it sends.
    for number in range(20):
        complete(supabase, company(7), website=f"no address {number}")
        eventually(lambda: work(supabase, company(7))["enrichment_status"] == "failed")
    supabase.execute("ALTER TABLE company_needs_enrichment ALTER last_sync_hash TYPE varchar(64)")
    # In the session that flipped before, PL/pgSQL itself would stumble over the change.
    with psycopg.connect(databases.supabase_url, autocommit=True) as enricher:
        complete(enricher, company(8), website="https://alder.example")
    assert eventually(answered(supabase, company(8)))["promoted_at"] is not None
    assert running.wait_event("worker.fault", error="Supabase: cached plan must not change result type")
    assert running.terminate() == 0


def test_sigterm_drains_and_exits_0(running, supabase, neon, eventually) -> None:
    supabase.execute(
        "UPDATE company_needs_enrichment SET website = 'https://a.example', enrichment_status = 'complete'"
    )
    assert running.terminate() == 0
    # Whatever it did not take is still in the queue; nothing hangs between.
    for number in range(1, 9):
        row = work(supabase, company(number))
        assert (row["promoted_at"] is not None) == (master(neon, company(number)) is not None)
        assert (row["pushed_to_neon_at"] is None) == (row["promoted_at"] is None)


def test_health_answers(running, eventually) -> None:
    assert running.health("/healthz")[0] == 200
    status, body = eventually(lambda: (a := running.health("/readyz"))[0] == 200 and a)
    assert status == 200
    assert json.loads(body)["ok"] is True


def test_not_ready_without_the_listener_and_ready_again(running, pg_server, supabase, eventually) -> None:
    eventually(lambda: running.health("/readyz")[0] == 200)

    def unready() -> list[str]:
        status, body = running.health("/readyz")
        return json.loads(body)["reasons"] if status == 503 else []

    with connect(pg_server.url()) as admin:
        admin.execute(f"ALTER DATABASE {supabase.info.dbname} ALLOW_CONNECTIONS false")
        killed = admin.execute("SELECT count(pg_terminate_backend(pid)) AS n FROM pg_stat_activity"
                               " WHERE query LIKE 'LISTEN%%' AND datname = %s", [supabase.info.dbname]).fetchone()  # fmt: skip
        assert killed["n"] == 1
        running.wait_event("listener.lost")
        eventually(lambda: any("listener" in reason for reason in unready()))
        assert running.health("/healthz")[0] == 200
        admin.execute(f"ALTER DATABASE {supabase.info.dbname} ALLOW_CONNECTIONS true")
    eventually(lambda: running.health("/readyz")[0] == 200)
    complete(supabase, company(1), website="https://a.example")
    eventually(answered(supabase, company(1)))


def test_the_key_cannot_be_changed(running, supabase) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="identifies the record"):
        edit(supabase, company(1), company_unique_id=company(99))


def test_a_csv_import_cannot_touch_what_the_worker_remembers(running, supabase) -> None:
    before = work(supabase, company(1))
    edit(supabase, company(1), neon_snapshot=None, last_sync_hash="x", city="Elkins")
    after = work(supabase, company(1))
    assert (after["neon_snapshot"], after["last_sync_hash"]) == (before["neon_snapshot"], before["last_sync_hash"])
    assert after["city"] == "Elkins"
    assert after["updated_at"] > before["updated_at"]


def test_a_queued_row_cannot_be_declared_pushed_by_hand(running, supabase, neon, eventually) -> None:
    assert running.terminate() == 0
    complete(supabase, company(1), website="https://a.example")
    edit(supabase, company(1), pushed_to_neon_at="2020-01-01", city="Elkins")
    assert work(supabase, company(1))["pushed_to_neon_at"] is None


def test_notes_on_a_promoted_row_do_not_queue_it_again(running, supabase, neon, eventually) -> None:
    complete(supabase, company(1), website="https://a.example")
    row = eventually(answered(supabase, company(1)))
    edit(supabase, company(1), enrichment_notes="found by telephone")
    assert work(supabase, company(1))["pushed_to_neon_at"] == row["pushed_to_neon_at"]
