"""Transactions, the same for both databases. Knows no tables and no rules.

A transaction is a list of statements sent in one pipeline, so that it costs one network round trip. Every transaction
sets its own settings (``set_config(…, is_local)``): behind a pooler in transaction mode there is no session to keep
them, and start-up ``options`` are rejected.

Where there is no pooler between, a transaction of one round trip goes without BEGIN and COMMIT: the statements of a
pipeline are one transaction up to its sync, which commits it
(https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakSet

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow

from worker.postgres.connection import Connection, within
from worker.postgres.errors import LOCKED, Kind, is_stale_plan, kind_of
from worker.postgres.pipeline import Result, exchange, may_prepare
from worker.postgres.read_only import APPLY_DEFAULT

_UNTRIED: WeakSet[Connection] = WeakSet()
"""Pooled connections that may have a pooler between; their first transaction shows it."""
_IMPLICIT: WeakSet[Connection] = WeakSet()
"""Connections to a server without a pooler, whose transactions are READ COMMITTED without being told."""
_PID, _LEVEL = "backend_pid", "default_level"
Statement = sql.Composed | sql.SQL
Params = Mapping[str, Any] | None
Step = tuple[Statement, Params]

STATEMENT_SECONDS = 15.0
LOCK_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""How long a transaction of a dead host may keep its row locks; longer than a healthy one waits for Neon."""
CLIENT_SECONDS = 20.0
"""After this the socket is shut down: on a half-open link, neither the server's timeouts nor a cancel arrive."""


COMMIT: Step = (sql.SQL("COMMIT"), None)
ROLLBACK: Step = (sql.SQL("ROLLBACK"), None)


_SETTINGS = sql.SQL("SELECT {}")
_SETTING = sql.SQL("set_config({}, {}, true)")
# Overrides a default of `off`. A default that also waits for a standby is kept.
_WAIT_FOR_THE_DISK = sql.SQL(
    "set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)"
)


