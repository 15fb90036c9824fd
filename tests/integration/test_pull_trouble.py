"""A pull that the workspace refuses: named for what it is, and nobody else's trouble. SPEC 5, 6."""

from __future__ import annotations

import json
import re

import psycopg
import pytest
from conftest import connect
from copies import Copy
from records import add_companies, add_master, add_people, add_slot, company, complete, master, person, work

from worker.supabase.bisect import LOGGED, MOST_REFUSED

BEHIND = re.compile(r"public\.company_needs_enrichment has rows up to id (\d+), and its sequence goes on with \d+.*"
                    r"(SELECT setval\('.*'\, \(SELECT max\(id\) FROM public\.company_needs_enrichment\)\);)")  # fmt: skip


@pytest.fixture
def behind(cli, prepared, env, neon, supabase):
    """The workspace was copied, its sequence was not: the rows' numbers come again."""
    env.update(WORKER_PULL_INTERVAL="1", WORKER_SWEEP_INTERVAL="1")
    add_companies(neon, *range(1, 41))
    add_people(neon, 1, of=900)
    assert cli("pull").returncode == 0
    supabase.execute("ALTER SEQUENCE company_needs_enrichment_id_seq RESTART")


def reader(supabase, eventually, key):
    return eventually(lambda: work(supabase, key)["promoted_at"])


def rows(supabase, table="company_needs_enrichment") -> int:
    return supabase.execute(f"SELECT count(*) AS n FROM {table}").fetchone()["n"]


def position(supabase):
    return supabase.execute(
        "SELECT position, last_run_id, pulls FROM enrichment_pull_position WHERE entity = 'company'"
    ).fetchone()


@pytest.mark.parametrize("records", [1, 3, MOST_REFUSED + 10])
def test_a_sequence_behind_its_rows_is_named_with_its_fix_and_nothing_is_passed_over(
    cli, behind, neon, supabase, records
) -> None:
    add_companies(neon, *range(101, 101 + records))
    before = position(supabase)
    done = cli("pull", "--entity", "company")
    assert done.returncode == 1, done.stdout
    line = done.stderr.splitlines()[-1]
    assert BEHIND.search(line), done.stderr
    assert (rows(supabase), position(supabase)) == (40, before)
    said = cli("doctor")
    assert said.returncode == 1
    assert re.search("company_needs_enrichment has rows up to id 40, and its sequence goes on with", said.stdout)
    assert BEHIND.search(line)[2] in said.stdout
    supabase.execute(BEHIND.search(line)[2])
    done = cli("pull", "--entity", "company")
    assert done.returncode == 0, done.stderr
    assert rows(supabase) == 40 + records
    assert "sequence" not in cli("doctor").stdout


def test_a_sequence_that_is_one_behind_costs_nothing(cli, behind, neon, supabase) -> None:
    """The first try has taken the one number that was in the way."""
    supabase.execute("SELECT setval('company_needs_enrichment_id_seq', 39)")
    add_companies(neon, 101)
    done = cli("pull", "--entity", "company", "--json")
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)[0]["new"], rows(supabase)) == (1, 41)


def test_a_worker_whose_pull_is_refused_goes_on_with_all_else_and_with_the_pull_when_it_is_fixed(
    cli, behind, neon, supabase, daemon, eventually
) -> None:
    add_companies(neon, *range(101, 101 + MOST_REFUSED + 10))
    add_people(neon, 2, of=1)
    worker = daemon()
    fault = worker.wait_event("worker.fault", task="pull of company")
    assert BEHIND.search(fault["error"])
    status, text = worker.health("/readyz")
    assert status == 503
    assert "pull of company: Supabase's" in text
    assert BEHIND.search(text)
    eventually(lambda: rows(supabase, "people_needs_enrichment") == 2)
    complete(supabase, company(1), website="https://a.example")
    add_slot(neon, 1, 1)
    complete(supabase, person(2), email="robin@a.example")
    reader(supabase, eventually, company(1))
    reader(supabase, eventually, person(2))
    assert master(neon, person(2)) is not None
    assert worker.process.poll() is None
    assert rows(supabase) == 40
    supabase.execute("SELECT setval('company_needs_enrichment_id_seq', 40)")
    eventually(lambda: rows(supabase) == 40 + MOST_REFUSED + 10, 60)
    eventually(lambda: worker.health("/readyz")[0] == 200)


def test_an_id_that_a_default_of_its_own_numbers_is_named_too(cli, behind, neon, supabase) -> None:
    supabase.execute("CREATE FUNCTION seven() RETURNS bigint LANGUAGE sql AS 'SELECT 7::bigint';"
                     "ALTER TABLE company_needs_enrichment ALTER id SET DEFAULT seven()")  # fmt: skip
    add_companies(neon, 101)
    before = position(supabase)
    done = cli("pull", "--entity", "company")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "company_needs_enrichment.id is numbered by seven()" in line
    assert position(supabase) == before
    supabase.execute(line[line.index("ALTER TABLE") :])
    assert cli("pull", "--entity", "company").returncode == 0
    assert rows(supabase) == 41


