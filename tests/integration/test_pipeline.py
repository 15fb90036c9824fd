"""Statements sent together: one answer each, the first error raised, the connection usable for the next or closed."""

from __future__ import annotations

import gc
from datetime import datetime

import anyio
import psycopg
import pytest
from psycopg import sql
from psycopg.adapt import Loader

from worker.postgres.connection import within
from worker.postgres.errors import Kind, kind_of
from worker.postgres.pipeline import PREPARE_AFTER, exchange
from worker.postgres.pool import Database
from worker.postgres.transaction import COMMIT, begin, send

MEGABYTES = 8


@pytest.fixture
def on(databases):
    """Runs a coroutine function with a pooled connection."""

    def run(work):
        async def connected():
            async with Database("Neon", databases.neon_url) as database, database.connection() as connection:
                return await work(connection)

        return anyio.run(connected)

    return run


def step(text: str, **params: object) -> tuple[sql.SQL, dict[str, object] | None]:
    return sql.SQL(text), params or None


ROLLBACK = step("ROLLBACK")


def test_every_statement_has_its_own_result(on) -> None:
    async def work(connection):
        return await send(
            connection,
            step("CREATE TEMP TABLE t (n int, word text)"),
            step("INSERT INTO t SELECT n, %(word)s FROM generate_series(1, 3) n", word="a"),
            step("UPDATE t SET word = 'b' WHERE n > %(n)s", n=1),
            step("SELECT n, word AS say FROM t ORDER BY n"),
            step("SELECT n FROM t WHERE false"),
        )

    made, inserted, updated, rows, none = on(work)
    assert (inserted.rowcount, updated.rowcount, rows.rowcount, none.rowcount) == (3, 2, 3, 0)
    assert made.columns == []
    assert rows.fetchall() == [{"n": 1, "say": "a"}, {"n": 2, "say": "b"}, {"n": 3, "say": "b"}]
    assert rows.fetchone() == {"n": 1, "say": "a"}
    assert none.fetchall() == []
    assert none.fetchone() is None


def test_placeholders_are_psycopgs(on) -> None:
    async def work(connection):
        results = await send(
            connection,
            step("SELECT %(a)s || %(b)s || %(a)s AS said, 7 %% 4 AS rest, 'x' LIKE '%%' AS like", a="é%s", b="%(a)s"),
            step("SELECT 7 % 4 AS rest, '%(a)s' AS said"),
            step("SELECT %(none)s::text AS none, %(keys)s::text[] AS keys", none=None, keys=["a", 'b,"c']),
        )
        return [result.fetchone() for result in results]

    assert on(work) == [
        {"said": "é%s%(a)sé%s", "rest": 3, "like": True},
        {"rest": 3, "said": "%(a)s"},
        {"none": None, "keys": ["a", 'b,"c']},
    ]


def test_the_first_error_is_told_and_what_comes_after_is_not_run(on) -> None:
    async def work(connection):
        await send(connection, step("CREATE TEMP TABLE t (n int)"))
        with pytest.raises(psycopg.errors.DivisionByZero):
            await send(
                connection,
                *begin(),
                step("INSERT INTO t VALUES (1)"),
                step("SELECT 1 / 0"),
                step("SELECT nothing"),
                COMMIT,
            )
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
        await send(connection, ROLLBACK)
        return (await send(connection, step("SELECT count(*) AS n FROM t")))[0].fetchone()

    assert on(work) == {"n": 0}


