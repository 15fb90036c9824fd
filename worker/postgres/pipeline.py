"""Statements sent together, in one write and one round trip. Knows no settings, no tables and no rules.

psycopg's own pipeline writes each statement to the network separately, and checks for answers in between: with 13
statements in a delivery of one record, that took half of the worker's processor time. This module uses libpq's pipeline
mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html) through psycopg's wrapper of libpq, with
psycopg's own adaptation of values, errors and waiting.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import abc
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.rows import DictRow
from psycopg.waiting import Ready, Wait

PREPARE_AFTER = 2
"""A connection prepares a statement after it has sent it this many times."""
MOST_PREPARED = 100
"""A connection keeps at most this many prepared statements."""
_PLACEHOLDER = re.compile(r"%(?:%|\((\w+)\)s)")

Connection = psycopg.AsyncConnection[DictRow]
Sent = tuple[str, Mapping[str, Any] | None]
"""A statement with psycopg's placeholders, ``%(name)s``, and its parameters; None for literal text."""
_Key = tuple[bytes, tuple[int, ...]]
_AUTO = [PyFormat.AUTO]


class Result:
    """The result of one statement. The names are DB-API's, but nothing waits: all data are here."""

    def __init__(self, result: PGresult, connection: Connection) -> None:
        self._result, self._connection = result, connection

    @property
    def columns(self) -> list[str]:
        """The names of the columns; empty if the statement returns no rows."""
        return [(self._result.fname(number) or b"").decode() for number in range(self._result.nfields)]

    @property
    def rowcount(self) -> int:
        """Rows that were returned or written; -1 if the statement does neither."""
        written = self._result.command_tuples
        return -1 if written is None else written

    def fetchall(self) -> list[DictRow]:
        """All rows."""
        return self._load(self._result.ntuples)

    def fetchone(self) -> DictRow | None:
        """The first row; None if there is none."""
        return self._load(1)[0] if self._result.ntuples else None

    def _load(self, rows: int) -> list[DictRow]:
        names = self.columns
        loading = Transformer(self._connection)
        loading.set_pgresult(self._result)
        return loading.load_rows(0, rows, lambda values: dict(zip(names, values, strict=True)))


class _Session:
    """The prepared statements of a connection."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        """By the hash of what was sent, not the text: texts that are sent only once are long and many."""
        self.prepared: dict[_Key, bytes] = {}
        self._number = 0

    def wanted(self, key: _Key) -> bytes | None:
        """The name under which to prepare a statement now; None if it should not be prepared."""
        if len(self.seen) > 10 * MOST_PREPARED:
            self.seen.clear()
        self.seen[hash(key)] += 1
        if self.seen[hash(key)] <= PREPARE_AFTER or len(self.prepared) >= MOST_PREPARED:
            return None
        self._number += 1
        self.prepared[key] = b"worker_%d" % self._number
        return self.prepared[key]


_SESSIONS: WeakKeyDictionary[Connection, _Session] = WeakKeyDictionary()


def may_prepare(connection: Connection) -> None:
    """From now on, prepare statements that this connection sends often: there is no pooler between."""
    _SESSIONS.setdefault(connection, _Session())


async def exchange(connection: Connection, statements: Iterable[Sent]) -> list[Result]:
    """Send the statements together and await all answers: one round trip. After a statement that fails, the others do
    not run.

    Args:
        connection: in autocommit; nobody else uses it meanwhile.
        statements: to be executed in this order.

    Raises:
        psycopg.Error: of the first statement that failed, or of the connection.
    """
    if connection.closed:
        raise psycopg.OperationalError("the connection is closed")
    link, session = connection.pgconn, _SESSIONS.get(connection)
    dumping, encoding = Transformer(connection), connection.info.encoding
    # Everything before anything is sent: a value that cannot be adapted must not break the connection.
    written = [_written(text, params, dumping, encoding) for text, params in statements]
    preparing: dict[int, _Key] = {}
    """Index of an answer → the statement that it prepared."""
    answers: list[PGresult] = []
    unsent = True
    link.enter_pipeline_mode()
    try:
        number = 0
        for query, values, types, formats in written:
            key = query, types
            name = session.prepared.get(key) if session else None
            if session and name is None and (name := session.wanted(key)):
                link.send_prepare(name, query, param_types=types)
                preparing[number] = key
                number += 1
            if name is not None:
                link.send_query_prepared(name, values, param_formats=formats)
            else:
                link.send_query_params(query, values, param_types=types, param_formats=formats)
            number += 1
        link.pipeline_sync()
        unsent = False
        await connection.wait(_answers(connection, answers))
    except psycopg.OperationalError as error:
        # The server's last error is more useful than the broken connection, and that more than libpq's next message.
        _raise_first(connection, answers)
        if unsent and link.status == ConnStatus.BAD:
            raise psycopg.OperationalError("the connection is lost") from error
        raise
    finally:
        if session:
            _forget_unprepared(session, preparing, answers)
        await _leave(connection)
    _raise_first(connection, answers)
    return [Result(answer, connection) for number, answer in enumerate(answers) if number not in preparing]


def _answers(connection: Connection, answers: list[PGresult]) -> PQGen[None]:
    """Write everything in the output buffer, then read the answers to the statements, up to the sync."""
    link = connection.pgconn
    while link.flush():
        # The server may wait until its answers are read before it reads more.
        ready = yield Wait.RW
        if ready and ready & Ready.R:  # nothing is ready if the wait was cancelled
            link.consume_input()
    while True:
        while link.is_busy():
            while not (yield Wait.R):
                pass
            link.consume_input()
        answer = link.get_result()
        if answer is None:
            if link.status == ConnStatus.BAD:
                raise psycopg.OperationalError(link.get_error_message())
        elif answer.status == ExecStatus.PIPELINE_SYNC:
            return
        else:
            answers.append(answer)


def _raise_first(connection: Connection, answers: Sequence[PGresult]) -> None:
    for answer in answers:
        if answer.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(answer, encoding=connection.info.encoding)


def _forget_unprepared(session: _Session, preparing: Mapping[int, _Key], answers: Sequence[PGresult]) -> None:
    for number, key in preparing.items():
        if number >= len(answers) or answers[number].status != ExecStatus.COMMAND_OK:
            del session.prepared[key]


async def _leave(connection: Connection) -> None:
    """Leave pipeline mode. If answers were not read, the connection is unusable and is closed."""
    if connection.pgconn.status == ConnStatus.BAD:
        return
    try:
        connection.pgconn.exit_pipeline_mode()
    except psycopg.OperationalError:
        await connection.close()


def _written(
    text: str, params: Mapping[str, Any] | None, dumping: abc.Transformer, encoding: str
) -> tuple[bytes, Sequence[Buffer | None], tuple[int, ...], list[Format] | None]:
    """A statement for libpq: text, values, and the types and formats of the values."""
    query, names = _numbered(text, params is not None, encoding)
    values = dumping.dump_sequence([params[name] for name in names] if params else (), _AUTO * len(names))
    return query, values, dumping.types or (), dumping.formats


@lru_cache(maxsize=128)
def _numbered(text: str, named: bool, encoding: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with ``$1`` in place of ``%(name)s``, and the names in the order of their numbers."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"${names.setdefault(found[1], len(names) + 1)}" if found[1] else "%"

    return (_PLACEHOLDER.sub(number, text) if named else text).encode(encoding), tuple(names)
