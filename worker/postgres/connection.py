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


async def connect(conninfo: str) -> Connection:
    """A connection of its own, outside any pool, in autocommit.

    Raises:
        psycopg.OperationalError: it cannot be had.
    """
    connection = await psycopg.AsyncConnection.connect(conninfo, row_factory=dict_row, **CONNECT)
    adapt(connection)
    return connection


def name(connection: Connection, database: str) -> None:
    """Remember which database a connection leads to: its errors say so."""
    _NAMES[connection] = database


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
        if database := _NAMES.get(connection):
            tag(error, database)
        raise
    finally:
        timer.cancel()
