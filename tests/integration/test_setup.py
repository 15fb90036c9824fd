"""``setup``: SPEC 2."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import connect
from declared import ENTITIES
from records import Connection, add_companies, add_people, company, complete, edit, everything, person

from worker.demo.embedded import binaries
from worker.schema.scripts import scripts

GUIDE_WORKSPACE = """
CREATE TABLE company_needs_enrichment (
  id BIGSERIAL PRIMARY KEY, neon_id BIGINT, company_unique_id TEXT UNIQUE NOT NULL, source_batch_id TEXT,
  company_name TEXT, domain TEXT, industry TEXT, employee_count INTEGER, website TEXT, phone TEXT,
  address TEXT, city TEXT, state TEXT, zip TEXT, original_validation_errors JSONB,
  original_validation_warnings JSONB, reason_code TEXT, enrichment_status TEXT DEFAULT 'pending',
  enrichment_notes TEXT, enriched_by TEXT, enriched_at TIMESTAMP,
  pulled_from_neon_at TIMESTAMP DEFAULT now(), pushed_to_neon_at TIMESTAMP, last_sync_hash TEXT,
  created_at TIMESTAMP DEFAULT now(), updated_at TIMESTAMP DEFAULT now(), our_own_column TEXT);
INSERT INTO company_needs_enrichment (company_unique_id, company_name, enrichment_status, our_own_column)
VALUES ('04.04.01.01.00001.001', 'Alder', 'someday', 'kept')
"""


def test_empty_databases_get_everything(cli, databases, neon, supabase) -> None:
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert "Neon: created table marketing.enrichment_ledger" in done.stdout
    assert "Supabase: created table company_needs_enrichment" in done.stdout
    found = neon.execute("SELECT to_regclass('marketing.people_master') AS t").fetchone()
    assert found["t"] is not None


def test_a_second_setup_changes_nothing_and_says_so(cli, prepared, neon, supabase) -> None:
    before = everything(neon), everything(supabase)
    done = cli("setup")
    assert done.stdout == "Neon: everything is in place\nSupabase: everything is in place\n"
    assert (everything(neon), everything(supabase)) == before


def test_setup_tries_again_where_a_running_worker_and_it_wait_for_each_other(cli, prepared, databases, neon) -> None:
    """The tables that a settlement goes through in one order, setup goes through in another."""
    neon.execute("ALTER TABLE marketing.enrichment_ledger DROP COLUMN reason_code;"
                 "ALTER TABLE marketing.company_invalid DROP COLUMN still_invalid CASCADE")  # fmt: skip
    with connect(databases.neon_url) as worker:
        worker.execute("SET deadlock_timeout = '60s'")  # so that the server ends the other one
        worker.execute("BEGIN; LOCK TABLE marketing.company_invalid IN ROW EXCLUSIVE MODE")
        with ThreadPoolExecutor() as beside:
            setup = beside.submit(cli, "setup")
            # Setup has altered the ledger by then.
            waits = "SELECT FROM pg_locks WHERE relation = 'marketing.company_invalid'::regclass AND NOT granted"
            while not setup.done() and not neon.execute(waits).rowcount:
                time.sleep(0.01)  # between two looks
            worker.execute("SELECT FROM marketing.enrichment_ledger")
            worker.execute("COMMIT")
            done = setup.result()
    assert done.returncode == 0, done.stderr
    assert "trying again: Neon: deadlock detected" in done.stderr


def test_dry_run_prints_sql_that_psql_runs_and_writes_nothing(cli, databases, neon, supabase) -> None:
    done = cli("setup", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert everything(neon)["columns"] == []
    assert everything(supabase)["columns"] == []
    neon_sql, supabase_sql = done.stdout.split("-- Supabase\nBEGIN;")
    neon.execute(neon_sql)
    supabase.execute("BEGIN;" + supabase_sql)
    again = cli("setup")
    assert again.stdout == "Neon: everything is in place\nSupabase: everything is in place\n"


def psql(url: str, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binaries(18) / "psql", url, "-q", *options], input=text, capture_output=True, text=True)


def test_both_parts_of_a_dry_run_in_one_database_end_with_an_error(cli, databases, neon, supabase) -> None:
    text = cli("setup", "--dry-run").stdout
    neon_part, supabase_part = (part.rstrip() for part in text.split("-- Supabase\n"))
    stop = ("-v", "ON_ERROR_STOP=1")
    done = psql(databases.neon_url, text)
    found = everything(neon)["columns"]
    assert {row["table_schema"] for row in found} == {"marketing", "public"}
    assert {row["table_name"] for row in found if row["table_schema"] == "public"} == {"shq_validation_log"}
    assert "this is the database of Neon's part" in done.stderr.splitlines()[0]
    assert "this is the database of Neon's part" in done.stderr.splitlines()[-2], "what is read last says why"
    # Each in its own, alone and again.
    for _ in range(2):
        for url, part in ((databases.neon_url, neon_part), (databases.supabase_url, supabase_part)):
            done = psql(url, part, *stop)
            assert (done.returncode, done.stderr) == (0, "")
    assert cli("setup").stdout == "Neon: everything is in place\nSupabase: everything is in place\n"
    before = everything(neon), everything(supabase)
    for url, part, whose in (
        (databases.supabase_url, neon_part, "Supabase"), (databases.neon_url, supabase_part, "Neon"),
    ):  # fmt: skip
        done = psql(url, part, *stop)
        assert done.returncode == 3
        assert f"this is the database of {whose}'s part" in done.stderr
    assert (everything(neon), everything(supabase)) == before


def test_tables_made_by_hand_from_the_guide_are_adopted(cli, databases, neon, supabase) -> None:
    supabase.execute(GUIDE_WORKSPACE)
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert "Supabase: added column company_needs_enrichment.neon_snapshot" in done.stdout
    found = supabase.execute("SELECT * FROM company_needs_enrichment").fetchone()
    assert found["our_own_column"] == "kept"
    assert found["enrichment_status"] == "someday"


def test_a_production_master_with_more_columns_is_kept_as_it_is(cli, databases, neon, supabase) -> None:
    neon.execute(
        "CREATE SCHEMA marketing; CREATE TABLE marketing.company_master (company_unique_id VARCHAR(40) PRIMARY"
        " KEY, company_name TEXT NOT NULL, website_url TEXT NOT NULL, source_system TEXT NOT NULL,"
        " source_record_id TEXT NOT NULL, tier TEXT NOT NULL DEFAULT 'C')"
    )
    before = neon.execute("SELECT pg_get_ddl FROM (SELECT string_agg(attname || format_type(atttypid, atttypmod)"
        " || attnotnull, ',' ORDER BY attnum) AS pg_get_ddl FROM pg_attribute"
        " WHERE attrelid = 'marketing.company_master'::regclass AND attnum > 0) d").fetchone()  # fmt: skip
    assert cli("setup").returncode == 0
    after = neon.execute("SELECT pg_get_ddl FROM (SELECT string_agg(attname || format_type(atttypid, atttypmod)"
        " || attnotnull, ',' ORDER BY attnum) AS pg_get_ddl FROM pg_attribute"
        " WHERE attrelid = 'marketing.company_master'::regclass AND attnum > 0) d").fetchone()  # fmt: skip
    assert after == before


def test_a_master_column_nobody_can_fill_is_named_before_a_record_is_touched(
    cli, prepared, neon: Connection, supabase
) -> None:
    neon.execute("ALTER TABLE marketing.company_master ADD COLUMN region TEXT NOT NULL")
    done = cli("push")
    assert done.returncode == 1
    assert "region" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_schema_is_one_line_with_the_fix(cli, databases) -> None:
    done = cli("pull")
    assert done.returncode == 1
    assert "enrichment-worker setup" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_half_a_setup_leaves_nothing_behind(cli, databases, neon, supabase) -> None:
    # The name is taken by something that is no table: the last file of Neon's SQL fails.
    neon.execute("CREATE SCHEMA marketing; CREATE VIEW marketing.people_invalid AS SELECT 1 AS id")
    before = everything(neon)
    done = cli("setup")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert everything(neon) == before


def test_strangers_get_nothing_from_the_workspace(cli, databases, neon, supabase: Connection) -> None:
    for role in ("anon", "authenticated"):
        supabase.execute(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    supabase.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated")
    assert cli("setup").returncode == 0
    for role in ("anon", "authenticated"):
        for table in ("company_needs_enrichment", "people_needs_enrichment", "enrichment_pull_position"):
            found = supabase.execute("SELECT has_table_privilege(%s, %s, 'SELECT') AS may", [role, table]).fetchone()
            assert found["may"] is False, (role, table)
            secured = supabase.execute("SELECT relrowsecurity AS rls FROM pg_class WHERE oid = %s::regclass", [table])
            assert secured.fetchone()["rls"] is True


def test_the_files_run_in_an_order_that_works() -> None:
    assert [script.name for script in scripts("Supabase", ENTITIES.values())] == [
        "both/helpers.sql", "supabase/00_common.sql", "supabase/entity.sql for company", "supabase/entity.sql for people",
        "supabase/view_needs_attention.sql",
        "triggers/00_functions.sql", "triggers/entity.sql for company", "triggers/entity.sql for people",
    ]  # fmt: skip


@pytest.mark.needs_view
def test_needs_attention_lists_what_is_to_be_done_oldest_first_of_what_came_back_as_often(
    cli, prepared, neon, supabase
) -> None:
    add_companies(neon, 1, 2, 3, 4)
    add_people(neon, 1, 2, 3)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="https://a.example")
    complete(supabase, company(2), website="n/a")
    complete(supabase, person(2), email="n/a@n/a.com")
    edit(supabase, person(1), enrichment_status="in_progress")
    assert cli("pipeline", "--yes").returncode == 0
    rows = supabase.execute("SELECT * FROM needs_attention").fetchall()
    assert {row["key"]: row["enrichment_status"] for row in rows} == {
        company(2): "failed", company(3): "pending", company(4): "pending",
        person(1): "in_progress", person(2): "failed", person(3): "pending",
    }  # fmt: skip
    order = [(len(row["errors"]), row["times_returned"], row["since"]) for row in rows]
    assert order == sorted(order)
    assert [returned for _, returned, _ in order] == [0, 0, 0, 0, 1, 1]
    failed = next(row for row in rows if row["key"] == company(2))
    assert "website" in failed["errors"]
    assert "set complete again" in failed["what_to_do"]


def test_swapped_addresses_are_refused_before_anything_is_made(cli, prepared, env, neon, supabase) -> None:
    before = everything(neon), everything(supabase)
    env["NEON_DATABASE_URL"], env["SUPABASE_DATABASE_URL"] = env["SUPABASE_DATABASE_URL"], env["NEON_DATABASE_URL"]
    done = cli("setup")
    assert done.returncode == 2
    assert done.stderr == (
        "enrichment-worker: NEON_DATABASE_URL leads to a database that was set up as Supabase;"
        " are the two addresses swapped?\n"
    )
    assert (everything(neon), everything(supabase)) == before
