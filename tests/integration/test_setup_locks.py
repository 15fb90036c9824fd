"""What `setup` locks, and what it leaves to the owner: it runs on production tables that others read and write."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from conftest import as_role, connect
from declared import COMPANY, ENTITIES
from psycopg import sql
from records import Connection, everything

from worker.operate.setup import script

IN_PLACE = "Neon: everything is in place\nSupabase: everything is in place\n"
HARMLESS = ("AccessShareLock", "RowShareLock", "RowExclusiveLock")
"""What everybody takes who reads and writes."""
TABLES = "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace IN ({})"
OURS = "SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'marketing')"


def tables(connection: Connection) -> list[str]:
    return [row["name"] for row in connection.execute(TABLES.format(OURS)).fetchall()]


def test_a_second_setup_waits_for_nobody_who_reads_or_writes(cli, prepared, databases, neon, supabase) -> None:
    with ExitStack() as stack:
        for url, side in ((databases.neon_url, neon), (databases.supabase_url, supabase)):
            other = stack.enter_context(connect(url))
            other.execute("BEGIN")
            for table in tables(side):
                other.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
        done = cli("setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, IN_PLACE, "")


@pytest.mark.parametrize("side", ["Neon", "Supabase"])
def test_a_second_setup_locks_no_table_as_who_alters_it_does(prepared, databases, side) -> None:
    text = script(side, ENTITIES.values())
    with connect(databases.neon_url if side == "Neon" else databases.supabase_url) as connection:
        connection.execute(text.rpartition("COMMIT;")[0].encode())
        found = connection.execute(
            f"SELECT relation::regclass::text AS name, mode FROM pg_locks JOIN pg_class c ON c.oid = relation"
            f" WHERE pid = pg_backend_pid() AND relnamespace IN ({OURS}) AND mode <> ALL (%s)", [list(HARMLESS)],
        ).fetchall()  # fmt: skip
        assert found == []
        assert not connection.execute("SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema()").rowcount


def test_who_queues_behind_setup_waits_for_seconds_only(cli, prepared, databases, neon, eventually) -> None:
    """A report reads a table that lacks a column, and setup wants to add it."""
    neon.execute("ALTER TABLE marketing.company_invalid DROP COLUMN still_invalid CASCADE")
    waits = "SELECT FROM pg_locks WHERE relation = 'marketing.company_invalid'::regclass AND NOT granted"
    with connect(databases.neon_url) as report, ThreadPoolExecutor() as threads:
        report.execute("BEGIN")
        report.execute("SELECT FROM marketing.company_invalid")
        setup = threads.submit(cli, "setup")
        eventually(lambda: neon.execute(waits).rowcount)
        neon.execute("SET lock_timeout = '6s'")
        neon.execute("SELECT FROM marketing.company_invalid")  # queues behind setup, which gives up
        report.execute("COMMIT")
        done = setup.result()
    assert done.returncode == 0, done.stderr
    assert "trying again: Neon: canceling statement due to lock timeout" in done.stderr
    assert "Neon: added column marketing.company_invalid.still_invalid" in done.stdout


@pytest.mark.needs_view
def test_what_somebody_changed_is_brought_back_and_the_owners_tuning_stays(cli, prepared, neon, supabase) -> None:
    neon.execute("ALTER TABLE marketing.enrichment_ledger SET (toast_tuple_target = 2040)")
    supabase.execute(
        "CREATE OR REPLACE FUNCTION enrichment_notify() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE OR REPLACE TRIGGER enrichment_notify_insert AFTER INSERT ON company_needs_enrichment"
        " FOR EACH ROW WHEN (NEW.enrichment_status = 'complete') EXECUTE FUNCTION enrichment_notify('people');"
        "ALTER TABLE company_needs_enrichment DISABLE TRIGGER enrichment_notify_update;"
        "ALTER TABLE company_needs_enrichment ENABLE ALWAYS TRIGGER enrichment_b_row;"
        "CREATE OR REPLACE TRIGGER enrichment_a_statement BEFORE INSERT ON people_needs_enrichment"
        " FOR EACH STATEMENT EXECUTE FUNCTION enrichment_statement();"
        "ALTER VIEW needs_attention RESET (security_invoker)"
    )
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted([
        "Neon: everything is in place",
        *(f"Supabase: changed trigger {name}" for name in (
            "enrichment_notify_insert on company_needs_enrichment",
            "enrichment_notify_update on company_needs_enrichment",
            "enrichment_a_statement on people_needs_enrichment",
        )),
        "Supabase: changed function enrichment_notify()",
    ])  # fmt: skip
    found = supabase.execute("SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'company_needs_enrichment'::regclass"
                             " AND tgenabled <> 'O'").fetchall()  # fmt: skip
    assert found == [{"tgname": "enrichment_b_row", "tgenabled": "A"}]
    options = "SELECT reloptions AS o FROM pg_class WHERE oid = %s::regclass"
    assert neon.execute(options, ["marketing.enrichment_ledger"]).fetchone()["o"] == ["toast_tuple_target=2040"]
    assert supabase.execute(options, ["needs_attention"]).fetchone()["o"] == ["security_invoker=on"]
    assert cli("setup").stdout == IN_PLACE


@pytest.mark.needs_view
def test_a_table_that_lacks_a_column_is_all_that_is_altered(cli, prepared, databases, supabase) -> None:
    supabase.execute("ALTER TABLE people_needs_enrichment DROP COLUMN returned_at CASCADE")
    with connect(databases.supabase_url) as writer:
        writer.execute("BEGIN; LOCK TABLE company_needs_enrichment, enrichment_outbox IN ROW EXCLUSIVE MODE")
        done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Neon: everything is in place\nSupabase: created view needs_attention\n"
        "Supabase: added column people_needs_enrichment.returned_at\n"
    )


FILLER = "string_agg(md5(i::text || n::text), '')"


def fill(connection: Connection, table: str, key: str, more: str = "", values: str = "") -> None:
    """34 MB in few rows: one a page."""
    connection.execute(f"ALTER TABLE {table} SET (fillfactor = 10, autovacuum_enabled = off)")
    connection.execute(
        f"INSERT INTO {table} ({key}, company_name{more}) SELECT '04.04.01.01.' || lpad(i::text, 5, '0') || '.001',"
        f" (SELECT {FILLER} FROM generate_series(1, 32) n){values} FROM generate_series(1, 4400) i"
    )
    size = connection.execute("SELECT pg_table_size(%s) AS size", [table]).fetchone()["size"]
    assert size > 32 * 1024 * 1024


def secondary(connection: Connection, table: str) -> list[str]:
    """The indexes that are no constraint's."""
    return [row["name"] for row in connection.execute(
        "SELECT indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = %s::regclass"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) ORDER BY 1", [table],
    ).fetchall()]  # fmt: skip


