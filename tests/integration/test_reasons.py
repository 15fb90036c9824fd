"""Cause there is no connection, in the server's own words: in the log, in ``/readyz`` and on the page. And hints that help."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from conftest import Databases, as_role, connect
from findings import findings
from psycopg import sql
from records import add_companies, company, complete, work

from worker.postgres.hints import hint_for, reach_hint

pytestmark = pytest.mark.one_version

ROLE = "carrier"
THEIRS = (
    "CREATE FUNCTION marketing.theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM gone(); RETURN NEW; END $$;"
    "CREATE TRIGGER theirs BEFORE INSERT ON public.shq_validation_log FOR EACH ROW EXECUTE FUNCTION marketing.theirs()"
)
"""A trigger of the customer's that calls what is not there."""


@pytest.fixture
def role(prepared, env, neon, supabase, databases, request) -> Iterator[str]:
    """The worker logs in as a role of its own on one side, ``Neon`` or ``Supabase``."""
    side, password = getattr(request, "param", "Neon"), secrets.token_hex(8)
    admin = neon if side == "Neon" else supabase
    admin.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{password}'")
    url = databases.neon_url if side == "Neon" else databases.supabase_url
    env[f"{side.upper()}_DATABASE_URL"] = as_role(url, ROLE, password)
    env["WORKER_SWEEP_INTERVAL"] = "0.5"
    yield side
    admin.execute(f"DROP ROLE {ROLE}")


def end_sessions(admin) -> None:
    """Those that can be seen: one that is just being let in is there afterwards."""
    admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")


def end_all_sessions(admin, supabase) -> None:
    """Also one that was just being let in. What it has promoted is followed by another record."""
    end_sessions(admin)
    if work(supabase, company(1))["promoted_at"]:
        complete(supabase, company(2), website="https://two.example")


def told_everywhere(worker, eventually, side: str, reason: str, look: Callable[[], None] = lambda: None) -> None:
    def told() -> bool:
        look()
        said = " ".join(json.loads(worker.health("/readyz")[1])["reasons"])
        return f"{side}: no connection within 15 s: " in said and reason in said

    eventually(told, 60)
    status = json.loads(worker.health("/status.json")[1])
    assert json.dumps(reason)[1:-1] in json.dumps(status)
    eventually(lambda: [e for e in worker.events if e["event"] == "worker.fault" and reason in e["error"]])


@pytest.mark.parametrize("role", ["Neon", "Supabase"], indirect=True)
@pytest.mark.parametrize(
    ("change", "back", "reason"),
    [
        (f"ALTER ROLE {ROLE} CONNECTION LIMIT 0", f"ALTER ROLE {ROLE} CONNECTION LIMIT -1", "too many connections"),
        (f"ALTER ROLE {ROLE} NOLOGIN", f"ALTER ROLE {ROLE} LOGIN", "is not permitted to log in"),
    ],
)
def test_the_servers_reason_for_refusing_a_connection_is_told_and_waited_out(
    role, cli, env, daemon, neon, supabase, eventually, change, back, reason
) -> None:
    # A limit is not for superusers.
    admin = neon if role == "Neon" else supabase
    add_companies(neon, 1, 2)
    assert cli("pull").returncode == 0
    if "LIMIT" in change:
        admin.execute(
            f"GRANT postgres TO {ROLE}; ALTER ROLE {ROLE} NOSUPERUSER BYPASSRLS; ALTER ROLE {ROLE} SET role = postgres"
        )
    worker = daemon()
    admin.execute(change)
    end_sessions(admin)
    complete(supabase, company(1), website="https://one.example")
    told_everywhere(worker, eventually, role, reason, lambda: end_all_sessions(admin, supabase))
    if role == "Supabase":
        assert reason in worker.wait_event("listener.lost", timeout=60)["error"] or [
            e for e in worker.events if e["event"] == "listener.lost" and reason in e["error"]
        ]
    admin.execute(back)
    eventually(lambda: work(supabase, company(1))["promoted_at"], 90)
    assert worker.terminate() == 0


