"""What the big statements cost and see: counts from their plans, no times."""

from __future__ import annotations

import asyncio
import json
import re

import anyio
import psycopg
import pytest
from declared import ENTITIES
from psycopg import sql
from records import add_companies, company, complete, edit, work

from bench.link import Links
from worker.neon import settle
from worker.operate import status
from worker.postgres import pool, transaction
from worker.settings import load_settings
from worker.supabase import queue
from worker.sync.databases import open_databases
from worker.sync.deliver import deliver
from worker.sync.pull import pull

RECORDS = 200
"""Looping once over a batch for each of its records would compare 40,000 times."""


@pytest.fixture
def settings(prepared, env, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def plans(monkeypatch):
    """The plans, with counts, of the statements that begin so; each is explained, rolled back, then executed."""
    found = []
    honest = transaction.send

    async def send(connection, *steps, **options):
        cursors = []
        for statement, params in steps:
            text = statement.as_string(connection)
            if re.match(r"\s*(WITH d AS|SELECT s\.nr|INSERT INTO \S*_needs_enrichment)", text):
                explain = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ") + statement
                look, *undo = map(sql.SQL, ("SAVEPOINT look", "ROLLBACK TO look", "RELEASE look"))
                looked = await honest(connection, (look, None), (explain, params), *((step, None) for step in undo))
                found.append(looked[1].fetchone()["QUERY PLAN"][0]["Plan"])
            cursors += await honest(connection, (statement, params), **options)
        return cursors

    class NoConnection(frozenset):
        def add(self, _connection: object) -> None:
            """What is sent one by one is a transaction only with BEGIN and COMMIT."""

    monkeypatch.setattr(transaction, "_IMPLICIT", NoConnection())
    monkeypatch.setattr(transaction, "send", send)
    return found


def discarded(plan) -> float:
    """How many pairs of rows the joins of a plan compared for nothing."""
    here = plan.get("Rows Removed by Join Filter", 0) * plan["Actual Loops"]
    return here + sum(map(discarded, plan.get("Plans", [])))


def read_whole(plan) -> set[str]:
    """The tables that a plan reads from end to end."""
    here = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" and plan["Actual Loops"] else set()
    return here.union(*map(read_whole, plan.get("Plans", [])))


@pytest.mark.parametrize("website", ["https://c.example", "n/a"])
def test_settling_compares_no_record_with_all_others(settings, cli, neon, supabase, plans, website) -> None:
    add_companies(neon, *range(1, RECORDS + 1))
    neon.execute("ANALYZE")
    assert cli("pull").returncode == 0
    supabase.execute("UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = %s", [website])

    async def carry() -> None:
        async with open_databases(settings) as opened:
            await deliver(opened, ENTITIES["company"])

    anyio.run(carry)
    assert [(discarded(plan), read_whole(plan)) for plan in plans] == [(0, set())]


def test_a_pull_compares_no_record_with_all_others(settings, neon, plans) -> None:
    # The first pull goes straight to the empty workspace. The next one finds new records beside old ones, the last none.
    async def bring() -> None:
        async with open_databases(settings) as opened:
            for first in (1, RECORDS + 1, 2 * RECORDS + 1):
                add_companies(neon, *range(first, min(first + RECORDS, 2 * RECORDS + 1)))
                await pull(opened, ENTITIES["company"], full=True)

    anyio.run(bring)
    assert len(plans) == 3
    assert [discarded(plan) for plan in plans] == [0] * 3
    assert set().union(*map(read_whole, plans)) == set()


def test_a_row_edited_while_its_lock_is_awaited_is_read_as_it_is_then(
    settings, cli, databases, neon, supabase, eventually
) -> None:
    add_companies(neon, 1)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="https://before.example")

    async def lock_while_edited() -> queue.Row:
        async with open_databases(settings) as opened, opened.supabase.connection() as here:
            with psycopg.connect(databases.supabase_url) as enricher:
                edit(enricher, company(1), website="https://after.example")
                locking = asyncio.create_task(opened.routes["company"].queue.lock(here, [company(1)]))
                waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                await asyncio.to_thread(eventually, lambda: supabase.execute(waits).fetchone() is not None)
            return (await locking)[company(1)]

    row = anyio.run(lock_while_edited)
    assert row.claimed.data["website"] == "https://after.example"
    assert row.claimed.version == work(supabase, company(1))["updated_at"]
    seal = supabase.execute(
        "SELECT md5(concat_ws('|', %s::text, %s::timestamp::text, %s::jsonb::text)) AS seal",
        [company(1), row.claimed.version, json.dumps(row.claimed.data)],
    ).fetchone()
    assert seal["seal"] == row.claimed.delivery_hash


def test_a_claim_reads_its_batch_and_not_the_queue(settings, supabase) -> None:
    """Also where the statistics are older than the flip, and say that nothing is complete."""
    supabase.execute(
        "INSERT INTO company_needs_enrichment (company_unique_id) SELECT 'k' || i FROM generate_series(1, 5000) i"
    )
    supabase.execute("ANALYZE company_needs_enrichment")
    supabase.execute("UPDATE company_needs_enrichment SET enrichment_status = 'complete'")

    async def read_by_a_claim() -> tuple[int, int]:
        async with open_databases(settings) as opened, opened.supabase.connection() as here:
            batch = await opened.routes["company"].queue.claim(here, 10)
            cursor = await here.execute(
                "SELECT seq_tup_read + idx_tup_fetch AS rows FROM pg_stat_xact_user_tables"
                " WHERE relname = 'company_needs_enrichment'"
            )
            row = await cursor.fetchone()
            assert row is not None
            return len(batch), row["rows"]

    claimed, rows = anyio.run(read_by_a_claim)
    assert claimed == 10
    assert rows <= 100


