"""Moments that a mistake in the code would spoil, and that no other test brings about. SPEC 3, 5, 6."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from conftest import connect
from declared import COMPANY, PEOPLE
from oracle import check
from records import (
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
    work,
)

from worker.domain.model import stamp

WAITING = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
GATE = "SELECT pg_advisory_lock(7)"
OPEN = "SELECT pg_advisory_unlock(7)"


@pytest.fixture
def running(cli, prepared, neon, daemon):
    """A worker that pulls no more for an hour."""
    add_companies(neon, 1, 2, 3)
    add_people(neon, 1, of=1)
    add_slot(neon, 1, of=1)
    assert cli("pull").returncode == 0
    return daemon()


def trigger(connection, table: str, when: str, body: str, more: str = "") -> None:
    """One of the customer's own."""
    connection.execute(
        f"CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;"
        f"CREATE TRIGGER theirs {when} ON {table} FOR EACH ROW {more} EXECUTE FUNCTION theirs()"
    )


def refuse_addresses(supabase) -> None:
    """The customer's constraint, which takes what is typed, and not what becomes of it."""
    supabase.execute("ALTER TABLE company_needs_enrichment ADD CHECK (website NOT LIKE 'https:%')")


# -- who waits -----------------------------------------------------------------------------------------------------


def test_a_company_that_is_promoted_between_a_persons_settlement_and_its_reply_is_not_missed(
    running, databases, neon, supabase, eventually
) -> None:
    trigger(
        supabase, "people_needs_enrichment", "AFTER UPDATE", "PERFORM pg_advisory_xact_lock(7);",
        "WHEN (NEW.waiting_for IS NOT NULL)",
    )  # fmt: skip
    with connect(databases.supabase_url) as gate:
        gate.execute(GATE)
        complete(supabase, person(1), email="robin@alder.example")
        eventually(lambda: supabase.execute(WAITING).rowcount)
        assert [entry["outcome"] for entry in ledger(neon, person(1))] == ["waiting"]
        complete(supabase, company(1), website="alder.example")
        eventually(lambda: work(supabase, company(1))["promoted_at"])
        gate.execute(OPEN)
    eventually(lambda: work(supabase, person(1))["promoted_at"])
    assert master(neon, person(1)) is not None


