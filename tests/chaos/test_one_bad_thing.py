"""One bad thing harms nobody else: a record, a reply or a lock in the way of one is in nobody else's. SPEC 3, 6."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

import psycopg
import pytest
from conftest import SECRET, as_role, connect
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
    slot,
    work,
)
from steps import Steps

from worker.domain.postponed import Cause
from worker.sync.databases import Databases


@pytest.fixture
def filled(cli, prepared, neon):
    add_companies(neon, *range(1, 13))
    add_people(neon, 1)
    add_slot(neon, 1, of=1)
    assert cli("pull").returncode == 0


@pytest.fixture
def agree(cli):
    """Both databases agree in the end, and with the ledger."""

    def look() -> None:
        done = cli("reconcile")
        assert done.returncode == 0, done.stdout + done.stderr

    return look


def promoted(supabase, *keys: str) -> Callable[[], bool]:
    return lambda: all(work(supabase, key)["promoted_at"] for key in keys)


def failed(supabase, key: str) -> Callable[[], object]:
    return lambda: (row := work(supabase, key))["enrichment_status"] == "failed" and row


def unready(worker) -> str:
    status, text = worker.health("/readyz")
    return text if status == 503 else ""


def warned(worker, words: str) -> Callable[[], bool]:
    return lambda: any(words in one for one in json.loads(worker.health("/status.json")[1])["worker"]["warnings"])


def flip(supabase, numbers, website: str = "https://c{}.example") -> None:
    with supabase.transaction():
        for number in numbers:
            complete(supabase, company(number), website=website.format(number))


def theirs(does: str) -> str:
    """A trigger of the customer's own on the workspace."""
    return (
        f"CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does} RETURN NEW; END $$;"
        "CREATE TRIGGER theirs BEFORE UPDATE ON company_needs_enrichment FOR EACH ROW EXECUTE FUNCTION theirs()"
    )


