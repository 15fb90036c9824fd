"""What commits late in Neon is not lost, whatever role the worker has, and costs little: SPEC 5."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest
from conftest import ROOT, SECRET, Databases, as_role, connect, with_secret
from declared import COMPANY
from embedded import embedded
from psycopg import sql
from records import add_companies, company, edit, invalid, ledger, work
from structlog.testing import capture_logs

from worker.demo.embedded import EmbeddedServer
from worker.domain import horizon
from worker.domain.horizon import Horizon, Observation, OpenTransaction, Since
from worker.domain.pulled import Pulled
from worker.neon import open_transactions
from worker.neon.open_transactions import changed
from worker.settings import load_settings
from worker.supabase.queue import Queue, Row
from worker.sync.databases import open_databases
from worker.sync.pull import pull

LONG_AGO = datetime(2025, 1, 1)
ROLE = "enrichment_worker"
PAUSES = open_transactions.PAUSES


@pytest.fixture(scope="session")
def pg_server(request) -> Iterator[EmbeddedServer]:
    """One that prepares transactions."""
    with embedded(request.param, max_prepared_transactions="20") as server:
        yield server


@pytest.fixture(scope="session")
def templates(pg_server) -> Databases:
    """Two databases after ``setup`` and ``sql/roles/``."""
    for name in ("neon_set_up", "supabase_set_up"):
        pg_server.create_database(name)
    urls = Databases(pg_server.url("neon_set_up"), pg_server.url("supabase_set_up"))
    subprocess.run(
        [sys.executable, "-m", "worker", "setup"], cwd=ROOT, check=True, capture_output=True,
        env={"NEON_DATABASE_URL": urls.neon_url, "SUPABASE_DATABASE_URL": urls.supabase_url},
    )  # fmt: skip
    for url, side in ((urls.neon_url, "neon"), (urls.supabase_url, "supabase")):
        with connect(url) as owner:
            owner.execute((ROOT / "sql/roles" / f"{side}.sql").read_text())
    return urls


@pytest.fixture
def databases(pg_server, templates) -> Iterator[Databases]:
    number = secrets.token_hex(4)
    for side in ("neon", "supabase"):
        pg_server.create_database(f"{side}_{number}", template=f"{side}_set_up")
    yield Databases(pg_server.url(f"neon_{number}"), pg_server.url(f"supabase_{number}"))
    with connect(pg_server.url()) as admin:
        for side in ("neon", "supabase"):
            admin.execute(f"DROP DATABASE {side}_{number} WITH (FORCE)")


@pytest.fixture(params=["the owner", "the least-privileged role"])
def pulled(request, databases, env, monkeypatch) -> Callable[..., Pulled]:
    """Pulls companies, as the one and as the other."""
    urls = [databases.neon_url, databases.supabase_url]
    if request.param != "the owner":
        urls = [as_role(url, ROLE, SECRET) for url in urls]
    env.update(NEON_DATABASE_URL=with_secret(urls[0]), SUPABASE_DATABASE_URL=with_secret(urls[1]))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(open_transactions, "PAUSES", PAUSES[:1])  # most transactions here outlive any wait

    async def once(batch_size: int | None, options: dict[str, Any]) -> Pulled:
        async with open_databases(load_settings(), batch_size=batch_size) as opened:
            done = await pull(opened, COMPANY, **options)
            assert done is not None
            return done

    def now(*, batch_size: int | None = None, **options: Any) -> Pulled:
        return anyio.run(once, batch_size, options)

    return now


@contextmanager
def transaction(databases: Databases) -> Iterator[psycopg.Connection]:
    """Somebody else's transaction in Neon, with nothing written yet."""
    with closing(psycopg.connect(databases.neon_url)) as other:
        other.execute("SET TimeZone = 'UTC'")
        other.commit()
        other.execute("SELECT now()")
        yield other