class TestOwnServers:
    @pytest.fixture
    def databases(self, own_servers) -> Databases:
        own_servers[0].create_database("neon")
        own_servers[1].create_database("supabase")
        return Databases(own_servers[0].url("neon"), own_servers[1].url("supabase"))

    @pytest.mark.parametrize("how", ["password", "pg_hba"])
    def test_who_is_not_let_in_any_more_reads_why(
        self, env, prepared, daemon, own_servers, databases, eventually, how
    ) -> None:
        rules = own_servers[0].data / "pg_hba.conf"
        theirs = rules.read_text()
        with connect(databases.neon_url) as neon, connect(databases.supabase_url) as supabase:

            def rule(method: str) -> None:
                rules.write_text(f"host all {ROLE} all {method}\n{theirs}")
                neon.execute("SELECT pg_reload_conf()")

            add_companies(neon, 1, 2)
            neon.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD 'before-81c2'")
            env["NEON_DATABASE_URL"] = as_role(databases.neon_url, ROLE, "before-81c2")
            env["WORKER_SWEEP_INTERVAL"] = "0.5"
            rule("scram-sha-256")
            worker = daemon()
            worker.wait_event("pull.done", entity="people")
            if how == "password":
                neon.execute(f"ALTER ROLE {ROLE} PASSWORD 'after-22d0'")
            else:
                rule("reject")
            end_sessions(neon)
            complete(supabase, company(1), website="https://one.example")
            reason = f'password authentication failed for user "{ROLE}"' if how == "password" else "pg_hba.conf rejects"
            told_everywhere(worker, eventually, "Neon", reason, lambda: end_all_sessions(neon, supabase))
            if how == "password":
                neon.execute(f"ALTER ROLE {ROLE} PASSWORD 'before-81c2'")
            else:
                rule("trust")
            eventually(lambda: work(supabase, company(1))["promoted_at"], 90)


def test_a_database_that_is_gone_is_told(prepared, env, cli, daemon, pg_server, neon, supabase, eventually) -> None:
    env["WORKER_SWEEP_INTERVAL"] = "0.5"
    add_companies(neon, 1)
    assert cli("pull").returncode == 0
    worker = daemon()
    name = neon.info.dbname
    with connect(pg_server.url()) as admin:
        neon.close()
        # No worker comes back between the two.
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'")
        admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_aside")
        try:
            complete(supabase, company(1), website="https://one.example")
            told_everywhere(worker, eventually, "Neon", f'database "{name}" does not exist')
        finally:
            admin.execute(f"ALTER DATABASE {name}_aside RENAME TO {name}")
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    eventually(lambda: work(supabase, company(1))["promoted_at"], 90)


@pytest.mark.parametrize(
    ("path", "status", "reason", "help_"),
    [
        ("postgresql://postgres@127.0.0.1:1/neon", 3, "refused", "check host and port in NEON_DATABASE_URL"),
        ("postgresql://postgres@no-such-host.invalid/neon", 3, "resolve host", "DNS"),
        ("postgresql://postgres@{where}/no_such_database", 3, "does not exist", "database's name in NEON_DATABASE_URL"),
        ("postgresql://nobody_of_the_name@{where}/{name}", 3, "does not exist", "check the user"),
        ("postgresql://postgres@{where}/{name}?sslmode=require", 3, "SSL", "WORKER_ALLOW_INSECURE=1"),
        ("service=no_such_service", 3, "no_such_service", "service"),
        ("postgresql://postgres@{where}/{name}?pgbouncer=true&connection_limit=1", 2, "pgbouncer, connection_limit", "take them out"),
        ("postgresql://postgres@{where}/{name}?sslmode=no-verify", 2, "sslmode", "verify-full"),
    ],
)  # fmt: skip
def test_a_hint_is_about_what_is_wrong(prepared, env, cli, path, status, reason, help_) -> None:
    url = env["NEON_DATABASE_URL"]
    env["WORKER_ALLOW_INSECURE"] = "1"
    env["NEON_DATABASE_URL"] = path.format(where=url.rpartition("@")[2].partition("/")[0], name=url.rpartition("/")[2])
    done = cli("pull")
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert "NEON_DATABASE_URL" in line
    assert reason in line
    assert help_ in line
    if status == 3:
        found = findings(cli)["Neon connection"]
        assert help_ in found["hint"]