def trigger(connection, table: str, when: str, body: str) -> None:
    connection.execute(
        "CREATE OR REPLACE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {body} IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$;"
        f"CREATE TRIGGER stumble BEFORE {when} ON {table} FOR EACH ROW EXECUTE FUNCTION stumble()"
    )


BODIES = {
    "P0001": "RAISE 'not this one';",
    "42501": "RAISE insufficient_privilege;",
    "20000": "CASE WHEN false THEN NULL; END CASE;",
    "42883": "PERFORM nobody_made_this(1);",
    "42P01": "PERFORM FROM nobody_made_this;",
    "23505": "RAISE unique_violation;",
    "0A000": "RAISE feature_not_supported;",
}


@pytest.mark.parametrize("sqlstate", BODIES)
def test_one_record_that_a_trigger_stumbles_over_holds_up_no_other_pull(
    cli, prepared, neon, supabase, sqlstate
) -> None:
    """New, changed, withdrawn: whatever SQLSTATE the trigger ends with."""
    this = "coalesce(NEW.company_unique_id, OLD.company_unique_id) LIKE '%.00002.%'"
    add_companies(neon, 9)
    assert cli("pull").returncode == 0
    trigger(
        supabase, "company_needs_enrichment", "INSERT OR UPDATE OR DELETE", f"IF {this} THEN {BODIES[sqlstate]} END IF;"
    )
    add_companies(neon, 1, 2, 3)
    done = cli("pull", "--entity", "company", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["new"], result["refused"]) == (2, 1)
    assert f'"key": "{company(2)}"' in done.stderr or company(2) in done.stderr
    supabase.execute("ALTER TABLE company_needs_enrichment DISABLE TRIGGER stumble")
    assert cli("pull", "--full").returncode == 0
    supabase.execute("ALTER TABLE company_needs_enrichment ENABLE TRIGGER stumble")
    neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now() AT TIME ZONE 'UTC'")
    done = cli("pull", "--entity", "company", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["changed"], result["refused"]) == (3, 1)
    neon.execute("DELETE FROM marketing.company_invalid")
    done = cli("pull", "--entity", "company", "--full", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["withdrawn"], result["refused"]) == (3, 1)
    assert rows(supabase) == 1


def test_many_records_that_a_trigger_stumbles_over_hold_up_no_pull_of_more(cli, prepared, neon, supabase) -> None:
    trigger(supabase, "company_needs_enrichment", "INSERT", "IF NEW.neon_id % 5 = 0 THEN RAISE 'no fifth'; END IF;")
    add_companies(neon, *range(1, 301))
    done = cli("pull", "--entity", "company", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["new"], result["refused"]) == (240, 60)


@pytest.mark.parametrize(
    "refuse",
    [
        "ALTER TABLE company_needs_enrichment ADD CHECK (neon_id IS NULL) NOT VALID",
        """CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nobody_made_this(1); END $$;
           CREATE TRIGGER no BEFORE INSERT ON company_needs_enrichment FOR EACH ROW EXECUTE FUNCTION no()""",
        """ALTER TABLE company_needs_enrichment ADD priority int NOT NULL DEFAULT 1;
           ALTER TABLE company_needs_enrichment ALTER priority DROP DEFAULT""",
        "ALTER TABLE company_needs_enrichment ALTER id DROP DEFAULT",
    ],
    ids=["a CHECK", "a trigger", "a column that nobody fills", "nobody numbers rows"],
)
@pytest.mark.parametrize("first", [True, False], ids=["first pull", "later pull"])
def test_a_workspace_that_refuses_everything_is_the_fault_of_that_pull_alone(
    cli, prepared, env, neon, supabase, daemon, eventually, refuse, first
) -> None:
    env.update(WORKER_PULL_INTERVAL="1", WORKER_SWEEP_INTERVAL="1")
    if not first:
        add_companies(neon, 900)
        assert cli("pull").returncode == 0
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT FROM enrichment_pull_position WHERE pulls > 0").fetchone() is not None)
    supabase.execute("TRUNCATE company_needs_enrichment" if first else "SELECT")
    supabase.execute(refuse)
    add_companies(neon, *range(1, MOST_REFUSED + 20))
    fault = worker.wait_event("worker.fault", task="pull of company")
    text = eventually(lambda: (said := worker.health("/readyz"))[0] == 503 and said[1])
    assert "pull of company: Supabase's public.company_needs_enrichment" in text
    assert fault["error"].startswith("Supabase's public.company_needs_enrichment")
    add_people(neon, 1, of=777)
    eventually(lambda: rows(supabase, "people_needs_enrichment") == 1)
    add_master(neon, 777)
    add_slot(neon, 1, 777)
    complete(supabase, person(1), email="robin@a.example")
    reader(supabase, eventually, person(1))
    assert worker.process.poll() is None
    assert len([event for event in worker.events if event["event"] == "pull.refused"]) < 400


