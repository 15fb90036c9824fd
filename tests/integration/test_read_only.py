"""A replica, or a read-only database: waited for, never overridden, reported with the server's reason. SPEC 6."""

from __future__ import annotations

import json

import pooler
import psycopg
import pytest
from conftest import Databases, connect
from findings import findings
from oracle import check
from psycopg import sql
from records import add_companies, company, complete, invalid, master, work

PARAMETER = "default_transaction_read_only"


def reasons(worker) -> str:
    return " ".join(json.loads(worker.health("/readyz")[1])["reasons"])


def says_read_only(worker, side: str) -> bool:
    said = reasons(worker)
    return f"{side}: cannot execute" in said and "in a read-only transaction" in said


class Lid:
    """Makes a database read-only for sessions to come, in one of the ways there are, and lifts it."""

    def __init__(self, admin: psycopg.Connection, way: str) -> None:
        self._admin = admin
        database, role = (sql.Identifier(name) for name in (admin.info.dbname, admin.info.user))
        self._what = {
            "database": sql.SQL("DATABASE {}").format(database),
            "role in database": sql.SQL("ROLE {} IN DATABASE {}").format(role, database),
        }[way]
        # A session of its own may lift it: that one says so, where the worker must not.
        admin.execute(f"SET {PARAMETER} = off")

    def put(self, value: str = "on") -> None:
        self._admin.execute(sql.SQL("ALTER {} SET {} = {}").format(self._what, sql.SQL(PARAMETER), sql.SQL(value)))

    def lift(self) -> None:
        self._admin.execute(sql.SQL("ALTER {} RESET {}").format(self._what, sql.SQL(PARAMETER)))


@pytest.fixture
def one(cli, env, prepared, neon, supabase) -> str:
    """A company in the workspace."""
    env["WORKER_SWEEP_INTERVAL"] = "0.5"
    add_companies(neon, 1, 2, 3, 4)
    assert cli("pull").returncode == 0
    return company(1)


def idle(connection) -> bool:
    """Whether no session of a worker is in the middle of something."""
    busy = connection.execute(
        "SELECT FROM pg_stat_activity WHERE application_name = 'enrichment-worker' AND state <> 'idle'"
        " AND datname = current_database()"
    )
    return busy.rowcount == 0


@pytest.mark.parametrize("way", ["database", "role in database"])
@pytest.mark.parametrize("side", ["Neon", "Supabase"])
def test_what_was_made_read_only_under_open_sessions_is_not_written_and_goes_on_by_itself(
    one, daemon, neon, supabase, eventually, side, way
) -> None:
    worker = daemon()
    # The pooled sessions are open, took the default of before, and have prepared their statements.
    for number in (2, 3, 4):
        complete(supabase, company(number), website=f"https://c{number}.example")
        eventually(lambda number=number: work(supabase, company(number))["promoted_at"])
    # What was begun before the database was closed may still write.
    eventually(lambda: idle(neon) and idle(supabase))
    lid = Lid(neon if side == "Neon" else supabase, way)
    lid.put()
    complete(supabase, one, website="https://one.example")
    eventually(lambda: says_read_only(worker, side))
    assert worker.health("/readyz")[0] == 503
    assert worker.health("/healthz")[0] == 200
    assert (master(neon, one), work(supabase, one)["pushed_to_neon_at"]) == (None, None)
    assert invalid(neon, one) is not None
    assert '"read_only"' in worker.health("/metrics")[1]
    lid.lift()
    eventually(lambda: work(supabase, one)["promoted_at"], 60)
    eventually(lambda: worker.health("/readyz")[0] == 200, 60)
    check(neon, supabase)
    assert worker.terminate() == 0


@pytest.mark.parametrize("side", ["Neon", "Supabase"])
def test_what_is_read_only_at_the_start_is_waited_for(one, daemon, neon, supabase, eventually, side) -> None:
    lid = Lid(neon if side == "Neon" else supabase, "database")
    lid.put("true")
    complete(supabase, one, website="https://one.example")
    worker = daemon()
    eventually(lambda: says_read_only(worker, side))
    assert master(neon, one) is None
    lid.lift()
    eventually(lambda: work(supabase, one)["promoted_at"], 60)
    check(neon, supabase)


def test_what_says_that_others_are_read_only_is_not_about_the_worker(one, daemon, neon, supabase, eventually) -> None:
    """Another role, another database, and a role that is let off what its database says."""
    neon.execute(
        "DO $$ BEGIN CREATE ROLE reporting; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        f"ALTER ROLE reporting SET {PARAMETER} = on"
    )
    lid, own = Lid(neon, "database"), Lid(neon, "role in database")
    lid.put()
    own.put("off")
    try:
        daemon()
        complete(supabase, one, website="https://one.example")
        eventually(lambda: work(supabase, one)["promoted_at"])
    finally:
        neon.execute("DROP ROLE reporting")