def remembered(supabase) -> list[dict[str, Any]]:
    row = supabase.execute("SELECT open_transactions FROM enrichment_pull_position WHERE entity = 'company'").fetchone()
    return row["open_transactions"]["open"]


def change(other: psycopg.Connection, number: int, *, dated: datetime | None) -> None:
    other.execute("UPDATE marketing.company_invalid SET city = 'Late', updated_at = %s WHERE company_unique_id = %s",
                  [dated, company(number)])  # fmt: skip


def new(other: psycopg.Connection, number: int, *, dated: datetime | None) -> None:
    add_companies(other, number, city="Late", updated_at=dated)


# -- somebody's transaction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "dated"), [(change, LONG_AGO), (new, LONG_AGO), (new, None)],
                         ids=["a change, dated long ago", "a new record, dated long ago", "a new record without a date"])  # fmt: skip
@pytest.mark.parametrize("begun", ["before any pull", "after a pull, and it writes at once",
                                   "after a pull, and it writes late", "by writing elsewhere"])  # fmt: skip
def test_what_commits_after_pulls_that_it_began_before_comes_with_the_next(
    pulled, databases, neon, supabase, write, dated, begun
) -> None:
    add_companies(neon, 1, 2, 3, updated_at=LONG_AGO)
    if begun != "before any pull":
        pulled()
    number = 9 if write is new else 2
    with transaction(databases) as late:
        if begun == "by writing elsewhere":
            late.execute("CREATE TABLE theirs ()")
        elif begun != "after a pull, and it writes late":
            write(late, number, dated=dated)
        pulled()
        if begun in ("by writing elsewhere", "after a pull, and it writes late"):
            write(late, number, dated=dated)
        # Its id is below the highest one, whatever is pulled meanwhile.
        add_companies(neon, 10, updated_at=LONG_AGO)
        assert pulled().new == 1
        late.commit()
    done = pulled()
    assert (done.new, done.changed, done.full) == ((1, 0, False) if write is new else (0, 1, False))
    assert work(supabase, company(number))["city"] == "Late"
    assert remembered(supabase) == []
    assert pulled().seen == 0


def test_what_is_dated_by_the_beginning_of_its_transaction_comes_however_long_that_was(
    pulled, databases, neon, supabase, eventually
) -> None:
    add_companies(neon, 1, 2, updated_at=LONG_AGO)
    pulled()
    with transaction(databases) as late:
        late.execute("UPDATE marketing.company_invalid SET city = 'Late', updated_at = now()"
                     " WHERE company_unique_id = %s", [company(2)])  # fmt: skip
        # Longer than any margin that a pull leaves between now and its position.
        eventually(lambda: late.execute("SELECT clock_timestamp() > now() + interval '3 seconds'").fetchone()[0])
        pulled()
        pulled()
        late.commit()
    assert pulled().changed == 1
    assert work(supabase, company(2))["city"] == "Late"


def test_a_transaction_that_is_hidden_from_the_worker_is_hidden(databases, neon) -> None:
    """What the tests here stand on: the role of ``sql/roles/neon.sql`` does not see since when it is open."""
    with transaction(databases) as late, connect(as_role(databases.neon_url, ROLE, SECRET)) as worker:
        seen = worker.execute("SELECT * FROM pg_stat_activity WHERE pid = %s", [late.info.backend_pid]).fetchone()
    assert (seen["xact_start"], seen["state"], seen["backend_type"], seen["backend_xid"]) == (None,) * 4


def test_what_savepoints_wrote_and_what_was_frozen_at_once_comes_too(pulled, databases, neon, supabase) -> None:
    add_companies(neon, *range(1, 6), updated_at=LONG_AGO)
    pulled()
    with transaction(databases) as late:
        change(late, 1, dated=LONG_AGO)
        with late.transaction():
            change(late, 2, dated=LONG_AGO)
        pulled()
        with late.transaction():
            change(late, 3, dated=LONG_AGO)
        late.execute("SAVEPOINT lost")
        change(late, 4, dated=LONG_AGO)
        late.execute("ROLLBACK TO lost")
        late.commit()
    neon.execute("VACUUM (FREEZE) marketing.company_invalid")
    assert pulled().changed == 3
    assert [work(supabase, company(n))["city"] for n in range(1, 6)] == ["Late", "Late", "Late", None, None]