@pytest.mark.parametrize(
    ("damage", "command", "said", "help_"),
    [
        ("ALTER TABLE marketing.company_invalid RENAME COLUMN domain TO domain_", "pull", "domain", "ALTER TABLE marketing.company_invalid ADD COLUMN domain TEXT"),
        (THEIRS, "pull", "gone()", "marketing.theirs"),
        ("ALTER TABLE public.shq_validation_log ALTER COLUMN total_records TYPE inet USING NULL", "pull", "inet", "ADD COLUMN total_records INTEGER"),
    ],
)  # fmt: skip
def test_a_fault_gets_the_hint_that_helps(prepared, cli, neon, damage, command, said, help_) -> None:
    add_companies(neon, 1)
    neon.execute(damage)
    done = cli(command)
    assert done.returncode == 1
    assert "trying again" not in done.stderr, "it does not pass by itself"
    last = done.stderr.splitlines()[-1]
    assert said in last
    assert help_ in last


@pytest.mark.parametrize(
    "before", ["CREATE VIEW public.company_needs_enrichment AS SELECT 1 AS id", "CREATE TYPE public.enrichment_outbox AS (a int)"]
)  # fmt: skip
def test_setup_never_advises_setup(databases, cli, supabase, before) -> None:
    supabase.execute(before)
    done = cli("setup")
    assert done.returncode == 1
    assert "enrichment-worker setup" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("statement", "help_"),
    [
        ("SELECT 1 FROM no_such_table", "doctor"), ("SELECT no_such_column", "doctor"), ("SELECT no_such_function()", "doctor"),
        ("SELEC 1", "please report"), ("SELECT 1 / 0", ""), ("SELECT 'x'::int", ""),
        ("BEGIN READ ONLY; CREATE TABLE x ()", "replica"),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", "disk"), ("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$", "limit"),
    ],
)  # fmt: skip
def test_what_a_server_says_gets_a_hint_or_none(neon, statement, help_) -> None:
    with pytest.raises(psycopg.Error) as caught:
        neon.execute(sql.SQL(statement))
    said = hint_for(caught.value)
    assert help_ in said
    assert bool(said) == bool(help_)
    assert "enrichment-worker setup" not in said
    assert "doctor`" not in hint_for(caught.value, asked=True)


@pytest.mark.parametrize(
    ("text", "help_"),
    [
        ('FATAL:  password authentication failed for user "ana"', "user and the password in X_URL"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "b", no encryption', "sslmode=require"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "b", SSL encryption', "pg_hba.conf"),
        ("FATAL:  sorry, too many clients already", "limit"),
        ("FATAL:  unsupported startup parameter: options", "options"),
        ("connection is bad: Network is unreachable", "IPv6"),
        ("connection timeout expired", "firewall"),
        ('root certificate file "/no/such" does not exist', "sslrootcert"),
        ("SSL error: certificate verify failed", "sslrootcert"),
        ("received invalid response to SSL negotiation: H", "no Postgres"),
        ("FATAL:  the database system is starting up", ""),
        ("something that nobody has seen before", "check X_URL"),
    ],
)
def test_why_no_connection_comes_gets_a_hint(text, help_) -> None:
    said = reach_hint(psycopg.OperationalError(text), "X_URL")
    assert help_ in said
    assert bool(said) == bool(help_)
