"""Least privilege (SPEC 11): the worker as the roles of ``sql/roles/``, and Supabase's own roles (tests below)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from functools import partial

import anyio
import psycopg
import pytest
from conftest import ROOT, Databases, as_role, connect
from declared import COMPANY, ENTITIES, PEOPLE
from psycopg import sql
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
    work,
)

from worker.entities.worker_tables import Table
from worker.operate.history import history
from worker.operate.privileges import needs
from worker.operate.status import read_status
from worker.settings import load_settings
from worker.supabase import outbox, pause
from worker.sync import databases as bridges
from worker.sync.deliver import deliver
from worker.sync.pull import pull
from worker.sync.undo import Undone, undo

ROLE = "enrichment_worker"
SIDES = ("Neon", "Supabase")


@pytest.fixture
def roles(prepared, neon, supabase, databases, env) -> Iterator[Databases]:
    """Both databases after ``sql/roles/``, closed to the public; the worker's settings name the role."""
    password = secrets.token_hex(8)
    for connection, side in ((neon, "neon"), (supabase, "supabase")):
        # What every role has in a new database, so that a grant that is needed is seen to be.
        connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        connection.execute(
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(connection.info.dbname))
        )
        connection.execute("CREATE TABLE public.strangers (secret text); INSERT INTO strangers VALUES ('x')")
        script = (ROOT / "sql/roles" / f"{side}.sql").read_text()
        for _ in range(2):  # it may run again
            connection.execute(script)
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(password)))
    urls = [as_role(url, ROLE, password) for url in (databases.neon_url, databases.supabase_url)]
    env.update(NEON_DATABASE_URL=urls[0], SUPABASE_DATABASE_URL=urls[1], N8N_WEBHOOK_URL="http://127.0.0.1:9/none")
    yield Databases(*urls)
    for connection in (neon, supabase):
        connection.execute(f"DROP OWNED BY {ROLE}")


def test_the_commands_and_the_daemon_need_no_more_than_the_roles(
    cli, roles, neon, supabase, daemon, eventually, tmp_path
) -> None:
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    add_companies(neon, 1, 2, 3, 4)
    add_slot(neon, 1, of=1)
    add_people(neon, 1, of=1)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="https://one.example")
    complete(supabase, company(2), website="n/a")
    for command in ("push", "status"):
        assert cli(command).returncode == 0
    passed = cli("revalidate")
    assert passed.stdout == f"{company(1)}\n", passed.stderr
    assert cli("promote", input=passed.stdout).returncode == 0
    assert cli("history", company(1)).returncode == 0
    assert cli("undo", company(1)).returncode == 0
    assert invalid(neon, company(1)) is not None
    running = daemon()
    complete(supabase, person(1), email="robin@one.example")
    eventually(lambda: work(supabase, person(1))["waiting_for"])
    complete(supabase, company(1), website="https://one.example")
    complete(supabase, company(3), website="https://three.example", employee_count=-1)
    eventually(lambda: work(supabase, company(1))["promoted_at"] and work(supabase, person(1))["promoted_at"])
    eventually(lambda: work(supabase, company(3))["enrichment_status"] == "failed")
    assert running.health("/readyz")[0] == 200
    assert running.terminate() == 0
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(4)])
    assert "1 withdrawn" in cli("pull", "--full").stdout
    done = cli("pipeline", "--yes")  # it refuses to promote what the master has refused
    assert "permission" not in done.stderr
    assert "passed" in done.stderr.lower()


def test_setup_as_the_worker_says_who_it_runs_as(cli, roles) -> None:
    done = cli("setup")
    assert done.returncode == 1
    assert "setup runs as the tables' owner" in done.stderr