def test_what_rolled_back_costs_the_rows_written_since_it_began(pulled, databases, neon, supabase) -> None:
    add_companies(neon, *range(1, 50), updated_at=LONG_AGO)
    pulled()
    with transaction(databases) as late:
        change(late, 1, dated=LONG_AGO)
        pulled()
        add_companies(neon, 50, updated_at=LONG_AGO)
        late.rollback()
    assert pulled().seen == 1
    assert remembered(supabase) == []


def test_a_transaction_that_lies_idle_is_named_once_and_costs_nothing(cli, pulled, databases, neon, supabase) -> None:
    add_companies(neon, *range(1, 50), updated_at=LONG_AGO)
    with transaction(databases) as idle, capture_logs() as told:
        change(idle, 3, dated=LONG_AGO)
        pulled()
        for number in range(50, 53):
            add_companies(neon, number, updated_at=LONG_AGO)
            done = pulled()
            assert (done.seen, done.new) == (1, 1)
        process = f"process {idle.info.backend_pid}"
        assert [one["transaction"] for one in done.open_transactions] == [process]
        named = [one for one in told if one["event"] == "pull.open_transaction"]
        assert [(one["transaction"], one["entity"]) for one in named] == [(process, "company")]
        since = datetime.fromisoformat(named[0]["since"])
        assert abs(datetime.now(UTC) - since) < timedelta(hours=1)
        line = f"open in Neon since {named[0]['since']} at the latest: {process};"
        for command in ("pull", "status"):
            assert line in cli(command).stdout
        idle.commit()
    assert pulled().changed == 1
    for command in ("pull", "status"):
        assert "open in Neon" not in cli(command).stdout


def test_transactions_of_another_database_are_not_waited_for(pulled, pg_server, neon, supabase) -> None:
    add_companies(neon, 1, updated_at=LONG_AGO)
    with closing(psycopg.connect(pg_server.url())) as other:
        other.execute("CREATE TABLE elsewhere ()")
        pulled()
        assert remembered(supabase) == []
        add_companies(neon, 2, updated_at=LONG_AGO)
        assert pulled().seen == 1
        other.rollback()


def test_an_ordinary_load_of_short_transactions_makes_no_pull_read_again(
    pulled, databases, neon, supabase, monkeypatch
) -> None:
    monkeypatch.setattr(open_transactions, "PAUSES", PAUSES)
    add_companies(neon, *range(1, 50), updated_at=LONG_AGO)
    neon.execute("CREATE TABLE theirs (n integer); INSERT INTO theirs SELECT generate_series(1, 4)")
    pulled()
    done = threading.Event()

    def load(number: int) -> None:
        with closing(psycopg.connect(databases.neon_url)) as other:
            while not done.wait(0.001):
                with other.transaction():
                    other.execute("UPDATE theirs SET n = n WHERE n = %s", [number])
                    other.execute("SELECT pg_sleep(0.01)")

    with ExitStack() as stack:
        for number in range(1, 4):
            thread = threading.Thread(target=load, args=[number])
            thread.start()
            stack.callback(thread.join)
        stack.callback(done.set)
        for number in range(50, 54):
            add_companies(neon, number, updated_at=LONG_AGO)
            assert pulled().seen == 1
            assert remembered(supabase) == []


