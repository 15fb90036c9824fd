"""Both addresses behind PgBouncer in transaction mode, under load, with a direct address for LISTEN."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pooler
import psycopg
import pytest
from backlog import fill, flip, settled
from oracle import check
from records import add_people, add_slot, company, complete, person, work

from worker.daemon import listener
from worker.postgres.connection import connect
from worker.postgres.pipeline import PREPARE_AFTER
from worker.postgres.pool import Database
from worker.postgres.transaction import COMMIT, begin, send
from worker.supabase.channels import CHANNEL

pytestmark = pytest.mark.skipif(not pooler.installed(), reason="pgbouncer is not installed: apt install pgbouncer")


@pytest.fixture
def behind(prepared, env, databases) -> Iterator[None]:
    with (
        pooler.Pooler(databases.neon_url) as neon,
        pooler.Pooler(databases.supabase_url) as here,
    ):
        env.update(
            NEON_DATABASE_URL=neon.url, SUPABASE_DATABASE_URL=here.url, SUPABASE_LISTEN_URL=databases.supabase_url
        )
        yield


def test_statements_are_prepared_only_where_no_pooler_is_between(prepared, databases) -> None:
    async def prepared_there(url: str) -> int | None:
        async with Database("Neon", url) as database, database.connection() as connection:
            for _ in range(3 * PREPARE_AFTER):
                await send(connection, *begin(), COMMIT)
            cursor = await connection.execute("SELECT count(*) AS n FROM pg_prepared_statements")
            return (await cursor.fetchone())["n"]

    assert anyio.run(prepared_there, databases.neon_url) > 0
    for mode in ("transaction", "session"):
        with pooler.Pooler(databases.neon_url, mode=mode) as between:
            assert anyio.run(prepared_there, between.url) == 0


def test_every_command_works(behind, cli, neon, supabase) -> None:
    assert cli("setup").returncode == 0
    fill(cli, neon, 30)
    flip(supabase, 1, 30)
    done = cli("pipeline", "--yes")
    assert done.returncode == 0, done.stderr
    assert check(neon, supabase)["promoted"] == 27


def test_two_workers_share_a_backlog(behind, env, cli, daemon, neon, supabase, eventually) -> None:
    env["WORKER_BATCH_SIZE"] = "40"
    fill(cli, neon, 2000)
    workers = [daemon(), daemon()]
    flip(supabase, 1, 2000)
    eventually(lambda: settled(supabase), 60)
    assert check(neon, supabase)["promoted"] == 1800
    assert [worker.terminate() for worker in workers] == [0, 0]


def test_refused_records_and_waiting_ones_too(behind, cli, daemon, neon, supabase, eventually) -> None:
    add_people(neon, 1, of=1)
    add_slot(neon, 1, of=1)
    fill(cli, neon, 60)
    daemon()
    complete(supabase, person(1), email="robin@alder.example")
    eventually(lambda: work(supabase, person(1))["waiting_for"])
    supabase.execute("UPDATE company_needs_enrichment SET website = 'https://x.example', enrichment_status = 'complete',"
                     " employee_count = 5 - neon_id % 7")  # fmt: skip
    eventually(lambda: settled(supabase))
    eventually(lambda: work(supabase, person(1))["promoted_at"])
    assert work(supabase, company(6))["enrichment_status"] == "failed"
    assert work(supabase, company(5))["promoted_at"] is not None


def test_a_session_that_listens_no_more_is_told_from_one_that_does(prepared, databases) -> None:
    """A pooler may lend out another session of the server's than the one that was told to LISTEN."""

    async def listening(*statements: str) -> None:
        async with await connect(databases.supabase_url) as ear:
            for statement in statements:
                await ear.execute(statement)
            await listener._prove(ear, CHANNEL)

    anyio.run(listening, f"LISTEN {CHANNEL}")
    with pytest.raises(psycopg.OperationalError, match="does not listen to enrichment_complete any more"):
        anyio.run(listening, f"LISTEN {CHANNEL}", "UNLISTEN *")