async def _loop(neon: Connection, supabase: Connection, n: int) -> None:
    """All that the worker does to a database, with the records ``n`` to ``n + 5``."""
    supabase.execute("DELETE FROM enrichment_paused")  # what a loop left that could not resume
    add_companies(neon, n, n + 1, n + 2, n + 3, n + 4)
    add_master(neon, n + 1)
    add_people(neon, n, n + 1, of=n)
    add_slot(neon, n, of=n)
    neon.execute("UPDATE marketing.people_invalid SET company_unique_id = %s WHERE unique_id = %s",
                 [company(n + 9), person(n + 1)])  # fmt: skip
    async with bridges.open_databases(load_settings()) as opened:
        for entity in (COMPANY, PEOPLE):
            await pull(opened, entity)
        assert work(supabase, company(n))["enrichment_status"] == "pending"
        # Promoted, updated where it stands, flagged, refused by the master, in conflict with Neon, waiting.
        for number in (n, n + 1):
            complete(supabase, company(number), website=f"https://c{number}.example")
        complete(supabase, company(n + 2), website="n/a")
        complete(supabase, company(n + 3), website="https://refused.example", employee_count=-1)
        edit(supabase, company(n + 4), city="Elkins")
        neon.execute("UPDATE marketing.company_invalid SET city = 'Ripley', updated_at = now() WHERE"
                     " company_unique_id = %s", [company(n + 4)])  # fmt: skip
        for number in (n, n + 1):
            complete(supabase, person(number), email=f"robin@c{number}.example")
        for entity in (PEOPLE, COMPANY, PEOPLE):
            while (tally := await deliver(opened, entity)).answered or tally.fault:
                if tally.fault:
                    raise tally.fault
        assert work(supabase, company(n + 2))["enrichment_status"] == "failed"
        assert work(supabase, company(n + 3))["enrichment_status"] == "failed"
        for key in (company(n), company(n + 1), person(n)):
            assert work(supabase, key)["promoted_at"], key
        assert work(supabase, person(n + 1))["waiting_for"] == company(n + 9)
        await pull(opened, COMPANY)
        assert ledger(neon, company(n + 4)), "the conflict is not in the ledger"
        done = Undone()
        await undo(opened, [company(n), company(n + 1), person(n)], done)
        assert not done.refused
        assert master(neon, company(n)) is None
        for table, key in (("company", company(n + 4)), ("people", person(n + 1))):
            edit(supabase, key, city=None, enrichment_status="pending")
            column = "company_unique_id" if table == "company" else "unique_id"
            neon.execute(f"DELETE FROM marketing.{table}_invalid WHERE {column} = %s", [key])
        add_people(neon, n + 2, of=n)
        await pull(opened, PEOPLE)
        neon.execute("DELETE FROM marketing.people_invalid WHERE unique_id = %s", [person(n + 2)])
        for entity in (COMPANY, PEOPLE):
            await pull(opened, entity, full=True)
        found = supabase.execute("SELECT FROM people_needs_enrichment WHERE unique_id = %s", [person(n + 2)])
        assert found.rowcount == 0, "it was not withdrawn"
        assert await history(opened, company(n))
        async with opened.supabase.connection() as here:
            for take in (partial(outbox.not_posted, reason="nobody is there"), outbox.posted):
                event = await outbox.oldest(here, COMPANY)
                assert event is not None
                await take(here, event)
            await read_status(here, (COMPANY, PEOPLE))
            await pause.pause(here, COMPANY)
            assert await pause.resume(here, COMPANY)


GRANTED = """
SELECT x.privilege_type AS privilege, 'DATABASE' AS kind, NULL AS schema, quote_ident(datname) AS name
FROM pg_database, aclexplode(datacl) x WHERE datname = current_database() AND x.grantee = 'enrichment_worker'::regrole
UNION ALL
SELECT x.privilege_type, 'SCHEMA', nspname, quote_ident(nspname) FROM pg_namespace, aclexplode(nspacl) x
WHERE x.grantee = 'enrichment_worker'::regrole
UNION ALL
SELECT x.privilege_type, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, nspname, c.oid::regclass::text
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, aclexplode(relacl) x
WHERE x.grantee = 'enrichment_worker'::regrole
UNION ALL
SELECT x.privilege_type, 'FUNCTION', NULL, p.oid::regprocedure::text FROM pg_proc p, aclexplode(proacl) x
WHERE x.grantee = 'enrichment_worker'::regrole
UNION ALL
SELECT x.privilege_type, 'COLUMN', NULL, attrelid::regclass || '.' || attname FROM pg_attribute, aclexplode(attacl) x
WHERE x.grantee = 'enrichment_worker'::regrole
ORDER BY 2, 4, 1
"""