def test_of_many_writers_that_commit_at_any_moment_of_many_pulls_nothing_is_lost(
    pulled, databases, neon, supabase
) -> None:
    """New records that no date tells of, by transactions that take their ids and commit in any order."""
    add_companies(neon, 1, updated_at=LONG_AGO)
    pulled()
    done, numbers = threading.Event(), iter(range(2, 90_000))

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with closing(psycopg.connect(databases.neon_url)) as other:
            while not done.is_set():
                for _ in range(chance.randint(1, 3)):
                    new(other, next(numbers), dated=LONG_AGO)
                    done.wait(chance.choice([0, 0, 0.005, 0.05, 0.5]))
                chance.choice([other.commit, other.commit, other.rollback])()
            other.commit()

    with ExitStack() as stack:
        for seed in range(4):
            writer = threading.Thread(target=write, args=[seed])
            writer.start()
            stack.callback(writer.join)
        stack.callback(done.set)
        for _ in range(8):
            assert not pulled().full
    pulled()
    there = neon.execute("SELECT id FROM marketing.company_invalid ORDER BY id").fetchall()
    here = supabase.execute("SELECT neon_id AS id FROM company_needs_enrichment ORDER BY neon_id").fetchall()
    assert here == there


# -- prepared transactions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", ["before any pull", "between two pulls", "and seen open"])
def test_what_a_prepared_transaction_wrote_comes_when_it_commits(pulled, databases, neon, supabase, begun) -> None:
    add_companies(neon, 1, 2, 3, updated_at=LONG_AGO)
    if begun != "before any pull":
        pulled()
    gid = f"theirs {secrets.token_hex(4)}\n"
    with transaction(databases) as late:
        change(late, 2, dated=LONG_AGO)
        new(late, 9, dated=None)
        if begun == "and seen open":
            pulled()
        late.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))
        late.commit()
    try:
        pulled()
        add_companies(neon, 10, updated_at=LONG_AGO)
        done = pulled()
        assert (done.seen, done.new) == (1, 1)
        xid = neon.execute("SELECT transaction::text AS xid FROM pg_prepared_xacts WHERE gid = %s", [gid]).fetchone()
        assert [one["transaction"] for one in done.open_transactions] == [f"prepared transaction {xid['xid']}"]
    finally:
        neon.execute(sql.SQL("COMMIT PREPARED {}").format(gid))
    done = pulled()
    assert (done.new, done.changed) == (1, 1)
    assert work(supabase, company(2))["city"] == work(supabase, company(9))["city"] == "Late"
    assert remembered(supabase) == []


def test_a_prepared_transaction_of_another_database_is_not_waited_for(pulled, pg_server, neon, supabase) -> None:
    add_companies(neon, 1, updated_at=LONG_AGO)
    gid = f"elsewhere {secrets.token_hex(4)}"
    with connect(pg_server.url()) as other:
        other.execute("BEGIN")
        other.execute("CREATE TABLE elsewhere ()")
        other.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))
        try:
            assert pulled().open_transactions == remembered(supabase) == []
        finally:
            other.execute(sql.SQL("ROLLBACK PREPARED {}").format(gid))


def test_a_transaction_that_is_prepared_while_a_pull_waits_for_its_end_is_not_forgotten(
    pulled, databases, neon, supabase, eventually
) -> None:
    add_companies(neon, 1, 2, updated_at=LONG_AGO)
    pulled()
    gid = f"theirs {secrets.token_hex(4)}"
    look, prepare = open_transactions.observe, sql.SQL("PREPARE TRANSACTION {}").format(gid)
    with transaction(databases) as late:
        change(late, 2, dated=LONG_AGO)

        async def looked(*of: Any) -> Observation:
            seen = await look(*of)
            if late.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                late.execute(prepare)
                late.commit()
            return seen

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(open_transactions, "observe", looked)
            pulled()
    pulled()
    neon.execute(sql.SQL("COMMIT PREPARED {}").format(gid))
    assert pulled().changed == 1


# -- servers that end ----------------------------------------------------------------------------------------------


@pytest.fixture
def restarted(pg_server) -> Callable[[], None]:
    def again() -> None:
        pg_server.stop("immediate")
        pg_server.start()

    return again


