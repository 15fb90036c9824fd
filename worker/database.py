"""Connections and transactions, the same for both databases. Knows no tables and no rules.

A transaction is a list of statements sent in one pipeline, so that it costs one network round trip.
Every transaction states its own settings (``set_config(…, is_local)``): behind a pooler in transaction
mode there is no session to keep them, and start-up ``options`` are rejected.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import anyio
import psycopg
import pydantic_core
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.abc import Loader as AnyLoader
from psycopg.adapt import Loader
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from worker import pipeline
from worker.faults import blame, is_stale_plan
from worker.model import utc
from worker.pipeline import Result, exchange, may_prepare

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
    "autocommit": True,
    "prepare_threshold": None,
}

COMMIT: Step = (sql.SQL("COMMIT"), None)


async def connect(conninfo: str) -> Connection:
    """A connection of its own, outside any pool, in autocommit.

    Raises:
        psycopg.OperationalError: it cannot be had.
    """
    connection = await psycopg.AsyncConnection.connect(conninfo, row_factory=dict_row, **CONNECT)
    _adapt(connection)
    return connection


def _adapt(connection: Connection) -> None:
    """Read and write JSON by pydantic: it is thrice as fast. Read every date."""
    set_json_loads(_loads, connection)
    set_json_dumps(_dumps, connection)
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, loader)


def _within_the_calendar(name: str) -> type[AnyLoader]:
    """A loader of dates as the worker's transactions write them, ISO, whatever style the session had before: that is
    not what psycopg goes by. What lies outside of Python's years 1 to 9999 is shown as its nearest moment: a year typed
    with five digits is one cell's slip, and no reason to read no row. A table may have its dates with or without a time
    zone: both are told as UTC without one.
    """
    found = psycopg.adapters.get_loader(psycopg.adapters.types[name].oid, psycopg.pq.Format.TEXT)
    assert found is not None
    plain: type[AnyLoader] = found

    class Within(Loader):
        def load(self, data: Buffer) -> Any:
            text = bytes(data).decode()
            with suppress(ValueError, OverflowError):
                return utc(datetime.fromisoformat(text))
            with suppress(psycopg.Error, NotImplementedError, OverflowError):
                return utc(plain(self.oid, self.connection).load(data))
            return _FIRST if text.startswith("-") or text.endswith("BC") else _LAST

    return Within


_FIRST, _LAST = utc(datetime.min.replace(tzinfo=UTC)), utc(datetime.max.replace(tzinfo=UTC))
_LOADERS = {
    "timestamp": _within_the_calendar("timestamp"),
    "timestamptz": _within_the_calendar("timestamptz"),
}


TOO_DEEP = "(nested too deeply to be read)"
_DEEPER = 100
"""What a value is written inside of, and what calls it, with room to spare."""


def _loads(text: str | bytes) -> Any:
    try:
        return pydantic_core.from_json(text)
    except ValueError:  # it goes 200 deep, Postgres some thousand: what nobody could write again is not read either
        try:
            value = nest = json.loads(text)
            for _ in range(_DEEPER):
                nest = [nest]
            json.dumps(nest)
        except RecursionError:
            return TOO_DEEP
        return value


def _dumps(value: Any) -> str | bytes:
    try:
        return pydantic_core.to_json(value)  # in less than half of the time
    except ValueError:  # nested too deeply for it, or no UTF-8
        return json.dumps(value)


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
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            kwargs={**CONNECT, "row_factory": dict_row},
            min_size=0,
            max_size=max_size,
            max_idle=max_idle,
            max_lifetime=30 * 60.0,
            timeout=15.0,
            reconnect_timeout=10.0,
            num_workers=2,
            open=False,
            name=name,
            configure=self._configure,
        )

    async def _configure(self, connection: Connection) -> None:
        _NAMES[connection] = self.name
        _adapt(connection)
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
            psycopg.OperationalError: no connection within the pool's timeout.
        """
        with anyio.CancelScope(shield=True):
            try:
                connection = await self._pool.getconn()
            except PoolTimeout as error:
                blame(error, self.name)
                raise
            try:
                yield connection
            finally:
                try:
                    # A transaction left open here was left by a fault: give its locks back at once.
                    if connection.info.transaction_status not in _SETTLED:
                        with suppress(psycopg.Error), within(connection, 5.0):
                            await connection.rollback()
                finally:
                    await self._pool.putconn(connection)

    async def probe(self) -> None:
        """Connect once, to say in one line that a database cannot be reached.

        Raises:
            psycopg.OperationalError: it cannot.
        """
        connection = await connect(self.conninfo)
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
        idle: seconds the transaction may lie idle before the server ends it and its locks.
        planner: what its planner is to do without: names of settings that are turned off.
        planned_once: a prepared statement is planned for any parameters at once, not anew for the first five it gets.
        durable: its COMMIT waits for the disk. Else a crash of the server may take the last moments back, in order.
    """
    level = "REPEATABLE READ" if repeatable else "READ COMMITTED"
    mode = "READ ONLY" if read_only else "READ WRITE"
    settings = {
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        "statement_timeout": f"{int(statement * 1000)}",
        "lock_timeout": f"{int(LOCK_SECONDS * 1000)}",
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
            sql.SQL(f"pg_backend_pid() AS {_PID}"),
        ]
    )
    return (
        (sql.SQL(f"BEGIN ISOLATION LEVEL {level} {mode}"), None),
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
            blame(error, name)
        raise
    finally:
        timer.cancel()