@pytest.mark.parametrize("side", ["invalid", "workspace", "master"])
def test_indexes_of_a_large_table_are_built_while_others_write_and_a_masters_by_its_owner(
    cli, prepared, neon, supabase, side
) -> None:
    connection, table, more, values = {
        "invalid": (neon, str(COMPANY.invalid_table), ", reason_code, validation_errors", ", 'X', '{}'"),
        "master": (neon, str(COMPANY.master_table), ", website_url, source_system, source_record_id",
                   ", 'https://c' || i || '.example', 's', 'r'"),
        "workspace": (supabase, "company_needs_enrichment", "", ""),
    }[side]  # fmt: skip
    made = secondary(connection, table)
    for name in made:
        connection.execute(f"DROP INDEX {name}")
    fill(connection, table, COMPANY.key, more, values)
    done = cli("setup")
    assert done.returncode == 0
    if side == "master":
        assert done.stdout == IN_PLACE
        [line] = done.stderr.splitlines()
        assert line.endswith(" reads the whole table; `enrichment-worker doctor` says how to build it")
        assert secondary(connection, table) == []
        found = cli("doctor").stdout
        for name in made:
            assert name.removeprefix("marketing.") in found
        [line] = [line for line in found.splitlines() if "CREATE INDEX CONCURRENTLY" in line]
        for statement in ("CREATE" + line.partition("CREATE")[2]).split("; "):
            connection.execute(statement)
    else:
        assert done.stdout.count(": created index ") == len(made)
        assert done.stderr.count("CREATE INDEX CONCURRENTLY") == len(made)
    assert secondary(connection, table) == made
    assert "CREATE INDEX" not in cli("doctor").stdout

    # As one that was cancelled leaves it.
    connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [made[0]])
    assert cli("setup").stdout == IN_PLACE
    [line] = [line for line in cli("doctor").stdout.splitlines() if "REINDEX INDEX CONCURRENTLY" in line]
    connection.execute("REINDEX" + line.partition("REINDEX")[2])
    assert "INDEX" not in cli("doctor").stdout