def test_after_a_restart_of_neon_its_transactions_are_gone_and_prepared_ones_are_not(
    pulled, databases, restarted
) -> None:
    gid = f"theirs {secrets.token_hex(4)}"
    with connect(databases.neon_url) as neon:
        add_companies(neon, 1, 2, 3, updated_at=LONG_AGO)
        pulled()
        with ExitStack() as stack:
            late, unfinished, prepared = (stack.enter_context(transaction(databases)) for _ in range(3))
            change(late, 1, dated=LONG_AGO)
            change(unfinished, 2, dated=LONG_AGO)
            change(prepared, 3, dated=LONG_AGO)
            prepared.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))
            prepared.commit()
            assert len(pulled().open_transactions) == 3
            late.commit()
            restarted()
    with connect(databases.neon_url) as neon, connect(databases.supabase_url) as supabase:
        done = pulled()
        assert (done.changed, len(done.open_transactions)) == (1, 1)
        neon.execute(sql.SQL("COMMIT PREPARED {}").format(gid))
        assert pulled().changed == 1
        assert [work(supabase, company(n))["city"] for n in (1, 2, 3)] == ["Late", None, "Late"]


def test_a_neon_whose_transactions_are_numbered_anew_is_compared_as_a_whole(pulled, neon, supabase) -> None:
    add_companies(neon, 1, updated_at=LONG_AGO)
    pulled()
    supabase.execute("UPDATE enrichment_pull_position SET open_transactions ="
                     " jsonb_set(open_transactions, '{next_xid}', '4000000000')")  # fmt: skip
    assert pulled().full
    assert not pulled().full


# -- a worker of release 0.1.0 -------------------------------------------------------------------------------------


def test_after_a_pull_of_another_release_all_is_compared_once(pulled, neon, supabase) -> None:
    """It does not say what was open."""
    add_companies(neon, 1, updated_at=LONG_AGO)
    pulled()
    supabase.execute(
        "UPDATE enrichment_pull_position SET position = now() AT TIME ZONE 'UTC', last_run_id = 'PULL-old'"
    )
    add_companies(neon, 2, id=-1, updated_at=LONG_AGO)
    done = pulled()
    assert (done.full, done.new) == (True, 1)
    supabase.execute("UPDATE enrichment_pull_position SET open_transactions = NULL")
    assert pulled().full
    assert not pulled().full


# -- between the look, the rows and the position -------------------------------------------------------------------


def test_what_commits_between_the_rows_and_the_position_comes_with_the_next_pull(
    pulled, databases, neon, supabase, eventually
) -> None:
    add_companies(neon, 1, 2, updated_at=LONG_AGO)
    pulled()
    add_companies(neon, 3)
    supabase.execute("CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                     " PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;"
                     "CREATE TRIGGER pause AFTER INSERT ON company_needs_enrichment EXECUTE FUNCTION pause()")  # fmt: skip
    waits = "SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
    pulling = threading.Thread(target=pulled)
    with connect(databases.supabase_url) as holder:
        holder.execute("SELECT pg_advisory_lock(7)")
        pulling.start()
        eventually(lambda: supabase.execute(waits).rowcount)
        add_companies(neon, 4, updated_at=LONG_AGO)
        holder.execute("SELECT pg_advisory_unlock(7)")
        pulling.join()
    assert pulled().new == 1
    assert work(supabase, company(4))["neon_id"] == invalid(neon, company(4))["id"]


@pytest.mark.parametrize("found", ["by its date", "by its late transaction"])
def test_a_row_that_an_enricher_held_is_brought_by_the_pull_after_he_let_go(
    pulled, databases, neon, supabase, found
) -> None:
    add_companies(neon, 1, 2, updated_at=LONG_AGO)
    pulled()
    with ExitStack() as stack:
        enricher = stack.enter_context(psycopg.connect(databases.supabase_url))
        enricher.execute("SELECT FROM company_needs_enrichment WHERE company_unique_id = %s FOR UPDATE", [company(1)])
        if found == "by its date":
            # As if the last pull had been an hour ago.
            supabase.execute("UPDATE enrichment_pull_position SET position = position - interval '1 hour'")
            change(neon, 1, dated=datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=30))
        else:
            late = stack.enter_context(transaction(databases))
            change(late, 1, dated=LONG_AGO)
            pulled()
            late.commit()
        for _ in range(2):
            done = pulled()
            assert (done.seen, done.changed, done.full) == (1, 0, False)
    done = pulled()
    assert (done.changed, done.full) == (1, False)
    assert work(supabase, company(1))["city"] == "Late"
    assert pulled().seen == 0