def test_every_grant_is_needed(roles, neon, supabase, env, monkeypatch) -> None:
    """Without any one of them the loop ends at it; with all of them it goes round."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    number = 1
    anyio.run(_loop, neon, supabase, number)
    tried = []
    for connection in (neon, supabase):
        for grant in connection.execute(GRANTED).fetchall():
            what = f"{grant['privilege']} ON {grant['kind']} {grant['name']}"
            number += 20
            connection.execute(f"REVOKE {what} FROM {ROLE}")
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - what it says is looked at below
                anyio.run(_loop, neon, supabase, number)
            connection.execute(f"GRANT {what} TO {ROLE}")
            assert "permission denied" in _story(caught.value), (what, _story(caught.value))
            tried.append(what)
    assert len(tried) == len(
        {(side, need.privilege, need.kind, need.on) for side in SIDES for need in needs(side, ENTITIES.values())}
    )
    number += 20
    anyio.run(_loop, neon, supabase, number)


def _story(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return " ".join(map(_story, error.exceptions))
    return f"{type(error).__name__} {error}"


def test_every_policy_is_needed(roles, neon, supabase, env, monkeypatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    policies = supabase.execute("SELECT tablename FROM pg_policies WHERE policyname = %s", [ROLE]).fetchall()
    assert len(policies) == 6
    number = 1
    for policy in policies:
        number += 20
        supabase.execute(f"ALTER POLICY {ROLE} ON {policy['tablename']} TO postgres")
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - likewise
            anyio.run(_loop, neon, supabase, number)
        supabase.execute(f"ALTER POLICY {ROLE} ON {policy['tablename']} TO {ROLE}")
        assert "row-level security" in _story(caught.value), policy


def test_the_grants_are_those_that_doctor_looks_for(roles, neon, supabase) -> None:
    for connection, side in ((neon, "Neon"), (supabase, "Supabase")):
        granted = {
            (g["privilege"], g["kind"], "" if g["kind"] == "DATABASE" else g["name"].removeprefix("public."))
            for g in connection.execute(GRANTED).fetchall()
        }
        wanted = set()
        for need in needs(side, ENTITIES.values()):
            name = str(need.on).removeprefix("public.") + ("_id_seq" if need.kind == "SEQUENCE" else "")
            wanted.add((need.privilege, need.kind, name))
        assert granted == wanted


def test_no_other_table_can_be_read_and_nothing_else_be_done(roles, neon, supabase) -> None:
    for url, connection, side in ((roles.neon_url, neon, "Neon"), (roles.supabase_url, supabase, "Supabase")):
        mine = {str(need.on) for need in needs(side, ENTITIES.values()) if isinstance(need.on, Table)}
        tables = connection.execute(
            "SELECT nspname || '.' || relname AS name, relkind, c.oid FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'f')"
            " AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
        ).fetchall()
        assert "public.strangers" in {table["name"] for table in tables}
        with connect(url) as worker:
            for table in tables:
                statement = sql.SQL("SELECT FROM {} LIMIT 0").format(sql.Identifier(*table["name"].split(".")))
                if table["name"] in mine:
                    worker.execute(statement)
                else:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        worker.execute(statement)
            forbidden = ["CREATE TABLE public.mine ()", "CREATE SCHEMA mine", "CREATE ROLE mine"]
            if side == "Neon":
                forbidden += [
                    "DELETE FROM marketing.enrichment_ledger", "UPDATE marketing.enrichment_ledger SET note = ''",
                    "TRUNCATE marketing.company_master", "ALTER TABLE marketing.company_invalid DISABLE TRIGGER USER",
                ]  # fmt: skip
            else:
                forbidden += ["TRUNCATE company_needs_enrichment", "DROP TRIGGER enrichment_b_row ON company_needs_enrichment",
                              "SELECT setval('company_needs_enrichment_id_seq', 1)"]  # fmt: skip
            for statement in forbidden:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    worker.execute(statement)
            attributes = worker.execute(
                "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS any"
                " FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
            assert attributes == {"any": False}


def test_doctor_names_every_missing_grant_with_the_statement_that_fixes_it(cli, roles, env, neon, supabase) -> None:
    for connection, side in ((neon, "Neon"), (supabase, "Supabase")):
        # All of the tables and sequences; without a schema there would be nothing to look at.
        grants = [g for g in connection.execute(GRANTED).fetchall() if g["kind"] not in ("DATABASE", "SCHEMA")]
        for grant in grants:
            connection.execute(f"REVOKE {grant['privilege']} ON {grant['kind']} {grant['name']} FROM {ROLE}")
        found = [f for f in json.loads(cli("doctor", "--json").stdout) if f["level"] == "problem"]
        fixes = "; ".join(f["hint"].removeprefix("as the owner: ") for f in found if "this role lacks" in f["text"])
        connection.execute(fixes)
        after = [g for g in connection.execute(GRANTED).fetchall() if g["kind"] not in ("DATABASE", "SCHEMA")]
        assert after == grants, side
    assert cli("doctor").returncode == 0
    env["WORKER_LEDGER_RETENTION"] = "90"
    assert "DELETE ON TABLE marketing.enrichment_ledger" in cli("doctor").stdout
    neon.execute(f"REVOKE USAGE ON SCHEMA marketing FROM {ROLE}")
    done = cli("doctor")
    assert done.returncode == 1
    assert f"GRANT USAGE ON SCHEMA marketing TO {ROLE}" in done.stdout


# -- Supabase's own roles ------------------------------------------------------------------------------------------

STRANGERS = ("anon", "authenticated")


OPEN = """
SELECT 'relation ' || oid::regclass AS thing, r.role FROM pg_class, unnest(%(roles)s::text[]) r (role)
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
  AND (has_table_privilege(r.role, oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
    OR has_any_column_privilege(r.role, oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
UNION ALL
SELECT 'sequence ' || oid::regclass, r.role FROM pg_class, unnest(%(roles)s::text[]) r (role)
WHERE relnamespace = 'public'::regnamespace
  AND CASE WHEN relkind = 'S' THEN has_sequence_privilege(r.role, oid, 'USAGE, SELECT, UPDATE') END
UNION ALL
SELECT 'function ' || oid::regprocedure, r.role FROM pg_proc, unnest(%(roles)s::text[]) r (role)
WHERE pronamespace = 'public'::regnamespace AND has_function_privilege(r.role, oid, 'EXECUTE')
"""


@pytest.mark.parametrize("with_the_role", [False, True])
def test_strangers_get_nothing_of_what_setup_makes(cli, project, databases, supabase, with_the_role) -> None:
    assert cli("setup").returncode == 0
    if with_the_role:  # the worker's own policy is no reason to leave the door open to others
        supabase.execute((ROOT / "sql/roles/supabase.sql").read_text())
        supabase.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated")
        found = json.loads(cli("doctor", "--json").stdout)
        assert any("anon, authenticated still have grants" in one["text"] for one in found)
        assert cli("setup").returncode == 0
    assert supabase.execute(OPEN, {"roles": list(STRANGERS)}).fetchall() == []
    unsecured = supabase.execute(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND (relkind IN ('r', 'p') AND NOT relrowsecurity"
        "   OR relkind = 'v' AND NOT coalesce('security_invoker=on' = ANY(reloptions), false))"
    ).fetchall()
    assert unsecured == []
    loose = supabase.execute(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND (prosecdef OR NOT coalesce('search_path=\"\"' = ANY(proconfig), false))"
    ).fetchall()
    assert loose == []


ENRICHER = {"email": "ada@example.org", "app_metadata": {"enricher": True}}


@pytest.fixture
def front_end(cli, project, prepared, databases, neon, supabase, env) -> Iterator[Connection]:
    """A connection as PostgREST has it, after the optional policies; two records were pulled."""
    for _ in range(2):  # it may run again, and so may setup
        supabase.execute((ROOT / "sql/optional/enrichers-policies.sql").read_text())
        assert cli("setup").stdout == "Neon: everything is in place\nSupabase: everything is in place\n"
    add_companies(neon, 1, 2)
    add_people(neon, 1)
    assert cli("pull").returncode == 0
    with connect(databases.supabase_url) as connection:
        connection.execute("SET ROLE authenticated")
        connection.execute("SELECT set_config('request.jwt.claims', %s, false)", [json.dumps(ENRICHER)])
        yield connection


@pytest.mark.needs_view
def test_an_enricher_with_a_front_end_sees_and_edits_data_and_status(front_end, cli, supabase, neon) -> None:
    seen = front_end.execute(
        "SELECT company_unique_id, company_name, sync_note FROM company_needs_enrichment"
    ).fetchall()
    assert {row["company_unique_id"] for row in seen} == {company(1), company(2)}
    assert front_end.execute("SELECT count(*) AS n FROM needs_attention").fetchone()["n"] == 3
    supabase.execute("LISTEN enrichment_complete")
    front_end.execute("UPDATE company_needs_enrichment SET website = 'https://a.example', enrichment_status = ' Complete '"
                      " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    heard = next(supabase.notifies(timeout=10))
    assert json.loads(heard.payload) == {"entity": "company"}
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["enriched_by"]) == ("complete", "ada@example.org")
    assert row["updated_at"] > row["pulled_from_neon_at"]
    assert cli("pipeline", "--yes").returncode == 0
    assert master(neon, company(1))["website_url"] == "https://a.example"
    front_end.execute("UPDATE people_needs_enrichment SET email = 'a@b.example', enrichment_notes = 'asked her'")
    with pytest.raises(psycopg.errors.CheckViolation, match="use pending, in_progress"):
        front_end.execute("UPDATE people_needs_enrichment SET enrichment_status = 'done'")


def test_an_enricher_with_a_front_end_never_touches_what_the_worker_keeps(front_end, supabase) -> None:
    """Every column is tried: those that may be written are the data columns, the status and the notes."""
    for entity in (COMPANY, PEOPLE):
        table = entity.workspace_table.sql
        columns = supabase.execute("SELECT attname::text AS name FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
                                   " AND attrelid = %s::regclass", [str(entity.workspace_table)]).fetchall()  # fmt: skip
        written, seen = set(), set()
        for column in (row["name"] for row in columns):
            name = sql.Identifier(column)
            for statement, into in (
                (sql.SQL("UPDATE {} SET {} = NULL WHERE false").format(table, name), written),
                (sql.SQL("SELECT {} FROM {}").format(name, table), seen),
            ):
                try:
                    front_end.execute(statement)
                except psycopg.errors.InsufficientPrivilege:
                    continue
                into.add(column)
        assert written == {*entity.columns, "enrichment_status", "enrichment_notes"}
        hidden = {"neon_id", "source_batch_id", "neon_snapshot", "last_sync_hash", "pulled_from_neon_at",
                  "pushed_to_neon_at", "waiting_for", "sync_code", "receipt_id", "receipt_hash",
                  "queued_versions"}  # fmt: skip
        assert {row["name"] for row in columns} - seen == hidden
        for statement in ("INSERT INTO {} (id) VALUES (DEFAULT)", "DELETE FROM {}", "TRUNCATE {}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                front_end.execute(sql.SQL(statement).format(table))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        front_end.execute("SELECT * FROM enrichment_pull_position")


@pytest.mark.parametrize(
    "claims",
    ["", "{}", '{"email": "eve@example.org"}', '{"user_metadata": {"enricher": true}, "enricher": true}',
     '{"app_metadata": {"enricher": "true"}}', '{"app_metadata": []}'],
)  # fmt: skip
@pytest.mark.needs_view
def test_whoever_is_only_signed_in_sees_and_changes_nothing(front_end, claims) -> None:
    front_end.execute("SELECT set_config('request.jwt.claims', %s, false)", [claims])
    assert front_end.execute("SELECT company_name FROM company_needs_enrichment").fetchall() == []
    assert front_end.execute("SELECT key FROM needs_attention").fetchall() == []
    assert front_end.execute("UPDATE company_needs_enrichment SET website = 'x'").rowcount == 0


def test_the_optional_policies_open_nothing_to_those_who_are_not_signed_in(front_end, supabase) -> None:
    assert supabase.execute(OPEN, {"roles": ["anon"]}).fetchall() == []