def test_who_waits_for_a_company_whose_row_refuses_its_reply_goes_on(running, neon, supabase, eventually) -> None:
    refuse_addresses(supabase)
    complete(supabase, person(1), email="robin@alder.example")
    eventually(lambda: work(supabase, person(1))["waiting_for"])
    complete(supabase, company(1), website="alder.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    assert work(supabase, company(1))["website"] == "alder.example", "it was refused"
    eventually(lambda: work(supabase, person(1))["promoted_at"])


# -- replies -------------------------------------------------------------------------------------------------------


def test_an_edit_that_gets_in_when_a_reply_was_refused_is_carried(
    running, databases, neon, supabase, eventually
) -> None:
    """The claim's locks are released with the refused reply: a later reply may meet a newer edit."""
    refuse_addresses(supabase)
    trigger(
        supabase, "company_needs_enrichment", "BEFORE UPDATE", "PERFORM pg_advisory_xact_lock(7);",
        "WHEN (OLD.neon_id = 2 AND NEW.pushed_to_neon_at IS NOT NULL)",
    )  # fmt: skip
    with (
        ThreadPoolExecutor() as others,
        connect(databases.supabase_url) as gate,
        connect(databases.supabase_url) as enricher,
    ):
        gate.execute(GATE)
        supabase.execute(
            "UPDATE company_needs_enrichment SET enrichment_status = 'complete',"
            " website = CASE neon_id WHEN 1 THEN 'n/a' ELSE 'birch.example' END WHERE neon_id < 3"
        )
        eventually(lambda: supabase.execute(WAITING).rowcount)
        editing = others.submit(complete, enricher, company(1), website="alder.example")
        eventually(lambda: supabase.execute(WAITING).rowcount == 2)
        gate.execute(OPEN)
        editing.result()
    eventually(lambda: master(neon, company(1)))
    assert master(neon, company(1))["website_url"] == "https://alder.example"
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    eventually(lambda: work(supabase, company(2))["promoted_at"])


def test_an_edit_moves_updated_at_on_from_a_moment_that_is_still_to_come(prepared, supabase) -> None:
    """The worker tells one version of a row from the next by it."""
    supabase.execute("INSERT INTO company_needs_enrichment (company_unique_id) VALUES (%s)", [company(1)])
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(
            "UPDATE company_needs_enrichment SET updated_at = now() AT TIME ZONE 'UTC' + interval '1 hour'"
        )
    seen = [work(supabase, company(1))["updated_at"]]
    for city in ("Elkins", "Berea"):
        edit(supabase, company(1), city=city)
        seen.append(work(supabase, company(1))["updated_at"])
    assert seen[0] < seen[1] < seen[2]


# -- what Neon says ------------------------------------------------------------------------------------------------


def test_a_deferred_constraint_of_the_masters_speaks_of_its_record_alone(running, neon, supabase, eventually) -> None:
    neon.execute("ALTER TABLE marketing.company_master ADD UNIQUE (company_name) DEFERRABLE INITIALLY DEFERRED")
    add_master(neon, 9, company_name="Alder Works 2")
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = 'c' || neon_id || '.example'"
    )
    rows = [eventually(lambda n=n: (r := work(supabase, company(n)))["pushed_to_neon_at"] and r) for n in (1, 2, 3)]
    assert [row["enrichment_status"] for row in rows] == ["complete", "failed", "complete"]
    assert rows[1]["validation_errors"] == {
        "company_name": "another record in the master table already has this company_name"
    }
    assert invalid(neon, company(2))["still_invalid"] is True
    assert running.process.poll() is None


def test_a_deadlock_that_the_worker_loses_is_tried_again(running, databases, neon, supabase, eventually) -> None:
    trigger(
        neon, "marketing.company_master", "BEFORE INSERT",
        "PERFORM pg_advisory_xact_lock(1); PERFORM pg_advisory_xact_lock(2);",
    )  # fmt: skip
    # The worker finds it, and is the victim: it looks before it gives up waiting for a lock, and the other does not.
    neon.execute(f"ALTER DATABASE {neon.info.dbname} SET deadlock_timeout = '10ms'")
    neon.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'enrichment-worker'"
        " AND datname = current_database()"
    )
    with ThreadPoolExecutor() as others, connect(databases.neon_url) as other:
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("SELECT pg_advisory_lock(2)")
        waits = others.submit(
            other.execute,
            "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND granted)"
            " LOOP END LOOP; PERFORM pg_advisory_lock(1); END $$",
        )
        complete(supabase, company(1), website="alder.example")
        running.wait_event("worker.fault", task="company", error="Neon: deadlock detected")
        waits.result()
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["promoted"]
    assert running.process.poll() is None
    check(neon, supabase)