def test_an_error_at_the_end_is_told(on) -> None:
    async def work(connection):
        await send(connection, step("CREATE TEMP TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        with pytest.raises(psycopg.errors.UniqueViolation):
            await send(connection, *begin(), step("INSERT INTO t VALUES (1), (1)"), COMMIT)
        return connection.info.transaction_status

    assert on(work) is psycopg.pq.TransactionStatus.IDLE


def test_a_session_that_is_ended_says_why(on) -> None:
    async def work(connection):
        with pytest.raises(psycopg.errors.AdminShutdown) as ended:
            await send(
                connection, *begin(), step("SELECT pg_terminate_backend(pg_backend_pid())"), step("SELECT 1"), COMMIT
            )
        assert connection.closed
        assert ended.value.database == "Neon"
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await send(connection, *begin())

    on(work)


def test_a_link_that_is_cut_ends_the_wait(on) -> None:
    async def work(connection):
        with pytest.raises(psycopg.OperationalError):
            await send(connection, step("SELECT pg_sleep(60)"), seconds=0.05)
        assert connection.closed

    on(work)


def test_large_values_go_both_ways_at_once(on) -> None:
    """Both sides' buffers are full: who only writes waits for ever for one who only writes."""

    async def work(connection):
        large = "x" * (MEGABYTES * 2**20)
        with within(connection, 60):
            results = await exchange(connection, [("SELECT %(large)s::text AS large", {"large": large})] * 4)
        return [result.fetchone()["large"] == large for result in results]

    assert on(work) == [True] * 4


def test_what_cannot_be_sent_leaves_the_connection_usable(on) -> None:
    async def work(connection):
        with pytest.raises(psycopg.ProgrammingError):
            await send(connection, step("SELECT 1"), step("SELECT %(what)s", what=object()))
        return (await send(connection, step("SELECT 2 AS n")))[0].fetchone()

    assert on(work) == {"n": 2}


async def prepared(connection) -> list[str]:
    cursor = await connection.execute("SELECT statement FROM pg_prepared_statements ORDER BY statement")
    return [row["statement"] for row in await cursor.fetchall()]


def test_what_is_sent_often_is_prepared_once_for_each_sort_of_parameters(on) -> None:
    async def work(connection):
        await send(connection, *begin(), COMMIT)  # tells that no pooler is between
        said = [
            (await send(connection, step("SELECT %(value)s AS said", value=value)))[0].fetchone()["said"]
            for _ in range(2 * PREPARE_AFTER)
            for value in ("a", 1, None)
        ]
        assert said == ["a", 1, None] * 2 * PREPARE_AFTER
        return [text for text in await prepared(connection) if "said" in text]

    assert on(work) == ["SELECT $1 AS said"] * 2  # text, whose type is unknown as that of NULL is; number


def test_a_statement_that_could_not_be_prepared_is_prepared_when_it_can(on) -> None:
    async def work(connection):
        await send(connection, *begin(), COMMIT)
        ask = step("SELECT n FROM late")
        for _ in range(2 * PREPARE_AFTER):
            with pytest.raises(psycopg.errors.UndefinedTable):
                await send(connection, ask)
        # In a transaction that an earlier statement broke, nothing is prepared either.
        other = step("SELECT 1 AS one")
        for _ in range(2 * PREPARE_AFTER):
            with pytest.raises(psycopg.errors.UndefinedTable):
                await send(connection, ask, other)
        await send(connection, step("CREATE TEMP TABLE late AS SELECT 5 AS n"))
        found = [(await send(connection, ask, other))[0].fetchone() for _ in range(2 * PREPARE_AFTER)]
        assert found == [{"n": 5}] * len(found)
        return await prepared(connection)

    texts = on(work)
    assert "SELECT n FROM late" in texts
    assert "SELECT 1 AS one" in texts
    assert len(texts) == len(set(texts))


def test_dates_are_read_whatever_style_the_session_had_before(on) -> None:
    """Each transaction sets its own, and psycopg does not hear of it before it is over. With a zone or without, a date
    is told in UTC without one: a table may have it either way.
    """

    async def work(connection):
        await connection.execute("SET datestyle = 'SQL, DMY'")
        dates = step(
            "SELECT timestamp '2026-03-04 05:06:07.12' AS a, timestamptz '2026-03-04 05:06:07+02' AS b,"
            " timestamp 'infinity' AS c, timestamp '20000-01-01' AS d, timestamp '0044-03-15 BC' AS e, NULL::timestamp AS f"
        )
        (_, _, found, _) = await send(connection, *begin(), dates, COMMIT)
        return found.fetchone()

    assert on(work) == {
        "a": datetime(2026, 3, 4, 5, 6, 7, 120_000), "b": datetime(2026, 3, 4, 3, 6, 7),
        "c": datetime.max, "d": datetime.max, "e": datetime.min, "f": None,
    }  # fmt: skip


def test_a_result_goes_when_nobody_holds_it(on) -> None:
    """The collector looks seldom, and does not see how large a result is: in a circle it would stay for long."""

    async def work(connection):
        gc.disable()
        try:
            (result,) = await send(connection, step("SELECT now() AS a, now()::timestamp AS b, '{}'::jsonb AS c"))
            assert result.fetchone()
            del result
            return [type(one).__name__ for one in gc.get_objects() if isinstance(one, Loader)]
        finally:
            gc.enable()

    assert on(work) == []


def test_a_session_that_lost_what_it_had_prepared_is_given_up(on) -> None:
    async def work(connection):
        await send(connection, *begin(), COMMIT)
        for _ in range(2 * PREPARE_AFTER):
            await send(connection, step("SELECT 1 AS one"))
        await connection.execute("DEALLOCATE ALL")
        with pytest.raises(psycopg.errors.InvalidSqlStatementName) as lost:
            await send(connection, step("SELECT 1 AS one"))
        assert kind_of(lost.value) is Kind.TRANSIENT
        assert connection.closed

    on(work)


def test_a_link_that_breaks_while_it_is_written_to_is_lost_and_nothing_else(on) -> None:
    async def work(connection):
        await connection.execute("SET idle_session_timeout = 1")
        await anyio.wait_readable(connection.fileno())
        large = "x" * (MEGABYTES * 2**20)
        with pytest.raises(psycopg.OperationalError) as lost:
            await send(connection, *[step("SELECT %(large)s::text", large=large)] * 3)
        assert "pipeline" not in str(lost.value)
        assert kind_of(lost.value) is Kind.TRANSIENT

    on(work)


@pytest.mark.parametrize("writing", [False, True])
def test_a_cancelled_wait_leaves_no_answer_for_the_next(on, writing, caplog) -> None:
    size = MEGABYTES * 2**20 if writing else 1

    async def work(connection):
        with anyio.move_on_after(0.3):
            await send(connection, step("SELECT pg_sleep(30)"), step("SELECT %(large)s::text AS n", large="x" * size))
        if not connection.closed:
            assert (await send(connection, step("SELECT 2 AS n")))[0].fetchone() == {"n": 2}

    async def uncovered():
        # Outside of the pool's shield, which no cancellation passes.
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row)
        async with connection:
            await work(connection)

    url = on(_url)
    anyio.run(uncovered)
    assert "TypeError" not in caplog.text


async def _url(connection) -> str:
    info = connection.info
    return f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}"