def test_a_plan_that_is_kept_from_when_the_tables_were_small_reads_no_table_whole(prepared, settings, neon) -> None:
    """What is prepared is planned once, maybe with three rows there, and used with a million."""
    if neon.info.server_version < 160000:
        pytest.skip("EXPLAIN (GENERIC_PLAN) is there from PostgreSQL 16 on")

    async def plan(side: pool.Database, statement: sql.SQL, planner: tuple[str, ...]) -> str:
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement.as_string())))
        text = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement.as_string())
        async with side.connection() as connection:
            await transaction.send(connection, *transaction.begin(planner=planner))
            found = connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN) {text.replace('%%', '%')}".encode())
            assert found.ntuples, found.error_message
            return "\n".join(found.get_value(row, 0).decode() for row in range(found.ntuples))

    async def plans() -> dict[str, str]:
        async with open_databases(settings) as opened:
            found = {}
            for name, route in opened.routes.items():
                how = route.settlement
                for what, statement in (("lock", how.lock), ("plain", how.plain), ("settle", how.settle)):
                    found[f"{name}: {what}"] = await plan(opened.neon, statement, settle.PLANNER)
                for what, step in (
                    ("claim", route.queue._claims["work"]), ("acknowledge", route.workspace._acknowledge)
                ):  # fmt: skip
                    found[f"{name}: {what}"] = await plan(opened.supabase, step, queue.PLANNER)
            return found

    for what, found in anyio.run(plans).items():
        assert "Seq Scan" not in found, f"{what}\n{found}"
        # Of the settlements, those over the slots of one company, and of what is asked for one record.
        assert "Nested Loop  (" not in found or what in ("company: settle", "people: settle", "people: plain"), found
        for line in re.findall(r"Index(?: Only)? Scan (?:using|on) .*\n *(?!.*Cond).*", found):
            assert "queue_idx" in line, f"{what}: an index is read whole\n{found}"


def test_the_page_reads_failed_rows_once_however_many_reasons_there_are(settings, supabase, monkeypatch) -> None:
    """Also of reasons that name a key: they are one reason."""
    supabase.execute(
        "INSERT INTO company_needs_enrichment (company_unique_id, enrichment_status, reason_code, pushed_to_neon_at)"
        " SELECT 'k' || i, 'failed', CASE WHEN i % 10 = 0 THEN 'DUPLICATE k' || i ELSE 'CODE_' || i % 10 END, now()"
        " FROM generate_series(1, 5000) i"
    )
    supabase.execute("ANALYZE company_needs_enrichment")
    sent = []
    honest = status.transact

    async def send(connection, *steps, **options):
        sent.extend(steps)
        return await honest(connection, *steps, **options)

    monkeypatch.setattr(status, "transact", send)

    async def look() -> dict:
        async with open_databases(settings) as opened, opened.supabase.connection() as here:
            return await status.read_status(here, ENTITIES.values())

    reasons = anyio.run(look)["entities"]["company"]["failures"]
    assert {found["reason_code"]: found["records"] for found in reasons} == {
        "DUPLICATE": 500, **{f"CODE_{i}": 500 for i in range(1, 10)}
    }  # fmt: skip
    asked = next(statement for statement, _ in sent if "jsonb_object_keys" in statement.as_string())
    plan = json.dumps(supabase.execute(sql.SQL("EXPLAIN (FORMAT JSON) ") + asked).fetchone())
    assert "company_needs_enrichment_reason_idx" in plan


@pytest.mark.parametrize("records", [1, 500])
@pytest.mark.parametrize(("website", "statements"), [("https://c.example", 8), ("n/a", 10)])
def test_a_batch_costs_three_round_trips_and_few_statements(
    prepared, cli, neon, supabase, monkeypatch, website, statements, records
) -> None:
    """Claim, settle, acknowledge. Each statement is parsed, planned or looked up, executed and answered."""
    add_companies(neon, *range(1, records + 2))
    assert cli("pull").returncode == 0
    flip = "UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = %s WHERE (neon_id = 1) = %s"
    with Links([prepared.neon_url, prepared.supabase_url], delay=0.0, counting=True) as links:
        for name, url in zip(("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL"), links.urls, strict=True):
            monkeypatch.setenv(name, url)

        async def carry() -> tuple[int, list[dict]]:
            async with open_databases(load_settings()) as opened:
                # The first batch finds out that there is no pooler between.
                supabase.execute(flip, [website, True])
                assert (await deliver(opened, opened.entities["company"])).answered == 1
                supabase.execute(flip, [website, False])
                links.order()
                tally = await deliver(opened, opened.entities["company"])
                return tally.answered, links.order()["trips"]

        answered, trips = anyio.run(carry)
    assert answered == records
    assert [trip["link"] for trip in trips] == [1, 0, 1], trips
    assert sum(trip["statements"] for trip in trips) == statements, [trip["text"] for trip in trips]