def test_a_column_that_was_renamed_is_the_fault_of_that_pull_alone(
    cli, prepared, env, neon, supabase, daemon, eventually
) -> None:
    """Not a record's fault: none is skipped, although they are few."""
    env.update(WORKER_PULL_INTERVAL="1", WORKER_SWEEP_INTERVAL="1")
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT FROM enrichment_pull_position WHERE pulls > 0").fetchone() is not None)
    supabase.execute("ALTER TABLE company_needs_enrichment RENAME COLUMN source_batch_id TO batch")
    add_companies(neon, 1)
    fault = worker.wait_event("worker.fault", task="pull of company")
    assert "source_batch_id" in fault["error"]
    add_people(neon, 1)
    eventually(lambda: rows(supabase, "people_needs_enrichment") == 1)
    supabase.execute("ALTER TABLE company_needs_enrichment RENAME COLUMN batch TO source_batch_id")
    eventually(lambda: rows(supabase) == 1, 60)
    eventually(lambda: worker.health("/readyz")[0] == 200)


def only(numbers: str) -> str:
    return f"IF NEW.company_unique_id ~ '[.]{numbers}[.]001$' THEN PERFORM nobody_made_this(1); END IF;"


def test_a_row_that_cannot_be_told_what_became_of_it_holds_up_no_other(cli, steps, databases, neon, supabase) -> None:
    """In a workspace from a backup, whose rows do not show the outcome."""
    add_companies(neon, *range(1, 6))
    steps.pull()
    with Copy(databases.supabase_url) as copy:
        with connect(databases.supabase_url) as here:
            here.execute("UPDATE company_needs_enrichment SET website = 'a.example', enrichment_status = 'complete'")
        steps.deliver()
        copy.put_back()
    with connect(databases.supabase_url) as here:
        trigger(here, "company_needs_enrichment", "UPDATE", only("00002"))
        done = cli("pull", "--entity", "company")
        assert done.returncode == 0, done.stderr
        assert "reply.refused" in done.stderr
        told = here.execute(
            "SELECT company_unique_id AS key FROM company_needs_enrichment WHERE promoted_at IS NOT NULL"
        )
        assert [row["key"] for row in told] == [company(number) for number in (1, 3, 4, 5)]
        here.execute("DROP TRIGGER stumble ON company_needs_enrichment")
        assert cli("pull", "--entity", "company", "--full").returncode == 0
        assert work(here, company(2))["promoted_at"]


def test_of_many_rows_that_cannot_be_told_few_are_logged(cli, steps, databases, neon, supabase) -> None:
    add_companies(neon, *range(1, LOGGED + 31))
    steps.pull()
    with Copy(databases.supabase_url) as copy:
        with connect(databases.supabase_url) as here:
            here.execute("UPDATE company_needs_enrichment SET website = 'a.example', enrichment_status = 'complete'")
        steps.deliver()
        copy.put_back()
    with connect(databases.supabase_url) as here:
        trigger(here, "company_needs_enrichment", "UPDATE", only("....."))
        add_companies(neon, 500)
        done = cli("pull", "--entity", "company")
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        assert [line["event"] for line in lines].count("reply.refused") == LOGGED
        assert [line["records"] for line in lines if line["event"] == "pull.refused.more"] == [30]
        assert work(here, company(500))["enrichment_status"] == "pending"


def test_a_row_that_cannot_be_brought_together_with_a_restored_neon_holds_up_no_other(
    cli, steps, databases, neon, supabase
) -> None:
    add_companies(neon, *range(1, 6))
    steps.pull()
    with Copy(databases.neon_url) as copy:
        for website in ("n/a", "a.example"):  # so that the ledger's second rows are no longer those that were told
            supabase.execute(
                "UPDATE company_needs_enrichment SET website = %s, enrichment_status = 'complete'", [website]
            )
            steps.deliver()
        copy.put_back()
    trigger(supabase, "company_needs_enrichment", "UPDATE", only("00002"))
    done = cli("pull", "--entity", "company")
    assert done.returncode == 0, done.stderr
    assert "reply.refused" in done.stderr, done.stderr
    with connect(databases.neon_url) as there:
        assert all(master(there, company(number)) for number in (1, 3, 4, 5))
        supabase.execute("DROP TRIGGER stumble ON company_needs_enrichment")
        assert cli("pull", "--entity", "company").returncode == 0
        assert master(there, company(2))
    assert cli("reconcile").returncode == 0


def test_what_neon_does_not_let_a_pull_book_is_no_records_fault(steps, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    steps.pull()
    before = position(supabase)
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(2)])
    neon.execute("ALTER TABLE marketing.enrichment_ledger ADD CONSTRAINT theirs CHECK (outcome <> 'withdrawn')")
    with pytest.raises(psycopg.errors.CheckViolation, match="theirs"):
        steps.pull(full=True)
    assert (rows(supabase), position(supabase)) == (2, before)
    neon.execute("ALTER TABLE marketing.enrichment_ledger DROP CONSTRAINT theirs")
    assert steps.pull(full=True).withdrawn == 1