def test_a_day_after_the_last_full_comparison_the_next_is_due(pulled, neon, supabase) -> None:
    add_companies(neon, 1, updated_at=LONG_AGO)
    pulled()
    change(neon, 1, dated=LONG_AGO)
    supabase.execute("UPDATE enrichment_pull_position SET last_full_at = last_full_at - interval '23 hours'")
    done = pulled()
    assert (done.full, done.changed) == (False, 0)
    supabase.execute("UPDATE enrichment_pull_position SET last_full_at = last_full_at - interval '1 hour'")
    done = pulled()
    assert (done.full, done.changed) == (True, 1)
    assert not pulled().full


def test_a_sessions_next_transaction_is_not_taken_for_the_one_that_ended(pulled, databases, neon, supabase) -> None:
    add_companies(neon, 1, updated_at=LONG_AGO)
    pulled()
    with transaction(databases) as session:
        change(session, 1, dated=LONG_AGO)
        assert pulled().changed == 0
        session.commit()
        session.execute("SELECT now()")
        assert pulled().changed == 1
    assert work(supabase, company(1))["city"] == "Late"


def test_a_full_comparison_that_passed_over_a_held_row_is_still_due(pulled, databases, neon, supabase) -> None:
    """What changed in Neon without a new date is found by a full comparison only."""
    add_companies(neon, 1, updated_at=LONG_AGO)
    pulled()
    change(neon, 1, dated=LONG_AGO)
    supabase.execute("UPDATE enrichment_pull_position SET last_full_at = last_full_at - interval '24 hours'")
    with psycopg.connect(databases.supabase_url) as enricher:
        enricher.execute("SELECT FROM company_needs_enrichment WHERE company_unique_id = %s FOR UPDATE", [company(1)])
        done = pulled()
        assert (done.full, done.changed) == (True, 0)
    done = pulled()
    assert (done.full, done.changed) == (True, 1)
    assert work(supabase, company(1))["city"] == "Late"
    assert not pulled().full


# -- an enricher who is quicker than the pull ----------------------------------------------------------------------


@pytest.fixture
def flips(supabase) -> Callable[[str], None]:
    """Has an enricher complete one of the companies 1 and 2 in the moment in which the pull has done the other."""

    def on(event: str) -> None:
        supabase.execute(
            "CREATE FUNCTION flip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM set_config('enrichment_worker.writer', 'off', true);"
            " UPDATE public.company_needs_enrichment SET website = 'https://mine.example', enrichment_status = 'complete'"
            f" WHERE company_unique_id IN ('{company(1)}', '{company(2)}')"
            " AND company_unique_id <> OLD.company_unique_id AND OLD.enrichment_status <> 'complete';"
            " PERFORM set_config('enrichment_worker.writer', 'on', true); RETURN NULL; END $$;"
            f"CREATE TRIGGER flip AFTER {event} ON company_needs_enrichment FOR EACH ROW"
            " WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION flip()"
        )

    return on


def the_queued(supabase) -> dict[str, Any]:
    (row,) = supabase.execute("SELECT * FROM company_needs_enrichment WHERE enrichment_status = 'complete'").fetchall()
    return row


