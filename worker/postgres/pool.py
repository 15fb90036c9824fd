"""A pool of connections to each database: opened when they are needed, closed when they are idle."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from worker.postgres.adapt import adapt
from worker.postgres.connection import CONNECT, UTF8, Connection, connect, name, within
from worker.postgres.errors import in_one_line, tag
from worker.postgres.read_only import END_OUTDATED
from worker.postgres.transaction import try_to_prepare

POOL_SECONDS = 15.0
"""How long to wait for a connection."""


class Database:
    """One of the two databases: a pool that opens connections when needed and closes them when idle."""

    def __init__(
        self, name: str, conninfo: str, *, max_size: int = 4, max_idle: float = 15.0, exact: bool = False
    ) -> None:
        """Configure the pool; nothing connects before ``async with``.

        Args:
            name: for messages: ``Neon`` or ``Supabase``.
            conninfo: a libpq connection string.
            max_size: maximum number of connections.
            max_idle: seconds after which an unused connection is closed.
            exact: see :func:`worker.postgres.adapt.adapt`.
        """
        self.name = name
        self.conninfo = conninfo
        self._exact = exact
        self._failure: tuple[float, Exception] | None = None
        """When a connection last failed, and why: the pool does not expose that."""
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            connection_class=self._recording_failures(),
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

    def _recording_failures(self) -> type[Connection]:
        """A subclass of psycopg's connection that records here why it could not connect."""
        database = self

        class RecordsFailures(psycopg.AsyncConnection[Any]):
            @classmethod
            async def connect(cls, conninfo: str = "", **options: Any) -> Any:
                try:
                    return await super().connect(conninfo, **options)
                except (psycopg.Error, OSError) as error:
                    database._failure = time.monotonic(), error
                    raise

        return RecordsFailures

    async def _configure(self, connection: Connection) -> None:
        name(connection, self.name)
        adapt(connection, exact=self._exact)
        try_to_prepare(connection)

    async def __aenter__(self) -> Database:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._pool.close(timeout=5.0)

    @property
    def warm(self) -> bool:
        """Whether a connection is open and free, so that using it wakes no sleeping compute."""
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
        """A connection in autocommit, rolled back and returned to the pool at the end.

        It is shielded from cancellation: psycopg would leave the statement running on the server.
        Timeouts on both ends limit it instead.

        Raises:
            psycopg.OperationalError: no connection within the pool's timeout, and why.
        """
        with anyio.CancelScope(shield=True):
            asked = time.monotonic()
            try:
                connection = await self._pool.getconn()
            except PoolTimeout:
                timeout = PoolTimeout(f"no connection within {POOL_SECONDS:.0f} s: {self._why_none(asked)}")
                tag(timeout, self.name)
                raise timeout from None
            try:
                yield connection
            except psycopg.errors.ReadOnlySqlTransaction:
                await _close_read_only(connection)
                raise
            finally:
                try:
                    # A transaction that is still open was left by a fault: release its locks at once.
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
        """Connect once, to find out early whether the database can be reached.

        Returns:
            The encoding in which it stores text.

        Raises:
            psycopg.OperationalError: it cannot.
        """
        connection = await connect(self.conninfo)
        encoding = connection.info.parameter_status("server_encoding")
        await connection.close()
        return encoding or UTF8


async def _close_read_only(connection: Connection) -> None:
    """Close a connection that was refused a write: the next one gets the current default."""
    with suppress(psycopg.Error), within(connection, 5.0):
        await connection.rollback()
        await connection.execute(END_OUTDATED, {"pid": connection.info.backend_pid})
    await connection.close()


_SETTLED = (psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.UNKNOWN)