def test_a_serialization_failure_is_tried_again(running, neon, supabase, eventually) -> None:
    neon.execute("CREATE SEQUENCE tries")
    trigger(
        neon, "marketing.company_master", "BEFORE INSERT",
        "IF nextval('public.tries') < 3 THEN RAISE serialization_failure USING MESSAGE = 'could not serialize'; END IF;",
    )  # fmt: skip
    complete(supabase, company(1), website="alder.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    assert "could not serialize" in running.wait_event("worker.fault", task="company")["error"]
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["promoted"]
    assert running.process.poll() is None


# -- undo ----------------------------------------------------------------------------------------------------------


def test_what_was_pushed_promoted_and_taken_back_is_not_promoted_by_the_next_pull(steps, neon, supabase) -> None:
    """The record had been carried when it was promoted: as it was then, it would be judged again."""
    add_companies(neon, 1)
    steps.pull()
    complete(supabase, company(1), website="alder.example")
    steps.push()
    assert steps.promote(company(1)).promoted == [company(1)]
    assert list(steps.undo(company(1)).undone) == [company(1)]
    for full in (False, True):
        assert steps.pull(full=full).judged == 0
        assert master(neon, company(1)) is None
        row = work(supabase, company(1))
        assert (row["enrichment_status"], row["promoted_at"], row["website"]) == (
            "pending", None, "https://alder.example",
        )  # fmt: skip
    check(neon, supabase)


# -- what the trigger keeps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("of", "entity"), [(company, COMPANY), (person, PEOPLE)])
def test_an_edit_of_whatever_column_is_carried_queues_an_answered_row_again(prepared, supabase, of, entity) -> None:
    table = entity.workspace_table.name
    supabase.execute(f"INSERT INTO {table} ({entity.key}, enrichment_status) VALUES (%s, 'complete')", [of(1)])
    for column in entity.columns:
        with supabase.transaction():
            supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
            supabase.execute(f"UPDATE {table} SET pushed_to_neon_at = now() AT TIME ZONE 'UTC'")
        edit(supabase, of(1), **{column: "7"})
        assert work(supabase, of(1))["pushed_to_neon_at"] is None, column


def test_of_the_versions_in_which_a_row_was_queued_the_latest_are_kept(prepared, supabase) -> None:
    supabase.execute("INSERT INTO company_needs_enrichment (company_unique_id, enrichment_status)"
                     " VALUES (%s, 'complete')", [company(1)])  # fmt: skip
    queued = [stamp(work(supabase, company(1))["updated_at"])]
    for number in range(34):
        edit(supabase, company(1), employee_count=number)
        queued.append(stamp(work(supabase, company(1))["updated_at"]))
    assert work(supabase, company(1))["queued_versions"].split(",") == queued[-32:]


# -- notifications -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [company, person])
def test_a_flip_notifies_of_its_own_entity(prepared, databases, supabase, of) -> None:
    table, column, name = {
        company: ("company_needs_enrichment", "company_unique_id", "company"),
        person: ("people_needs_enrichment", "unique_id", "people"),
    }[of]
    with psycopg.connect(databases.supabase_url, autocommit=True) as ear:
        ear.execute("LISTEN enrichment_complete")
        supabase.execute(f"INSERT INTO {table} ({column}) VALUES (%s)", [of(1)])
        complete(supabase, of(1), city="Elkins")
        supabase.execute(f"INSERT INTO {table} ({column}, enrichment_status) VALUES (%s, 'complete')", [of(2)])
        notices = list(ear.notifies(timeout=5, stop_after=2))
        assert [notice.payload for notice in notices] == [f'{{"entity": "{name}"}}'] * 2
        assert list(ear.notifies(timeout=0)) == []


@pytest.mark.parametrize("of", [company, person])
def test_an_edit_that_queues_an_answered_row_again_notifies(prepared, databases, supabase, of) -> None:
    """It was carried, and is complete all the time: nobody sets its status."""
    table, column, name = {
        company: ("company_needs_enrichment", "company_unique_id", "company"),
        person: ("people_needs_enrichment", "unique_id", "people"),
    }[of]
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(
            f"INSERT INTO {table} ({column}, enrichment_status, pushed_to_neon_at)"
            " VALUES (%s, 'complete', now() AT TIME ZONE 'UTC')",
            [of(1)],
        )
    with psycopg.connect(databases.supabase_url, autocommit=True) as ear:
        ear.execute("LISTEN enrichment_complete")
        edit(supabase, of(1), enrichment_notes="asked them")
        assert list(ear.notifies(timeout=0)) == []
        edit(supabase, of(1), city="Elkins")
        assert work(supabase, of(1))["pushed_to_neon_at"] is None
        notices = list(ear.notifies(timeout=5, stop_after=1))
        assert [notice.payload for notice in notices] == [f'{{"entity": "{name}"}}']