def test_a_row_that_was_queued_before_the_pull_came_to_it_is_left_to_its_delivery(
    pulled, neon, supabase, flips
) -> None:
    add_companies(neon, 1, 2, updated_at=LONG_AGO)
    pulled()
    flips("UPDATE")
    for number in (1, 2):
        change(neon, number, dated=datetime(2099, 1, 1))
    done = pulled(batch_size=1)
    assert (done.seen, done.changed) == (2, 1)
    row = the_queued(supabase)
    assert (row["city"], row["website"]) == (None, "https://mine.example")
    assert row["neon_snapshot"]["city"] is None
    assert row["pushed_to_neon_at"] is None
    assert ledger(neon, row["company_unique_id"]) == []


def test_a_row_that_was_queued_before_the_pull_withdrew_it_stays(pulled, neon, supabase, flips) -> None:
    add_companies(neon, 1, 2, 3, updated_at=LONG_AGO)
    pulled()
    flips("DELETE")
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = ANY(%s)", [[company(1), company(2)]])
    done = pulled(full=True, batch_size=1)
    assert (done.withdrawn, done.orphaned) == (1, 0)
    row = the_queued(supabase)
    assert row["website"] == "https://mine.example"
    assert ledger(neon, row["company_unique_id"]) == []


def test_a_record_that_comes_back_in_the_moment_of_its_withdrawal_keeps_its_row(
    pulled, neon, supabase, monkeypatch
) -> None:
    """After the pull has missed it, and before it has the row."""
    add_companies(neon, 1, 2, updated_at=LONG_AGO)
    pulled()
    neon.execute("DELETE FROM marketing.company_invalid")
    lock = Queue.lock

    async def late(*arguments: Any, **options: Any) -> dict[str, Row]:
        if invalid(neon, company(1)) is None:
            add_companies(neon, 1, updated_at=LONG_AGO)
        return await lock(*arguments, **options)

    monkeypatch.setattr(Queue, "lock", late)
    assert pulled(full=True).withdrawn == 1
    assert work(supabase, company(1))["enrichment_status"] == "pending"
    assert ledger(neon, company(1)) == []


@pytest.mark.parametrize("kept", [{"enrichment_notes": "asked them by phone"}, {"enrichment_status": "in_progress"}])
def test_a_row_whose_record_left_stays_where_somebody_has_only_noted_something_or_begun(
    pulled, neon, supabase, kept
) -> None:
    add_companies(neon, 1, 2, updated_at=LONG_AGO)
    pulled()
    edit(supabase, company(1), **kept)
    neon.execute("DELETE FROM marketing.company_invalid")
    done = pulled(full=True)
    assert (done.withdrawn, done.orphaned) == (1, 1)
    row = work(supabase, company(1))
    assert {name: row[name] for name in kept} == kept
    assert "left" in row["sync_note"]
    assert ledger(neon, company(1)) == []


# -- the pure part -------------------------------------------------------------------------------------------------

AT = datetime(2026, 11, 26, 12)


def one(who: str, xid: int, *, since: str = "then", prepared: bool = False) -> OpenTransaction:
    return OpenTransaction(who, xid, f"the {who}", since, prepared)


def seen(*some: OpenTransaction, next_xid: int = 1000, at: datetime = AT) -> Observation:
    return Observation(at, 77, next_xid, some)


def test_where_nothing_is_known_all_is_read_and_what_is_open_is_remembered() -> None:
    since, reached = horizon.advance(None, seen(one("a", 900)), seen(one("a", 900)))
    assert since is None
    assert reached == Horizon(AT - horizon.MARGIN, 77, 1000, (one("a", 900),))


def test_the_next_pull_starts_at_the_first_look_and_not_at_the_last() -> None:
    before = Horizon(AT, 5, 900)
    _, reached = horizon.advance(before, seen(), seen(at=AT + timedelta(seconds=1)))
    assert (reached.position, reached.last_id) == (AT - horizon.MARGIN, 77)


def test_who_began_after_the_first_look_or_ended_by_the_last_is_not_remembered() -> None:
    before = Horizon(AT, 5, 900)
    since, reached = horizon.advance(before, seen(one("ended", 950)), seen(one("began", 980)))
    assert (since, reached.open) == (Since(AT, 5, None), ())