@pytest.mark.skipif(not pooler.installed(), reason="pgbouncer is not installed: apt install pgbouncer")
@pytest.mark.parametrize("side", ["Neon", "Supabase"])
def test_a_poolers_sessions_that_were_begun_under_the_lid_do_not_outlive_it(
    one, env, databases, daemon, neon, supabase, eventually, side
) -> None:
    lid = Lid(neon if side == "Neon" else supabase, "database")
    lid.put()
    with pooler.Pooler(databases.neon_url) as there, pooler.Pooler(databases.supabase_url) as here:
        env.update(
            NEON_DATABASE_URL=there.url, SUPABASE_DATABASE_URL=here.url, SUPABASE_LISTEN_URL=databases.supabase_url
        )
        complete(supabase, one, website="https://one.example")
        worker = daemon()
        eventually(lambda: says_read_only(worker, side))
        lid.lift()
        eventually(lambda: work(supabase, one)["promoted_at"], 60)
        eventually(lambda: worker.health("/readyz")[0] == 200, 60)
        assert worker.terminate() == 0


@pytest.mark.parametrize("command", ["pull", "push", "setup"])
def test_a_command_says_that_a_database_is_read_only(one, cli, supabase, command) -> None:
    lid = Lid(supabase, "database")
    lid.put()
    if command == "setup":
        supabase.execute("DROP VIEW IF EXISTS needs_attention")
    done = cli(command)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert "Supabase: cannot execute" in last
    assert "read-only transaction" in last
    assert "could not be reached" not in last
    assert "enrichment-worker setup" not in last
    lid.lift()
    assert cli(command).returncode == 0


@pytest.mark.parametrize(("way", "hint"), [("database", "ALTER DATABASE"), ("role in database", "IN DATABASE")])
def test_doctor_says_that_a_side_is_read_only_and_who_says_so(one, cli, neon, way, hint) -> None:
    assert findings(cli)["Neon writing"]["level"] == "ok"
    lid = Lid(neon, way)
    lid.put()
    found = findings(cli)["Neon writing"]
    assert found["level"] == "problem"
    assert PARAMETER in found["text"]
    assert hint in found["hint"]
    assert f"RESET {PARAMETER}" in found["hint"]
    assert cli("doctor").returncode == 1
    lid.lift()
    assert cli("doctor").returncode == 0


def test_reading_needs_no_database_that_takes_writes(one, cli, neon, supabase) -> None:
    for connection in (neon, supabase):
        Lid(connection, "database").put()
    assert cli("status").returncode == 0
    assert cli("history", one).returncode == 0


class TestStandby:
    @pytest.fixture
    def databases(self, own_servers) -> Databases:
        for server, name in zip(own_servers, ("neon", "supabase"), strict=True):
            server.create_database(name)
        return Databases(own_servers[0].url("neon"), own_servers[1].url("supabase"))

    @pytest.mark.parametrize("side", [0, 1], ids=["Neon", "Supabase"])
    def test_a_failover_to_a_replica_is_waited_out(
        self, env, cli, daemon, prepared, own_servers, databases, eventually, side
    ) -> None:
        name, server = ("Neon", "Supabase")[side], own_servers[side]
        env["WORKER_SWEEP_INTERVAL"] = "0.5"
        with connect(databases.neon_url) as neon, connect(databases.supabase_url) as supabase:
            add_companies(neon, 1)
            assert cli("pull").returncode == 0
        worker = daemon()
        with connect(databases.supabase_url) as supabase:
            complete_later = company(1)
            if side == 1:
                worker.kill()  # nobody completes anything on a replica
                complete(supabase, complete_later, website="https://one.example")
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        if side == 1:
            worker = daemon(ready=False)
            lost = worker.wait_event("listener.lost")
            assert "cannot execute LISTEN during recovery" in lost["error"]
            assert worker.wait_event("worker.fault")["error"].startswith("Supabase: cannot execute")
        else:
            with connect(databases.supabase_url) as supabase:
                complete(supabase, complete_later, website="https://one.example")
            eventually(lambda: says_read_only(worker, name), 60)
        found = findings(cli)
        assert found[f"{name} writing"]["level"] == "problem"
        assert "replica" in found[f"{name} writing"]["text"]
        done = cli("push")
        assert done.returncode == 3
        assert f"{name}: cannot execute" in done.stderr.splitlines()[-1]
        assert "setup" not in done.stderr
        server.stop()
        (server.data / "standby.signal").unlink()
        server.start()
        with connect(databases.neon_url) as neon, connect(databases.supabase_url) as supabase:
            eventually(lambda: work(supabase, complete_later)["promoted_at"], 90)
            eventually(lambda: worker.health("/readyz")[0] == 200, 60)
            check(neon, supabase)
        assert worker.terminate() == 0
