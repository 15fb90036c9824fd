"""The LISTEN connection: connect, listen, check that it lives, replace it. It wakes consumers and knows nothing else.

A notification is a latency hint, never a guarantee: what is lost here, the sweep finds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NoReturn

import anyio
import psycopg
import structlog
from psycopg import sql

from worker.postgres.backoff import LogThrottle, backoff
from worker.postgres.connection import Connection, connect, within
from worker.postgres.errors import tag, with_database
from worker.supabase.channels import ALIVE

log = structlog.get_logger("worker.listener")

QUIET_SECONDS = 10.0
"""Seconds without any notification after which the connection is checked. Every sweep of every worker sends one."""
PROBE_EVERY = 30.0
"""Seconds between two such checks at most: a server may end a session from which no statement comes."""
PROBE_SECONDS = 3.0
"""Seconds that a check may take."""


async def listen(
    conninfo: str,
    channel: str,
    wake: Callable[[str | None], None],
    changed: Callable[[], None],
    report: Callable[[str | None], None],
) -> NoReturn:
    """Listen until cancelled; a lost connection is replaced, after a delay that grows.

    Args:
        conninfo: a direct or session-mode address; a pooler in transaction mode cannot LISTEN.
        channel: what to listen to.
        wake: called with the entity that a notification names; with None after every new LISTEN, and
            where the payload names none, as anything may have been missed.
        changed: called when somebody has changed a workspace.
        report: called with None when it listens, and with the reason when it does not.
    """
    delays, throttle = backoff(), LogThrottle()

    def heard(of: str, payload: str | bytes) -> None:
        if of == channel:
            wake(_entity_in(payload))
        elif payload:
            changed()

    while True:
        try:
            connection = await connect(conninfo)
            async with connection:
                # Also what comes during a check is handled at once: over a slow link a check takes a while.
                connection.add_notify_handler(lambda notice: heard(notice.channel, notice.payload))
                for one in (channel, ALIVE):
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(one)))
                log.info("listener.listening", channel=channel)
                report(None)
                wake(None)
                changed()
                delays = backoff()
                while True:
                    with anyio.move_on_after(PROBE_EVERY):
                        await _receive_while_heard(connection, heard)
                    await _prove(connection, channel)
        except (psycopg.Error, OSError) as error:
            tag(error, "Supabase")
            reason = with_database(error)
            report(reason)
            delay = next(delays)
            if (times := throttle.seen(reason)) is not None:
                log.warning("listener.lost", error=reason, times=times, pause=round(delay, 2))
            await anyio.sleep(delay)


async def _receive_while_heard(connection: Connection, heard: Callable[[str, str | bytes], None]) -> None:
    """Receive notifications until none comes for too long."""
    silent = False
    while not silent:
        with anyio.move_on_after(QUIET_SECONDS) as waiting:
            await anyio.wait_readable(connection.fileno())
        silent = waiting.cancelled_caught
        connection.pgconn.consume_input()
        while notice := connection.pgconn.notifies():
            heard(notice.relname.decode(), notice.extra)


async def _prove(connection: Connection, channel: str) -> None:
    with within(connection, PROBE_SECONDS):
        cursor = await connection.execute("SELECT pg_listening_channels() AS channel")
        channels = [row["channel"] for row in await cursor.fetchall()]
    if channel not in channels:
        raise psycopg.OperationalError(
            f"the session does not listen to {channel} any more; is SUPABASE_LISTEN_URL a transaction pooler?"
        )


def _entity_in(payload: str | bytes) -> str | None:
    try:
        entity = json.loads(payload)["entity"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return entity if isinstance(entity, str) else None
