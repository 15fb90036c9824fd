"""The LISTEN connection: connect, listen, prove it alive, replace it. Rings a bell and knows nothing else.

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

from worker.postgres.connection import Connection, connect, within
from worker.postgres.errors import LogThrottle, backoff, tag, with_database

log = structlog.get_logger("worker.listener")

PROBE_EVERY = 5.0
PROBE_SECONDS = 3.0


class Wakeup:
    """Set any number of times, seen once: wakes one task."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake the task that waits, or the next that will."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether it was set and nobody has waited for it since."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until it is set, and clear it."""
        await self._event.wait()
        self._event = anyio.Event()


async def listen(
    conninfo: str,
    channel: str,
    wake: Callable[[str | None], None],
    report: Callable[[str | None], None],
) -> None:
    """Listen for ever.

    Args:
        conninfo: a direct or session-mode address; a pooler in transaction mode cannot LISTEN.
        channel: what to listen to.
        wake: called with the entity that a notification names; with None after every new LISTEN, and
            where the payload names none, as anything may have been missed.
        report: called with None when it listens, and with the reason when it does not.
    """
    waits, throttle = backoff(), LogThrottle()
    while True:
        try:
            connection = await connect(conninfo)
            async with connection:
                # Also what comes while the connection is proved is heard at once: far away that takes a while.
                connection.add_notify_handler(lambda notice: wake(_entity_in(notice.payload)))
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                log.info("listener.listening", channel=channel)
                report(None)
                wake(None)
                waits = backoff()
                while True:
                    with anyio.move_on_after(PROBE_EVERY):
                        await _receive(connection, wake)
                    await _prove(connection, channel)
        except (psycopg.Error, OSError) as error:
            tag(error, "Supabase")
            reason = with_database(error)
            report(reason)
            pause = next(waits)
            if (times := throttle.seen(reason)) is not None:
                log.warning("listener.lost", error=reason, times=times, pause=round(pause, 2))
            await anyio.sleep(pause)


async def _receive(connection: Connection, wake: Callable[[str | None], None]) -> NoReturn:
    while True:
        await anyio.wait_readable(connection.fileno())
        connection.pgconn.consume_input()
        while notice := connection.pgconn.notifies():
            wake(_entity_in(notice.extra))


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
