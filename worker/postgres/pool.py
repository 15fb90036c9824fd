"""Connections and transactions, the same for both databases. Knows no tables and no rules.

A transaction is a list of statements sent in one pipeline, so that it costs one network round trip.
Every transaction states its own settings (``set_config(…, is_local)``): behind a pooler in transaction
mode there is no session to keep them, and start-up ``options`` are rejected.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import anyio
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from worker.postgres import pipeline
from worker.postgres.adapt import adapt
from worker.postgres.errors import in_one_line, is_stale_plan, tag
from worker.postgres.pipeline import Result, exchange, may_prepare
from worker.postgres.read_only import END_OUTDATED, HEED

Connection = pipeline.Connection
_NAMES: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
"""Pooled connection → its database's name."""
_UNTRIED: WeakSet[Connection] = WeakSet()
"""Pooled connections of which it is not known whether a pooler is between."""
_PID = "backend_pid"
Statement = sql.Composed | sql.SQL
Params = Mapping[str, Any] | None
Step = tuple[Statement, Params]

STATEMENT_SECONDS = 15.0
LOCK_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""How long a transaction of a dead host may keep its row locks; longer than a healthy one waits for Neon."""
POOL_SECONDS = 15.0
"""How long a connection is waited for."""
CLIENT_SECONDS = 20.0
"""After this the socket is cut: a half-open link answers neither the server's timeouts nor a cancel."""

# Dead peers are found by the kernel, not by waiting; psycopg's pool needs no session state.
CONNECT: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "enrichment-worker",
    # Whatever the database, the role or PGCLIENTENCODING say: what is not sent as UTF-8 is another text.
    "client_encoding": "UTF8",
    "autocommit": True,
    "prepare_threshold": None,
}

UTF8 = "UTF8"

COMMIT: Step = (sql.SQL("COMMIT"), None)
ROLLBACK: Step = (sql.SQL("ROLLBACK"), None)


async def connect(conninfo: str) -> Connection:
    """A connection of its own, outside any pool, in autocommit.

    Raises:
        psycopg.OperationalError: it cannot be had.
    """
    connection = await psycopg.AsyncConnection.connect(conninfo, row_factory=dict_row, **CONNECT)
    adapt(connection)
    return connection