class _Ready(sql.SQL):
    """A statement with its text, which psycopg would make again each time."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def as_string(self, _context: object = None) -> str:
        return self._text


def composed(statement: sql.Composable) -> sql.SQL:
    """The statement composed once, for reuse: a large one costs more to compose than to send."""
    return _Ready(statement.as_string())


class Opening(NamedTuple):
    """The steps that open a transaction."""

    begin: Step
    settings: Step

    @property
    def as_by_default(self) -> bool:
        """Whether a transaction of this kind needs no BEGIN where READ COMMITTED is the default."""
        return self.begin[0] == _READ_COMMITTED


_READ_COMMITTED = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED")


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
) -> Opening:
    """The steps that open a transaction with the worker's settings.

    Args:
        read_only: the server refuses any write.
        repeatable: every statement sees the same snapshot.
        statement: statement timeout in seconds; 0 for no limit.
        lock: lock timeout in seconds.
        idle: seconds that the transaction may be idle before the server ends it and releases its locks.
        planner: names of planner settings to turn off.
        planned_once: a prepared statement gets a generic plan at once, instead of being planned five times first.
        durable: its COMMIT waits for the disk. Else a crash of the server may lose the latest commits.
    """
    level = "REPEATABLE READ" if repeatable else "READ COMMITTED"
    # Never READ WRITE: that would override a database's default, and a standby refuses it.
    mode = " READ ONLY" if read_only else ""
    settings = {
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        "statement_timeout": f"{int(statement * 1000)}",
        "lock_timeout": f"{int(lock * 1000)}",
        "idle_in_transaction_session_timeout": f"{int(idle * 1000)}",
        "enrichment_worker.writer": "on",
        # JIT compilation costs hundreds of milliseconds for a statement that runs for a few.
        "jit": "off",
        **dict.fromkeys(planner if durable else (*planner, "synchronous_commit"), "off"),
        **({"plan_cache_mode": "force_generic_plan"} if planned_once else {}),
    }
    # A transaction that only reads has nothing to flush.
    flushes = [_WAIT_FOR_THE_DISK] if durable and not read_only else []
    calls = sql.SQL(", ").join(
        [
            *(_SETTING.format(name, value) for name, value in settings.items()),
            *flushes,
            *(() if read_only else (APPLY_DEFAULT,)),
            sql.SQL(f"pg_backend_pid() AS {_PID}, current_setting('default_transaction_isolation') AS {_LEVEL}"),
        ]
    )
    return Opening(
        (sql.SQL(f"BEGIN ISOLATION LEVEL {level}{mode}"), None),
        (composed(_SETTINGS.format(calls)), None),
    )


async def send(connection: Connection, *steps: Step, seconds: float = CLIENT_SECONDS) -> list[Result]:
    """Send the steps together: one round trip. The results are complete when it returns.

    Raises:
        psycopg.Error: the first step that failed; the steps after it did not run.
    """
    try:
        with within(connection, seconds):
            results = await exchange(connection, [(step.as_string(connection), params) for step, params in steps])
    except psycopg.Error as error:
        if is_stale_plan(error):
            await connection.close()  # this drops its prepared statements; the retry gets another connection
        raise
    if connection in _UNTRIED:
        _detect_pooler(connection, results)
    return results


def _detect_pooler(connection: Connection, results: Iterable[Result]) -> None:
    """Allow prepared statements if the first transaction shows that there is no pooler between.

    A pooler gives its client another process id than the server's. Behind one, a statement that was prepared in one
    transaction may be unknown in the next, or be another client's. Without one, preparing saves the planning.
    """
    for result in results:
        if _PID in result.columns and (row := result.fetchone()):
            _UNTRIED.discard(connection)
            if row[_PID] == connection.info.backend_pid:
                may_prepare(connection)
                if row[_LEVEL] == "read committed":
                    _IMPLICIT.add(connection)


def try_to_prepare(connection: Connection) -> None:
    """Let the first transaction of a new connection find out whether it may prepare statements."""
    _UNTRIED.add(connection)


async def transact(
    connection: Connection,
    *steps: Step,
    opening: Opening | None = None,
    rehearse: bool = False,
    seconds: float = CLIENT_SECONDS,
) -> list[Result]:
    """Run the steps as one transaction, in one round trip.

    Args:
        connection: in autocommit.
        steps: what the transaction does.
        opening: as :func:`begin` makes it; by default one that may write.
        rehearse: roll it back at the end: only what it says is wanted.
        seconds: after which the connection is cut.

    Returns:
        The result of each step.

    Raises:
        psycopg.Error: the first step that failed. The transaction did nothing; it may still be open.
    """
    first = begin() if opening is None else opening
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    if idle and connection in _IMPLICIT and first.as_by_default and not rehearse:
        return (await send(connection, first.settings, *steps, seconds=seconds))[1:]
    last = ROLLBACK if rehearse else COMMIT
    return (await send(connection, *first, *steps, last, seconds=seconds))[len(first) : -1]


async def roll_back_refusal(connection: Connection, error: psycopg.Error, *, or_locked: bool = False) -> None:
    """End a transaction that the database refused, so that the connection may be used for another.

    Args:
        connection: with the transaction.
        error: what the transaction ended with.
        or_locked: also if a lock was not to be had in time.

    Raises:
        psycopg.Error: the error itself, if it is a transient fault.
    """
    if kind_of(error) is Kind.TRANSIENT and not (or_locked and error.sqlstate == LOCKED):
        raise error
    if connection.info.transaction_status != TransactionStatus.IDLE:
        await send(connection, ROLLBACK)


async def read(connection: Connection, *steps: Step) -> list[list[DictRow]]:
    """The rows of each of the steps, from one read-only transaction in one round trip."""
    return [result.fetchall() for result in await transact(connection, *steps, opening=begin(read_only=True))]


async def fetch_all(connection: Connection, statement: Statement, params: Params = None) -> list[DictRow]:
    """The rows of a statement, from a read-only transaction of its own: one round trip."""
    [rows] = await read(connection, (statement, params))
    return rows


async def fetch_first(connection: Connection, statement: Statement, params: Params = None) -> DictRow | None:
    """The first row of a statement, as :func:`fetch_all` returns them; None if there is none."""
    return next(iter(await fetch_all(connection, statement, params)), None)


async def fetch_one(connection: Connection, statement: Statement, params: Params = None) -> DictRow:
    """The row of a statement that always returns one, as :func:`fetch_all` returns it."""
    [row] = await fetch_all(connection, statement, params)
    return row


async def begin_and_fetch(connection: Connection, opening: Opening, step: Step) -> list[DictRow]:
    """The rows of a statement, in a transaction that stays open: one round trip.

    Args:
        connection: in autocommit.
        opening: as :func:`begin` makes it.
        step: the statement.
    """
    *_, result = await send(connection, *opening, step)
    return result.fetchall()


async def fetch_inside(connection: Connection, statement: Statement, params: Params = None) -> list[DictRow]:
    """The rows of a statement, within the open transaction: one round trip.

    Where none is open it is one of its own, without the worker's settings: for what is asked all the time.
    """
    [result] = await send(connection, (statement, params))
    return result.fetchall()
