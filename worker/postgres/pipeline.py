"""Statements sent together, in one write and one round trip. Knows no settings, no tables and no rules.

psycopg's own pipeline writes each statement to the network by itself, and looks for answers in between: with 13
statements in a delivery of one record that was half of the processor time it took here. This speaks to libpq's
pipeline mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html) through psycopg's wrapper of libpq,
with psycopg's own adaptation of values, errors and way of waiting.
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
"""So many times a statement was sent by a connection before it is prepared there."""
MOST_PREPARED = 100
"""Statements that a connection keeps prepared at most."""
_PLACEHOLDER = re.compile(r"%(?:%|\((\w+)\)s)")

Connection = psycopg.AsyncConnection[DictRow]
Sent = tuple[str, Mapping[str, Any] | None]
"""A statement with placeholders as psycopg has them, ``%(name)s``, and its parameters; None: text as it is."""
_Key = tuple[bytes, tuple[int, ...]]
_AUTO = [PyFormat.AUTO]


class Result:
    """What came of one statement. The names are DB-API's; nothing waits, all of it is here."""

    def __init__(self, result: PGresult, connection: Connection) -> None:
        self._result, self._connection = result, connection

    @property
    def columns(self) -> list[str]:
        """The names of the columns; empty where the statement returns no rows."""
        return [(self._result.fname(number) or b"").decode() for number in range(self._result.nfields)]

    @property
    def rowcount(self) -> int:
        """Rows that were returned or written; -1 where the statement does neither."""
        written = self._result.command_tuples
        return -1 if written is None else written

    def fetchall(self) -> list[DictRow]:
        """All rows."""
        return self._load(self._result.ntuples)

    def fetchone(self) -> DictRow | None:
        """The first row; None where there is none."""
        return self._load(1)[0] if self._result.ntuples else None

    def _load(self, rows: int) -> list[DictRow]:
        names = self.columns
        loading = Transformer(self._connection)
        loading.set_pgresult(self._result)
        return loading.load_rows(0, rows, lambda values: dict(zip(names, values, strict=True)))


class _Session:
    """What was prepared on a connection."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        """By the hash of what was sent: texts that come once each are long, and many."""
        self.prepared: dict[_Key, bytes] = {}
        self._number = 0

    def wanted(self, key: _Key) -> bytes | None:
        """The name to prepare a statement under now, where it is time to."""
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
    """From now on, prepare what this connection sends often: its session is the server's own, no pooler's."""
    _SESSIONS.setdefault(connection, _Session())


async def exchange(connection: Connection, statements: Iterable[Sent]) -> list[Result]:
    """Send the statements together and await all answers: one round trip. What a statement refuses, the
    statements after it do not run.

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
    # All of it before anything is sent: a value that cannot be written costs nobody the connection.
    written = [_written(text, params, dumping, encoding) for text, params in statements]
    preparing: dict[int, _Key] = {}
    """Number of an answer → what was prepared by it."""
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
        # What the server said last tells more than that the connection broke, and this more than libpq's next words.
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
    """Write all that waits to be written, then read an answer for each statement, up to the synchronisation."""
    link = connection.pgconn
    while link.flush():
        # The server may wait for its answers to be read before it reads on.
        ready = yield Wait.RW
        if ready and ready & Ready.R:  # nothing is ready where the wait was cancelled
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
    """Leave the pipeline mode. Where answers were not read, the connection is of no use any more."""
    if connection.pgconn.status == ConnStatus.BAD:
        return
    try:
        connection.pgconn.exit_pipeline_mode()
    except psycopg.OperationalError:
        await connection.close()


def _written(
    text: str, params: Mapping[str, Any] | None, dumping: abc.Transformer, encoding: str
) -> tuple[bytes, Sequence[Buffer | None], tuple[int, ...], list[Format] | None]:
    """A statement as libpq takes it: text, values, and the types and formats of the values."""
    query, names = _numbered(text, params is not None, encoding)
    values = dumping.dump_sequence([params[name] for name in names] if params else (), _AUTO * len(names))
    return query, values, dumping.types or (), dumping.formats


@lru_cache(maxsize=128)
def _numbered(text: str, named: bool, encoding: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with ``$1`` for ``%(name)s``, and the names in the order of their numbers."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"${names.setdefault(found[1], len(names) + 1)}" if found[1] else "%"

    return (_PLACEHOLDER.sub(number, text) if named else text).encode(encoding), tuple(names)