class Database:
    """One of the two databases: a pool that opens connections when needed and closes them when idle."""

    def __init__(self, name: str, conninfo: str, *, max_size: int = 4, max_idle: float = 15.0) -> None:
        """Describe the pool; nothing connects before :meth:`open`.

        Args:
            name: as messages name it: ``Neon`` or ``Supabase``.
            conninfo: a libpq connection string.
            max_size: connections at most.
            max_idle: seconds after which an unused connection is closed.
        """
        self.name = name
        self.conninfo = conninfo
        self._failure: tuple[float, Exception] | None = None
        """When a connection could not be had last, and why: the pool keeps that to itself."""
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            connection_class=self._telling(),
            kwargs={**CONNECT, "row_factory": dict_row},
            min_size=0,
            max_size=max_size,
            max_idle=max_idle,
            max_lifetime=30 * 60.0,
            timeout=POOL_SECONDS,
            reconnect_timeout=POOL_SECONDS,
            num_workers=2,
            open=False,
            name=name,
            configure=self._configure,
        )

    def _telling(self) -> type[Connection]:
        """Psycopg's connection, which tells this database why it cannot be had."""
        database = self

        class Acknowledged(psycopg.AsyncConnection[Any]):
            @classmethod
            async def connect(cls, conninfo: str = "", **options: Any) -> Any:
                try:
                    return await super().connect(conninfo, **options)
                except (psycopg.Error, OSError) as error:
                    database._failure = time.monotonic(), error
                    raise

        return Acknowledged

    async def _configure(self, connection: Connection) -> None:
        _NAMES[connection] = self.name
        adapt(connection)
        _UNTRIED.add(connection)

    async def __aenter__(self) -> Database:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._pool.close(timeout=5.0)

    @property
    def warm(self) -> bool:
        """Whether a connection is open and free, so that taking it wakes nobody."""
        return self._pool.get_stats().get("pool_available", 0) > 0

    @property
    def stats(self) -> dict[str, int]:
        """The pool's own figures, by psycopg_pool's names."""
        return self._pool.get_stats()

    async def renew(self) -> None:
        """Replace the pooled connections that a fault left dead."""
        await self._pool.check()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, rolled back and given back at the end.

        Cancellation does not reach inside: psycopg would leave the statement running on the server.
        Timeouts on both ends bound it instead.

        Raises:
            psycopg.OperationalError: no connection within the pool's timeout, and why.
        """
        with anyio.CancelScope(shield=True):
            asked = time.monotonic()
            try:
                connection = await self._pool.getconn()
            except PoolTimeout:
                told = PoolTimeout(f"no connection within {POOL_SECONDS:.0f} s: {self._why_none(asked)}")
                tag(told, self.name)
                raise told from None
            try:
                yield connection
            except psycopg.errors.ReadOnlySqlTransaction:
                await _give_up(connection)
                raise
            finally:
                try:
                    # A transaction left open here was left by a fault: give its locks back at once.
                    if connection.info.transaction_status not in _SETTLED:
                        with suppress(psycopg.Error), within(connection, 5.0):
                            await connection.rollback()
                finally:
                    await self._pool.putconn(connection)

    def _why_none(self, asked: float) -> str:
        if self._failure and self._failure[0] >= asked:
            return in_one_line(self._failure[1])
        if self.stats.get("pool_size", 0) < self.stats.get("pool_max", 0):
            return "the server does not answer"
        return "all of them are in use"

    async def probe(self) -> str:
        """Connect once, to say in one line that a database cannot be reached.

        Returns:
            The encoding that it stores text in.

        Raises:
            psycopg.OperationalError: it cannot.
        """
        connection = await connect(self.conninfo)
        encoding = connection.info.parameter_status("server_encoding")
        await connection.close()
        return encoding or UTF8


async def _give_up(connection: Connection) -> None:
    """Close a connection that was refused a write: the next one takes the default of its time."""
    with suppress(psycopg.Error), within(connection, 5.0):
        await connection.rollback()
        await connection.execute(END_OUTDATED, {"pid": connection.info.backend_pid})
    await connection.close()


_SETTLED = (psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.UNKNOWN)


_SETTINGS = sql.SQL("SELECT {}")
_SETTING = sql.SQL("set_config({}, {}, true)")
# Whatever the database's default is; where it waits for a standby too, it goes on doing so.
_WAIT_FOR_THE_DISK = sql.SQL(
    "set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)"
)


def composed(statement: sql.Composable) -> sql.SQL:
    """The statement put together for good: a large one costs more to compose than to send."""
    return sql.SQL(statement.as_string())


@lru_cache(maxsize=64)
def begin(
    *,
    read_only: bool = False,
    repeatable: bool = False,
    statement: float = STATEMENT_SECONDS,
    lock: float = LOCK_SECONDS,
    idle: float = IDLE_SECONDS,
    planner: tuple[str, ...] = (),
    planned_once: bool = False,
    durable: bool = True,
) -> Sequence[Step]:
    """The steps that open a transaction with the worker's settings.

    Args:
        read_only: the server refuses any write.
        repeatable: every statement sees the same snapshot.
        statement: seconds a statement may run; 0 is without limit.
        lock: seconds a lock is waited for.
        idle: seconds the transaction may lie idle before the server ends it and its locks.
        planner: what its planner is to do without: names of settings that are turned off.
        planned_once: a prepared statement is planned for any parameters at once, not anew for the first five it gets.
        durable: its COMMIT waits for the disk. Else a crash of the server may take the last moments back, in order.
    """
    level = "REPEATABLE READ" if repeatable else "READ COMMITTED"
    # What may write does not say READ WRITE: that would override a database's default, and no standby takes it.
    mode = " READ ONLY" if read_only else ""
    settings = {
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        "statement_timeout": f"{int(statement * 1000)}",
        "lock_timeout": f"{int(lock * 1000)}",
        "idle_in_transaction_session_timeout": f"{int(idle * 1000)}",
        "enrichment_worker.writer": "on",
        # Compiling a statement that runs for milliseconds costs hundreds of them.
        "jit": "off",
        **dict.fromkeys(planner if durable else (*planner, "synchronous_commit"), "off"),
        **({"plan_cache_mode": "force_generic_plan"} if planned_once else {}),
    }
    # A transaction that only reads has nothing to wait for.
    waits = [_WAIT_FOR_THE_DISK] if durable and not read_only else []
    calls = sql.SQL(", ").join(
        [
            *(_SETTING.format(name, value) for name, value in settings.items()),
            *waits,
            *(() if read_only else (HEED,)),
            sql.SQL(f"pg_backend_pid() AS {_PID}"),
        ]
    )
    return (
        (sql.SQL(f"BEGIN ISOLATION LEVEL {level}{mode}"), None),
        (composed(_SETTINGS.format(calls)), None),
    )


async def send(connection: Connection, *steps: Step, seconds: float = CLIENT_SECONDS) -> list[Result]:
    """Send the steps together: one round trip. Their results are here when it returns.

    Raises:
        psycopg.Error: the first step that failed; the steps after it did not run.
    """
    try:
        with within(connection, seconds):
            results = await exchange(connection, [(step.as_string(connection), params) for step, params in steps])
    except psycopg.Error as error:
        if is_stale_plan(error):
            await connection.close()  # what it has prepared goes with it; the next try has another connection
        raise
    if connection in _UNTRIED:
        _try(connection, results)
    return results


def _try(connection: Connection, results: Iterable[Result]) -> None:
    """Have statements prepared where the session is the server's own, which the first transaction tells.

    A pooler gives its client another process id than the server's. Behind one, a statement that was prepared in one
    transaction is unknown in the next, or is somebody else's. Without one, planning it again is saved.
    """
    for result in results:
        if _PID in result.columns and (row := result.fetchone()):
            _UNTRIED.discard(connection)
            if row[_PID] == connection.info.backend_pid:
                may_prepare(connection)


@contextmanager
def within(connection: Connection, seconds: float) -> Iterator[None]:
    """Cut the connection's socket after ``seconds``, so that whoever waits on it gets an error.

    Raises:
        psycopg.OperationalError: from the statement that was waiting.
    """

    def cut() -> None:
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as link:
            link.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(seconds, cut)
    try:
        yield
    except psycopg.Error as error:
        if name := _NAMES.get(connection):
            tag(error, name)
        raise
    finally:
        timer.cancel()