def test_who_was_prepared_by_the_last_look_is_remembered_though_the_first_had_him_by_another_name() -> None:
    prepared = one("prepared 950 x", 950, prepared=True)
    _, reached = horizon.advance(Horizon(AT, 5, 900), seen(one("a", 950)), seen(prepared))
    assert reached.open == (prepared,)


def test_when_one_is_gone_all_is_read_that_was_written_since_the_first_of_the_gone() -> None:
    before = Horizon(AT, 5, 900, (one("stays", 10), one("a", 800), one("b", 700)))
    since, reached = horizon.advance(before, seen(one("stays", 10)), seen(one("stays", 10)))
    assert since == Since(AT, 5, 700)
    assert reached.open == (one("stays", 10),)


def test_who_has_written_nothing_yet_is_looked_for_from_where_it_did_not() -> None:
    """The xid that it may get grows with each look; the time since when it is open stays as first seen."""
    before = Horizon(AT, 5, 900, (one("a", 900, since="first"),))
    look = seen(one("a", 1000, since="second"))
    since, reached = horizon.advance(before, look, look)
    assert since == Since(AT, 5, None)
    assert reached.open == (one("a", 1000, since="first"),)


def test_to_read_again_is_to_remember_both_what_was_open_and_what_is() -> None:
    before = Horizon(AT, 5, 900, (one("a", 800), one("gone", 700)))
    reached = Horizon(AT + timedelta(hours=1), 9, 1000, (one("a", 850), one("b", 990)))
    again = reached.to_repeat(before)
    assert again == replace(before, next_xid=1000, open=again.open)
    assert set(again.open) == {one("a", 800), one("gone", 700), one("b", 990)}
    assert reached.to_repeat(None) is None


def test_what_is_kept_as_json_is_recalled() -> None:
    reached = Horizon(AT, 5, 2**40, (one("a", 2**40 - 1), one("b", 3, prepared=True)))
    assert horizon.recall(AT, 5, {"run_id": "x", **reached.as_json()}) == reached
    assert horizon.recall(AT, None, {}) == Horizon(AT, 0)
    assert horizon.recall(None, None, {}) is None


def holder(vxid: str, *xids: int, here: bool | None = True) -> dict[str, Any]:
    return {"pid": 7, "vxid": vxid, "since": None, "here": here, "xids": list(xids)}


@pytest.mark.parametrize(
    ("running", "holders", "expected"),
    [
        ([], [holder("1/1")], [1000]),  # it has no number: whatever it gets is not given yet
        ([950], [holder("1/1", 952, 950, 951)], [950]),  # the first of its savepoints' numbers is its own
        ([950, 960], [holder("1/1", 950), holder("1/2")], [950, 960]),  # it holds no lock on its number yet
        ([950, 960], [holder("1/1", 950, here=None), holder("1/2"), holder("1/3", 960, here=False)], [1000]),
        ([950], [holder("1/1"), holder("-1/950", 950, here=None)], [1000]),  # that number is a prepared one's
        ([], [holder("1/1", 1002)], [1002]),  # it got it after the numbers were read
    ],
)
def test_the_number_from_which_on_a_transactions_rows_are_looked_for(running, holders, expected) -> None:
    for epoch in (0, 2**32, 9 * 2**32):
        some = horizon.list_open("s", AT, epoch + 1000, [epoch + x for x in running], holders, [])
        assert [one.xid for one in some] == [epoch + x for x in expected]


def test_numbers_of_before_the_turn_of_the_32_bits_are_known_as_that() -> None:
    late = {"xid": 2**32 - 5, "gid": "g", "since": AT}
    some = horizon.list_open("s", AT, 2**32 + 10, [2**32 - 9], [holder("1/1", 2**32 - 9)], [late])
    assert [one.xid for one in some] == [2**32 - 9, 2**32 - 5]
    assert "'9'::xid" in changed(Since(AT, 1, 2**32 + 9)).as_string()
