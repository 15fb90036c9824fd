"""A connection to one of the databases, outside any pool. Knows no tables and no rules."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.rows import dict_row

from worker.postgres import pipeline
from worker.postgres.adapt import adapt
from worker.postgres.errors import tag

Connection = pipeline.Connection
_NAMES: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
"""Connection → its database's name."""

# The kernel detects dead peers, so that nothing waits for them. No session state is used: a pooler may be between.
CONNECT: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "enrichment-worker",
    # Overrides the defaults of the database, the role and PGCLIENTENCODING: other encodings would change the text.
    "client_encoding": "UTF8",
    "autocommit": True,
    "prepare_threshold": None,
}

UTF8 = "UTF8"


async def connect(conninfo: str) -> Connection:
    """Open a connection outside any pool, in autocommit.

    Raises:
        psycopg.OperationalError: it cannot be opened.
    """
    connection = await psycopg.AsyncConnection.connect(conninfo, row_factory=dict_row, **CONNECT)
    adapt(connection)
    return connection


def name(connection: Connection, database: str) -> None:
    """Remember which database a connection leads to, to name it in errors."""
    _NAMES[connection] = database


@contextmanager
def within(connection: Connection, seconds: float) -> Iterator[None]:
    """Shut down the connection's socket after ``seconds``, so that a waiting statement gets an error.

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
        if database := _NAMES.get(connection):
            tag(error, database)
        raise
    finally:
        timer.cancel()