REFUSALS = {
    "a check that refuses failed": (
        "ALTER TABLE company_needs_enrichment ADD CONSTRAINT theirs CHECK (enrichment_status <> 'failed')",
        "ALTER TABLE company_needs_enrichment DROP CONSTRAINT theirs",
    ),
    "a trigger that raises": (
        theirs("IF NEW.enrichment_status = 'failed' THEN RAISE 'not on a Monday'; END IF;"),
        "DROP TRIGGER theirs ON company_needs_enrichment",
    ),
    "a trigger that is broken": (
        theirs("IF NEW.enrichment_status = 'failed' THEN PERFORM gone(); END IF;"),
        "DROP TRIGGER theirs ON company_needs_enrichment",
    ),
    "a case without else": (
        theirs("CASE NEW.enrichment_status WHEN 'complete', 'pending', 'in_progress' THEN NULL; END CASE;"),
        "DROP TRIGGER theirs ON company_needs_enrichment",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_reply_that_the_workspace_refuses_is_that_rows_alone(
    filled, daemon, neon, supabase, eventually, agree, refusal
) -> None:
    does, undoes = REFUSALS[refusal]
    supabase.execute(does)
    worker = daemon()
    with supabase.transaction():
        complete(supabase, company(1), website="n/a")
        for number in range(2, 6):
            complete(supabase, company(number), website=f"https://c{number}.example")
    eventually(promoted(supabase, *(company(number) for number in range(2, 6))))
    worker.wait_event("reply.refused", key=company(1))
    eventually(warned(worker, "company: the workspace refuses what 1 rows are to be told"))
    # Alone, and after the next start too; who comes later is not kept waiting.
    complete(supabase, company(6), website="https://c6.example")
    eventually(promoted(supabase, company(6)))
    assert worker.terminate() == 0
    again = daemon()
    complete(supabase, company(7), website="https://c7.example")
    eventually(promoted(supabase, company(7)))
    again.wait_event("reply.refused", key=company(1))
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["flagged"]
    supabase.execute(undoes)
    row = eventually(failed(supabase, company(1)))
    assert "website" in row["validation_errors"]
    assert len(ledger(neon, company(1))) == 1
    eventually(lambda: not warned(again, "the workspace refuses")())
    agree()


def test_a_row_whose_reply_is_refused_is_repaired_and_goes_at_once(filled, daemon, neon, supabase, eventually) -> None:
    supabase.execute(REFUSALS["a check that refuses failed"][0])
    worker = daemon()
    complete(supabase, company(1), website="n/a")
    worker.wait_event("reply.refused", key=company(1))
    edit(supabase, company(1), website="https://c1.example")
    eventually(promoted(supabase, company(1)))
    assert master(neon, company(1))["website_url"] == "https://c1.example"


def test_while_a_reply_is_refused_neon_is_left_in_peace(filled, daemon, neon, supabase, env, eventually) -> None:
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    supabase.execute(REFUSALS["a check that refuses failed"][0])
    worker = daemon()
    complete(supabase, company(1), website="n/a")
    worker.wait_event("reply.refused", key=company(1))
    ours = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'enrichment-worker' AND datname = current_database()"
    eventually(lambda: neon.execute(ours).fetchone()["n"] == 0, 60)


def test_waiting_rows_that_refuse_their_release_keep_nobody_from_being_told(
    filled, daemon, neon, supabase, eventually, agree
) -> None:
    worker = daemon()
    complete(supabase, person(1), email="one@alder.example")
    eventually(lambda: work(supabase, person(1))["waiting_for"])
    supabase.execute(
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.waiting_for IS NULL THEN RAISE 'not on a Monday'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER theirs BEFORE UPDATE ON people_needs_enrichment FOR EACH ROW EXECUTE FUNCTION theirs()"
    )
    flip(supabase, [1, 2])
    eventually(promoted(supabase, company(1), company(2)))
    worker.wait_event("release.refused", key=company(1))
    supabase.execute("DROP TRIGGER theirs ON people_needs_enrichment")
    assert worker.terminate() == 0
    supabase.execute("UPDATE enrichment_pull_position SET last_pull_at = NULL")
    daemon()
    eventually(promoted(supabase, person(1)))
    agree()


RLS = (
    "ALTER TABLE marketing.company_master ENABLE ROW LEVEL SECURITY;"
    "CREATE POLICY all_of_them ON marketing.company_master USING (true) WITH CHECK (company_name <> 'No')"
)
CASE = (
    "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " CASE WHEN NEW.company_name <> 'No' THEN NULL; END CASE; RETURN NEW; END $$;"
    "CREATE TRIGGER theirs BEFORE INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION theirs()"
)
BROKEN = (
    "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF NEW.company_name = 'No' THEN PERFORM gone(); END IF; RETURN NEW; END $$;"
    "CREATE TRIGGER theirs BEFORE INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION theirs()"
)


@pytest.fixture
def clerk(neon, databases, env):
    """Neon as a role that owns nothing, so that row level security is for it."""
    name = f"clerk_{neon.info.dbname}"
    neon.execute(
        f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA marketing, public TO {name};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA marketing, public TO {name};"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA marketing, public TO {name}"
    )
    env["NEON_DATABASE_URL"] = as_role(databases.neon_url, name, SECRET)
    yield name
    neon.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    ("damage", "said"), [(RLS, "row-level security"), (CASE, "case not found"), (BROKEN, "gone()")],
    ids=["42501", "20000", "42883"],
)  # fmt: skip
def test_one_record_that_the_master_refuses_is_flagged_and_ten_are_promoted(
    filled, clerk, daemon, neon, supabase, eventually, agree, damage, said
) -> None:
    neon.execute(damage)
    worker = daemon()
    with supabase.transaction():
        flip(supabase, range(2, 12))
        complete(supabase, company(1), company_name="No", website="https://c1.example")
    eventually(promoted(supabase, *(company(number) for number in range(2, 12))))
    row = eventually(failed(supabase, company(1)))
    assert said in json.dumps(row["validation_errors"])
    assert worker.process.poll() is None
    assert not unready(worker)
    agree()


@pytest.mark.parametrize("damage", [RLS, CASE], ids=["42501", "20000"])
def test_a_record_that_is_refused_when_it_comes_alone_is_flagged(
    filled, clerk, daemon, neon, supabase, eventually, damage
) -> None:
    neon.execute(damage)
    worker = daemon()
    complete(supabase, company(1), company_name="No", website="https://c1.example")
    eventually(failed(supabase, company(1)))
    assert not unready(worker)


def test_a_record_that_is_refused_as_if_all_were_is_flagged_when_others_go(
    filled, daemon, neon, supabase, eventually
) -> None:
    neon.execute(BROKEN)
    worker = daemon()
    complete(supabase, company(1), company_name="No", website="https://c1.example")
    eventually(lambda: "gone()" in unready(worker))
    assert work(supabase, company(1))["enrichment_status"] == "complete"
    complete(supabase, company(2), website="https://c2.example")
    eventually(promoted(supabase, company(2)))
    row = eventually(failed(supabase, company(1)), 60)
    assert "gone()" in json.dumps(row["validation_errors"])
    eventually(lambda: not unready(worker))


def test_where_every_record_is_refused_the_same_way_the_operator_is_told_and_other_entities_go_on(
    filled, clerk, cli, daemon, neon, supabase, eventually, agree
) -> None:
    neon.execute(f"REVOKE INSERT ON marketing.company_master FROM {clerk}")
    add_slot(neon, 5, of=20)
    neon.execute(
        "INSERT INTO marketing.company_master (company_unique_id, company_name, website_url, source_system,"
        f" source_record_id) VALUES ('{company(20)}', 'There', 'https://there.example', 'intake', '7')"
    )
    add_people(neon, 9, of=20)
    assert cli("pull").returncode == 0
    worker = daemon()
    flip(supabase, range(1, 6))
    eventually(lambda: "permission denied for table company_master" in unready(worker))
    complete(supabase, person(9), email="nine@alder.example")
    complete(supabase, company(6), website="n/a")
    eventually(promoted(supabase, person(9)))
    assert all(work(supabase, company(number))["enrichment_status"] == "complete" for number in range(1, 7))
    assert worker.process.poll() is None
    neon.execute(f"GRANT INSERT ON marketing.company_master TO {clerk}")
    eventually(promoted(supabase, *(company(number) for number in range(1, 6))), 60)
    eventually(failed(supabase, company(6)), 60)
    eventually(lambda: not unready(worker))
    agree()


def test_what_the_workers_own_log_refuses_is_no_records_fault(filled, daemon, neon, supabase, eventually) -> None:
    neon.execute("ALTER TABLE public.shq_validation_log ADD CONSTRAINT theirs CHECK (notes IS NOT NULL) NOT VALID")
    worker = daemon()
    flip(supabase, [1, 2])
    eventually(lambda: "theirs" in unready(worker))
    assert [work(supabase, company(n))["enrichment_status"] for n in (1, 2)] == ["complete"] * 2
    assert [invalid(neon, company(n))["still_invalid"] for n in (1, 2)] == [False] * 2
    neon.execute("ALTER TABLE public.shq_validation_log DROP CONSTRAINT theirs")
    eventually(promoted(supabase, company(1), company(2)), 60)


def test_a_column_that_nothing_fills_is_the_operators_to_fix(
    filled, daemon, neon, supabase, eventually, cli, agree
) -> None:
    worker = daemon()
    flip(supabase, [1])
    eventually(promoted(supabase, company(1)))
    neon.execute(
        "ALTER TABLE marketing.company_master ADD COLUMN owner text;"
        "UPDATE marketing.company_master SET owner = 'them'; ALTER TABLE marketing.company_master ALTER owner SET NOT NULL"
    )
    with supabase.transaction():
        flip(supabase, [2, 3])
        complete(supabase, company(4), website="n/a")
    eventually(failed(supabase, company(4)))
    eventually(lambda: "owner" in unready(worker) and "company" in unready(worker))
    assert [work(supabase, company(number))["enrichment_status"] for number in (2, 3)] == ["complete"] * 2
    assert [work(supabase, company(number))["validation_errors"] in (None, {}) for number in (2, 3)] == [True] * 2
    neon.execute("ALTER TABLE marketing.company_master ALTER owner SET DEFAULT 'nobody'")
    eventually(promoted(supabase, company(2), company(3)), 60)
    eventually(lambda: not unready(worker))
    agree()


def test_a_value_that_leads_to_nothing_is_still_the_enrichers(filled, daemon, neon, supabase, eventually) -> None:
    """NOT NULL of a column that a data column fills."""
    neon.execute("ALTER TABLE marketing.company_master ALTER address_state SET NOT NULL")
    worker = daemon()
    with supabase.transaction():
        complete(supabase, company(1), website="https://c1.example")
        complete(supabase, company(2), website="https://c2.example", state="WV")
    eventually(promoted(supabase, company(2)))
    assert "state" in eventually(failed(supabase, company(1)))["validation_errors"]
    assert not unready(worker)


def hold(stack: ExitStack, databases, *numbers: int) -> psycopg.Connection:
    """Somebody's open transaction that has inserted these master keys."""
    theirs = stack.enter_context(connect(databases.neon_url))
    theirs.execute("BEGIN")
    for number in numbers:
        theirs.execute(
            "INSERT INTO marketing.company_master (company_unique_id, company_name, website_url, source_system,"
            " source_record_id) VALUES (%s, 'Theirs', 'https://theirs.example', 'intake', '7')", [company(number)],
        )  # fmt: skip
    return theirs


def test_master_keys_that_somebody_has_inserted_and_not_committed_hold_up_nobody_else(
    cli, prepared, daemon, databases, neon, supabase, eventually, agree
) -> None:
    add_companies(neon, *range(1, 201))
    assert cli("pull").returncode == 0
    worker = daemon()
    held = (3, 50, 51, 120, 200)
    others = [company(number) for number in range(1, 201) if number not in held]
    with ExitStack() as stack:
        theirs = hold(stack, databases, *held)
        supabase.execute(
            "UPDATE company_needs_enrichment SET website = 'https://c.example', enrichment_status = 'complete'"
        )
        eventually(promoted(supabase, *others))
        eventually(warned(worker, "company: 5 records wait"))
        assert [work(supabase, company(number))["promoted_at"] for number in held] == [None] * 5
        assert not unready(worker)
        theirs.execute("ROLLBACK")
        eventually(promoted(supabase, *map(company, held)), 60)
    assert {master(neon, company(number))["company_name"] for number in held} == {f"Alder Works {n}" for n in held}
    agree()


def test_a_held_key_that_is_committed_is_updated_as_a_master_row_that_stands(
    filled, daemon, databases, neon, supabase, eventually, agree
) -> None:
    daemon()
    with ExitStack() as stack:
        theirs = hold(stack, databases, 1)
        flip(supabase, [1])
        flip(supabase, [2])
        eventually(promoted(supabase, company(2)))
        assert work(supabase, company(1))["promoted_at"] is None
        theirs.execute("COMMIT")
        eventually(promoted(supabase, company(1)), 60)
    (entry,) = ledger(neon, company(1))
    assert entry["master_before"]["company_name"] == "Theirs"
    agree()


def test_a_held_row_is_tried_again_by_itself(filled, daemon, databases, neon, supabase, env, eventually) -> None:
    """Of the invalid table; no notification, no sweep and no other record comes in between."""
    env["WORKER_SWEEP_INTERVAL"] = "3600"
    worker = daemon()
    with connect(databases.neon_url) as theirs:
        with theirs.transaction():
            theirs.execute(
                "SELECT FROM marketing.company_invalid WHERE company_unique_id = %s FOR UPDATE", [company(1)]
            )
            flip(supabase, [1])
            eventually(warned(worker, "company: 1 records wait"))
        eventually(promoted(supabase, company(1)))


def test_a_row_that_was_put_aside_is_passed_over_to_the_microsecond(filled, prepared, supabase, monkeypatch) -> None:
    flip(supabase, [1, 2])
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(
            "UPDATE company_needs_enrichment SET updated_at = '2025-11-07 16:32:09.123456' WHERE neon_id = 1"
        )

    async def claimed(opened: Databases) -> list[str]:
        postponed = opened.routes["company"].postponed
        postponed.put(Cause.HELD, [(company(1), datetime(2025, 11, 7, 16, 32, 9, 123456))], "held")
        async with opened.supabase.connection() as here:
            batch = await opened.routes["company"].queue.claim(here, 10, postponed=postponed.row_versions())
            return [delivery.key for delivery in batch]

    assert Steps(prepared, monkeypatch.setenv).run(claimed) == [company(2)]


def test_a_row_that_was_put_aside_and_taken_back_is_told_of_no_more(
    filled, daemon, databases, neon, supabase, eventually
) -> None:
    worker = daemon()
    with ExitStack() as stack:
        theirs = hold(stack, databases, 1)
        flip(supabase, [1])
        eventually(warned(worker, "company: 1 records wait"))
        edit(supabase, company(1), enrichment_status="in_progress")
        eventually(lambda: not warned(worker, "records wait")(), 60)
        theirs.execute("ROLLBACK")
    assert work(supabase, company(1))["promoted_at"] is None


def test_a_push_carries_the_others_though_a_whole_batch_of_it_is_held(filled, cli, databases, neon, supabase) -> None:
    with connect(databases.neon_url) as theirs, theirs.transaction():
        theirs.execute("SELECT FROM marketing.company_invalid WHERE company_unique_id = %s FOR UPDATE", [company(1)])
        for number in (1, 2, 3):
            complete(supabase, company(number), website=f"https://c{number}.example")
        done = cli("push", "--entity", "company", "--batch-size", "1", "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)["company"]
        assert (said["pushed"], said["left"]) == (2, 1)
    assert [invalid(neon, company(number))["website"] for number in (1, 2, 3)] == [
        None, "https://c2.example", "https://c3.example",
    ]  # fmt: skip


def test_an_edit_of_a_row_that_was_put_aside_goes_as_any_other(
    filled, daemon, databases, neon, supabase, eventually
) -> None:
    worker = daemon()
    with ExitStack() as stack:
        theirs = hold(stack, databases, 1)
        flip(supabase, [1])
        eventually(warned(worker, "company: 1 records wait"))
        edit(supabase, company(1), website="https://better.example")
        theirs.execute("ROLLBACK")
        eventually(promoted(supabase, company(1)), 60)
    assert master(neon, company(1))["website_url"] == "https://better.example"


def test_a_table_that_is_locked_is_waited_for(filled, cli, daemon, databases, neon, supabase, eventually) -> None:
    add_companies(neon, *range(20, 120))
    assert cli("pull").returncode == 0
    worker = daemon()
    with connect(databases.neon_url) as theirs, theirs.transaction():
        theirs.execute("LOCK TABLE marketing.company_master")
        supabase.execute(
            "UPDATE company_needs_enrichment SET website = 'https://c.example', enrichment_status = 'complete'"
        )
        eventually(lambda: "lock timeout" in unready(worker))
        complete(supabase, person(1), email="one@alder.example")
    eventually(
        lambda: not supabase.execute("SELECT FROM company_needs_enrichment WHERE promoted_at IS NULL").rowcount, 60
    )
    eventually(promoted(supabase, person(1)), 60)


def test_a_waiting_row_that_somebody_holds_is_released_when_he_lets_go(
    filled, daemon, databases, neon, supabase, env, eventually, agree
) -> None:
    env["WORKER_PULL_INTERVAL"] = "1h"
    env["WORKER_SWEEP_INTERVAL"] = "3600"
    daemon()
    complete(supabase, person(1), email="one@alder.example")
    eventually(lambda: work(supabase, person(1))["waiting_for"])
    with connect(databases.supabase_url) as theirs, theirs.transaction():
        theirs.execute("SELECT FROM people_needs_enrichment WHERE unique_id = %s FOR UPDATE", [person(1)])
        flip(supabase, [1])
        eventually(promoted(supabase, company(1)))
    eventually(promoted(supabase, person(1)))
    agree()


NO_DDL = (
    "CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL here'; END $$;"
    "CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no_ddl()"
)


def test_a_neon_that_forbids_ddl_settles_refused_records_too(filled, daemon, neon, supabase, eventually, agree) -> None:
    neon.execute("ALTER TABLE marketing.company_master ADD CONSTRAINT theirs CHECK (company_name <> 'No')")
    neon.execute(NO_DDL)
    worker = daemon()
    with supabase.transaction():
        flip(supabase, [1, 2, 3])
        complete(supabase, company(4), company_name="No", website="https://c4.example")
    eventually(promoted(supabase, *(company(number) for number in (1, 2, 3))))
    eventually(failed(supabase, company(4)))
    assert worker.process.poll() is None
    neon.execute("DROP EVENT TRIGGER no_ddl")
    agree()


@pytest.mark.parametrize("there", [True, False], ids=["Y is there", "Y is not there"])
def test_a_waiting_row_follows_what_neon_corrects(
    filled, daemon, neon, supabase, eventually, cli, agree, there
) -> None:
    """He waits for company 1; Neon finds that he belongs to company 2."""
    worker = daemon()
    complete(supabase, person(1), email="one@alder.example")
    eventually(lambda: work(supabase, person(1))["waiting_for"])
    add_slot(neon, 2, of=2)
    if there:
        flip(supabase, [2])
        eventually(promoted(supabase, company(2)))
    neon.execute(
        "UPDATE marketing.people_invalid SET company_unique_id = %s, updated_at = now() AT TIME ZONE 'UTC'"
        " WHERE unique_id = %s", [company(2), person(1)]
    )  # fmt: skip
    supabase.execute("UPDATE enrichment_pull_position SET last_pull_at = NULL")
    assert cli("pull", "--entity", "people").returncode == 0
    if there:
        eventually(promoted(supabase, person(1)))
        assert neon.execute("SELECT company_slot_unique_id AS s FROM marketing.people_master").fetchone()["s"] == slot(
            2
        )
    else:
        row = eventually(lambda: (row := work(supabase, person(1)))["waiting_for"] == company(2) and row)
        assert row["company_unique_id"] == company(2)
        entries = len(ledger(neon, person(1)))
        assert cli("pull", "--full", "--entity", "people").returncode == 0
        assert work(supabase, person(1))["waiting_for"] == company(2)
        assert len(ledger(neon, person(1))) == entries
        flip(supabase, [2])
        eventually(promoted(supabase, person(1)))
    assert worker.process.poll() is None
    assert invalid(neon, person(1)) is None
    agree()


@pytest.mark.parametrize("code", ["42501", "P0001"])
def test_a_refused_record_that_the_master_has_takes_nothing_from_those_beside_it(neon, supabase, steps, code) -> None:
    """It is left by the short statement, and refused in the transaction after it."""
    add_master(neon, 3)
    neon.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.company_unique_id = '{company(3)}' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{code}'; END IF;"
        " NEW.industry := 'x'; RETURN NEW; END $$"
    )
    neon.execute(
        "CREATE TRIGGER no BEFORE INSERT OR UPDATE ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION no()"
    )
    add_companies(neon, 1, 2, 3, industry="Steel")
    steps.pull()
    for number in (1, 2, 3):
        complete(supabase, company(number), website=f"https://c{number}.example")
    tally = steps.deliver()
    assert (dict(tally.outcomes), tally.fault) == ({"promoted": 2, "flagged": 1}, None)
    for number in (1, 2):
        assert "Not in the master as typed: industry" in work(supabase, company(number))["sync_note"]
