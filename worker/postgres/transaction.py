"""Transactions, the same for both databases. Knows no tables and no rules.

A transaction is a list of statements sent in one pipeline, so that it costs one network round trip. Every transaction
sets its own settings (``set_config(…, is_local)``): behind a pooler in transaction mode there is no session to keep
them, and start-up ``options`` are rejected.

Where there is no pooler between, a transaction of one round trip goes without BEGIN and COMMIT: the statements of a
pipeline are one transaction up to its sync, which commits it
(https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING). And the settings of the
transactions that a flip consists of are kept by the session, until another one is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow

from worker.postgres.connection import Connection, within
from worker.postgres.errors import LOCKED, Kind, is_stale_plan, kind_of
from worker.postgres.pipeline import Result, exchange, may_prepare
from worker.postgres.steps import COMMIT, LEVEL, PID, ROLLBACK, Opening, Params, Statement, Step, begin

_UNTRIED: WeakSet[Connection] = WeakSet()
"""Pooled connections that may have a pooler between; their first transaction shows it."""
_IMPLICIT: WeakSet[Connection] = WeakSet()
"""Connections to a server without a pooler, whose transactions are READ COMMITTED without being told."""
_KEEPS: WeakKeyDictionary[Connection, Opening | None] = WeakKeyDictionary()
"""Connection → the opening whose settings its session keeps; None where that is not known."""
_RESET: Step = (sql.SQL("RESET ALL"), None)

CLIENT_SECONDS = 20.0
"""After this the socket is shut down: on a half-open link, neither the server's timeouts nor a cancel arrive."""


async def send(
    connection: Connection, *steps: Step, seconds: float = CLIENT_SECONDS, keeping: Opening | None = None
) -> list[Result]:
    """Send the steps together: one round trip. The results are complete when it returns.

    Args:
        connection: in autocommit.
        steps: what is sent.
        seconds: after which the connection is cut.
        keeping: the settings that the session has to keep; None for its own defaults. Within an open transaction they
            stay as they are.

    Raises:
        psycopg.Error: the first step that failed; the steps after it did not run.
    """
    before = _change_session(connection, keeping)
    try:
        with within(connection, seconds):
            results = await exchange(
                connection,
                [(step.as_string(connection), params) for step, params in steps],
                before=[(step.as_string(connection), params) for step, params in before],
            )
    except psycopg.Error as error:
        if is_stale_plan(error):
            await connection.close()  # this drops its prepared statements; the retry gets another connection
        raise
    if before:
        _KEEPS[connection] = keeping
        if keeping is None:
            del _KEEPS[connection]
    if connection in _UNTRIED:
        _detect_pooler(connection, results)
    return results


def _change_session(connection: Connection, keeping: Opening | None) -> list[Step]:
    """The steps that have the session keep these settings; until they have succeeded, it is not known what it keeps."""
    if _KEEPS.get(connection) is keeping and (keeping or connection not in _KEEPS):
        return []
    if connection.info.transaction_status != TransactionStatus.IDLE:
        return []
    steps = [_RESET] if connection in _KEEPS else []
    if keeping and keeping.kept:
        steps.append(keeping.kept)
    _KEEPS[connection] = None
    return steps


def _keeping(connection: Connection, opening: Opening) -> Opening | None:
    """The opening, if its settings are to be kept by the session: it is the worker's own, and between transactions."""
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    return opening if opening.kept and idle and connection in _IMPLICIT else None


def _detect_pooler(connection: Connection, results: Iterable[Result]) -> None:
    """Allow prepared statements if the first transaction shows that there is no pooler between.

    A pooler gives its client another process id than the server's. Behind one, a statement that was prepared in one
    transaction may be unknown in the next, or be another client's. Without one, preparing saves the planning.
    """
    for result in results:
        if PID in result.columns and (row := result.fetchone()):
            _UNTRIED.discard(connection)
            if row[PID] == connection.info.backend_pid:
                may_prepare(connection)
                if row[LEVEL] == "read committed":
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
    keeping = _keeping(connection, first)
    opens = [] if keeping else [first.settings]
    closes: list[Step] = []
    if not (idle and connection in _IMPLICIT and first.as_by_default and not rehearse):
        opens, closes = [first.begin, *opens], [ROLLBACK if rehearse else COMMIT]
    results = await send(connection, *opens, *steps, *closes, seconds=seconds, keeping=keeping)
    return results[len(opens) : len(opens) + len(steps)]


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
    keeping = _keeping(connection, opening)
    opens = (opening.begin,) if keeping else opening.steps
    *_, result = await send(connection, *opens, step, keeping=keeping)
    return result.fetchall()


async def fetch_inside(connection: Connection, statement: Statement, params: Params = None) -> list[DictRow]:
    """The rows of a statement, within the open transaction: one round trip.

    Where none is open it is one of its own, without the worker's settings: for what is asked all the time.
    """
    [result] = await send(connection, (statement, params))
    return result.fetchall()
