"""A session of the worker's own keeps the settings of its frequent transactions; nothing else is sent under them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pooler
import psycopg
import pytest
from psycopg import sql

from worker.postgres.connection import Connection
from worker.postgres.pool import Database
from worker.postgres.steps import COMMIT, ROLLBACK, begin
from worker.postgres.transaction import begin_and_fetch, fetch_all, fetch_inside, send, transact

NAMES = "lock_timeout", "enable_sort", "plan_cache_mode", "enrichment_worker.writer", "synchronous_commit"
ASK = sql.SQL("SELECT " + ", ".join(f"coalesce(current_setting('{name}', true), '') AS \"{name}\"" for name in NAMES))
OFTEN = begin(lock=0.123, planner=("enable_sort",), planned_once=True, durable=False, kept=True)
ANOTHER = begin(lock=0.456, kept=True)
KEPT = ["123ms", "off", "force_generic_plan", "on", "off"]


@pytest.fixture
def on(databases) -> Callable[[Callable[[Connection], Awaitable[Any]]], Any]:
    """Runs work on a pooled connection, after a transaction that tells whether a pooler is between."""

    async def main(work: Callable[[Connection], Awaitable[Any]], url: str) -> Any:
        async with Database("Neon", url) as database, database.connection() as connection:
            await send(connection, *begin().steps, COMMIT)
            return await work(connection)

    return lambda work, url=databases.neon_url: anyio.run(main, work, url)


async def by_default(connection: Connection) -> list[str]:
    """The settings of a session that keeps none, asked so that nothing changes."""
    other = await psycopg.AsyncConnection.connect(
        connection.info.dsn, password=connection.info.password, autocommit=True
    )
    async with other:
        return list(await (await other.execute(ASK.as_string())).fetchone())[: len(NAMES)]


def values(row: dict[str, Any]) -> list[str]:
    return [row[name] for name in NAMES]


async def now(connection: Connection) -> list[str]:
    """The settings of the session, asked past everything that would change them."""
    cursor = await connection.execute(ASK.as_string())
    return values(await cursor.fetchone())


async def often(connection: Connection) -> dict[str, Any]:
    [result] = await transact(connection, (ASK, {}), opening=OFTEN)
    return result.fetchone()


def test_settings_hold_in_each_transaction_and_between_them(on) -> None:
    async def work(connection):
        said = [await often(connection) for _ in range(3)]
        return [values(row) for row in said], await now(connection)

    assert on(work) == ([KEPT] * 3, KEPT)


def test_a_transaction_that_stays_open_has_them_until_its_end(on) -> None:
    async def work(connection):
        found = []
        for _ in range(2):
            found += await begin_and_fetch(connection, OFTEN, (ASK, {}))
            found += await fetch_inside(connection, ASK, {})
            await send(connection, COMMIT)
        return [values(row) for row in found]

    assert on(work) == [KEPT] * 4


@pytest.mark.parametrize("other", ["a transaction", "one that reads", "a statement of its own", "steps"])
def test_what_else_is_sent_has_none_of_them(on, other) -> None:
    async def work(connection):
        plain = await by_default(connection)
        await often(connection)
        own = ["10s", plain[1], plain[2], "on", plain[4]]
        if other == "a transaction":
            [result] = await transact(connection, (ASK, {}))
            assert values(result.fetchone()) == own
        elif other == "one that reads":
            assert [values(row) for row in await fetch_all(connection, ASK, {})] == [own]
        elif other == "steps":
            results = await send(connection, *begin().steps, (ASK, {}), COMMIT)
            assert values(results[2].fetchone()) == own
        else:
            assert [values(row) for row in await fetch_inside(connection, ASK, {})] == [plain]
        assert await now(connection) == plain
        return values(await often(connection))

    assert on(work) == KEPT


def test_another_kept_opening_replaces_them(on) -> None:
    async def work(connection):
        plain = await by_default(connection)
        await often(connection)
        [result] = await transact(connection, (ASK, {}), opening=ANOTHER)
        assert values(result.fetchone()) == ["456ms", plain[1], plain[2], "on", plain[4]]
        return values(await often(connection))

    assert on(work) == KEPT


@pytest.mark.parametrize("first", [True, False])
def test_a_transaction_that_fails_takes_none_of_them_back(on, first) -> None:
    async def work(connection):
        if not first:
            await often(connection)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await transact(connection, (sql.SQL("SELECT 1 / 0"), None), opening=OFTEN)
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        with pytest.raises(psycopg.errors.DivisionByZero):
            await begin_and_fetch(connection, OFTEN, (sql.SQL("SELECT 1 / 0"), None))
        await send(connection, ROLLBACK)
        return values(await often(connection)), values((await fetch_all(connection, ASK, {}))[0])[0]

    assert on(work) == (KEPT, "10s")


def test_settings_that_the_server_refuses_are_told_and_not_believed(on) -> None:
    refused = begin(lock=0.123, planner=("no_such_setting",), kept=True)

    async def work(connection):
        plain = await by_default(connection)
        await often(connection)
        for _ in range(2):
            with pytest.raises(psycopg.errors.UndefinedObject):
                await transact(connection, (sql.SQL("SELECT 1"), None), opening=refused)
        assert [values(row) for row in await fetch_inside(connection, ASK, {})] == [plain]
        return values(await often(connection))

    assert on(work) == KEPT


@pytest.mark.skipif(not pooler.installed(), reason="pgbouncer is not installed: apt install pgbouncer")
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_poolers_session_keeps_nothing(on, databases, mode) -> None:
    async def work(connection):
        said = [values(await often(connection)) for _ in range(3)]
        return said, (await now(connection))[0]

    with pooler.Pooler(databases.neon_url, mode=mode) as between:
        said, session = on(work, between.url)
    assert said == [KEPT] * 3
    assert session == "0"