def test_an_index_that_was_dropped_from_a_small_table_is_made_again(cli, prepared, neon, supabase) -> None:
    neon.execute("DROP INDEX marketing.people_invalid_updated_at_idx, marketing.enrichment_ledger_waiting_idx")
    supabase.execute("DROP INDEX people_needs_enrichment_queue_idx, enrichment_outbox_entity_idx")
    done = cli("setup")
    assert done.stdout.splitlines() == [
        "Neon: created index enrichment_ledger_waiting_idx on marketing.enrichment_ledger",
        "Neon: created index people_invalid_updated_at_idx on marketing.people_invalid",
        "Supabase: created index enrichment_outbox_entity_idx on enrichment_outbox",
        "Supabase: created index people_needs_enrichment_queue_idx on people_needs_enrichment",
    ]


def test_doctor_looks_at_every_index_that_setup_makes(cli, prepared, neon, supabase) -> None:
    made = (
        "SELECT c.relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE relnamespace IN ({})"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)"
    )
    names = []
    for connection in (neon, supabase):
        ours = [row["relname"] for row in connection.execute(made.format(OURS)).fetchall()]
        assert len(ours) > 8
        for name in ours:
            connection.execute(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT oid FROM pg_class WHERE relname = %s)",
                [name],
            )
        names += ours
    done = cli("doctor")
    for name in names:
        assert f"REINDEX INDEX CONCURRENTLY public.{name}" in done.stdout \
            or f"REINDEX INDEX CONCURRENTLY marketing.{name}" in done.stdout, name  # fmt: skip
    assert done.returncode == 1, "without the ledger's unique ones, nothing can be delivered"


def test_an_index_whose_name_somebody_else_has_is_named(cli, prepared, neon) -> None:
    neon.execute("DROP INDEX marketing.company_invalid_updated_at_idx;"
                 "CREATE INDEX company_invalid_updated_at_idx ON marketing.company_slots (created_at)")  # fmt: skip
    assert cli("setup").stdout == IN_PLACE
    found = cli("doctor").stdout
    assert "rename marketing.company_invalid_updated_at_idx, which is another" in found


def test_setup_needs_no_create_where_everything_is_there(cli, databases, env, neon, supabase) -> None:
    role, password = f"owner_{secrets.token_hex(4)}", secrets.token_hex(8)
    neon.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    sides = (neon, supabase)
    try:
        for side in sides:
            name = side.info.dbname
            side.execute(f"GRANT CREATE ON DATABASE {name} TO {role}; GRANT CREATE ON SCHEMA public TO {role}")
        env["NEON_DATABASE_URL"] = as_role(databases.neon_url, role, password)
        env["SUPABASE_DATABASE_URL"] = as_role(databases.supabase_url, role, password)
        done = cli("setup")
        assert done.returncode == 0, done.stderr
        neon.execute("ALTER SCHEMA marketing OWNER TO CURRENT_USER")
        for side in sides:
            side.execute(f"REVOKE CREATE ON DATABASE {side.info.dbname} FROM {role}, PUBLIC")
            side.execute(f"REVOKE CREATE ON SCHEMA public FROM {role}, PUBLIC")
        neon.execute(f"REVOKE CREATE ON SCHEMA marketing FROM {role}; GRANT USAGE ON SCHEMA marketing TO {role}")
        before = everything(neon), everything(supabase)
        done = cli("setup")
        assert (done.returncode, done.stdout) == (0, IN_PLACE), done.stderr
        assert (everything(neon), everything(supabase)) == before
        # Where something is missing, it is.
        supabase.execute("DROP TABLE enrichment_paused")
        done = cli("setup")
        assert done.returncode == 1
        assert (
            "permission denied for schema public; setup runs as the tables' owner, with TEMPORARY on the database"
            in done.stderr
        )
    finally:
        for side in sides:
            side.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
        neon.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
