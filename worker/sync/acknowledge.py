"""Write outcomes into the enrichers' rows. A row that refuses its reply, by the customer's own constraints or triggers,
blocks no other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import psycopg
import structlog

from worker.domain import messages
from worker.domain.model import Data
from worker.domain.postponed import Cause
from worker.entities.declaration import Entity
from worker.postgres.backoff import LogThrottle
from worker.postgres.connection import Connection
from worker.postgres.errors import in_one_line
from worker.postgres.hints import concerns_all_records
from worker.postgres.transaction import COMMIT, Step, begin, roll_back_refusal, send, transact
from worker.supabase.acknowledgement import Reply
from worker.sync.databases import Databases
from worker.sync.route import Route

log = structlog.get_logger("worker.delivery")

_throttle = LogThrottle()


@dataclass
class Acknowledged:
    """What became of replies."""

    written: int = 0
    missed: int = 0
    """Rows that have changed since they were claimed, and got no reply."""
    refused: dict[str, tuple[Reply, str]] = field(default_factory=dict)
    """Key → the reply that the row refuses, and the server's reason."""
    unreleased: bool = False
    """Whether another transaction holds a row that should be released."""


async def acknowledge(
    route: Route,
    supabase: Connection,
    replies: Sequence[Reply],
    promoted: Sequence[str],
    events: Sequence[Step] = (),
) -> Acknowledged:
    """Acknowledge, release the rows that wait for promoted records, announce it, and commit the claim: one round trip.

    A row whose own constraints refuse the normalised values gets the rest of its reply. A row that refuses the whole
    reply, or could not be released, is postponed and retried.

    Args:
        route: of the rows; keeps what is postponed.
        supabase: to Supabase, in the transaction of the claim.
        replies: what the rows are to show.
        promoted: keys of the records that others may wait for.
        events: the steps that announce it.

    Raises:
        psycopg.Error: the rows are still in the queue, and Neon has their outcomes.
    """
    step = route.workspace.acknowledge_and_release(replies, promoted)
    try:
        told, *_ = await send(supabase, step, *events, COMMIT)
    except psycopg.Error as error:
        await roll_back_refusal(supabase, error)
        acknowledged = await _acknowledge_singly(route, supabase, replies)
        await _release_singly(route, supabase, promoted)
        if events:
            await transact(supabase, *events)
    else:
        [row] = told.fetchall()
        acknowledged = Acknowledged(row["written"], len(replies) - row["written"], unreleased=row["held"])
    if acknowledged.unreleased:
        route.unreleased.put(Cause.HELD, [(key, None) for key in promoted], "")
    route.postponed.forget(reply.key for reply in replies if reply.key not in acknowledged.refused)
    for key, (reply, reason) in acknowledged.refused.items():
        route.postponed.put(Cause.REPLY, [(key, reply.version)], reason, reply=reply)
    return acknowledged


async def _acknowledge_singly(route: Route, supabase: Connection, replies: Sequence[Reply]) -> Acknowledged:
    """Acknowledge each row on its own.

    Raises:
        psycopg.Error: every row refuses, and not because of its reply: a privilege is missing, for example.
    """
    acknowledged, latest = Acknowledged(), None
    for reply in replies:
        try:
            written = await _acknowledge_one(route, supabase, reply)
        except psycopg.Error as error:
            await roll_back_refusal(supabase, error)
            latest = error
            acknowledged.refused[reply.key] = reply, in_one_line(error)
        else:
            acknowledged.written += written
            acknowledged.missed += 1 - written
    if latest and len(acknowledged.refused) == len(replies) and concerns_all_records(latest):
        raise latest
    for key, (_, reason) in acknowledged.refused.items():
        _log_refused("reply.refused", route, key, reason)
    return acknowledged


async def _acknowledge_one(route: Route, supabase: Connection, reply: Reply) -> int:
    try:
        [written] = await transact(supabase, route.workspace.acknowledge([reply]))
    except psycopg.Error as error:
        if reply.data is None:
            raise
        await roll_back_refusal(supabase, error)
        note = messages.does_not_fit(reply.note, in_one_line(error))
        return await _acknowledge_one(route, supabase, replace(reply, data=None, note=note))
    return written.rowcount


async def acknowledge_again(databases: Databases, entity: Entity, keys: Sequence[str]) -> Acknowledged:
    """Retry replies that rows refused before. Neon is not asked again; an edited row has its own delivery.

    Returns:
        What became of the replies.

    Raises:
        psycopg.Error: a transient fault; retry.
    """
    route = databases.routes[entity.name]
    replies = [reply for reply in route.postponed.replies(keys) if isinstance(reply, Reply)]
    async with databases.supabase.connection() as supabase:
        await send(supabase, *begin())
        return await acknowledge(route, supabase, replies, [])


async def release_again(databases: Databases, entity: Entity, keys: Sequence[str]) -> None:
    """Release the rows that wait for these records and were locked when the records were promoted.

    Raises:
        psycopg.Error: a transient fault; retry.
    """
    route = databases.routes[entity.name]
    waiting = route.unreleased
    async with databases.supabase.connection() as supabase:
        try:
            released = await transact(supabase, *route.release.waiting_for(keys))
        except psycopg.Error as error:
            await roll_back_refusal(supabase, error)
            waiting.forget(keys)
            await _release_singly(route, supabase, keys)
            return
        held = any(row["held"] for result in released for row in result.fetchall())
    if held:
        waiting.put(Cause.HELD, [(key, None) for key in keys], "")
    else:
        waiting.forget(keys)


async def _release_singly(route: Route, supabase: Connection, promoted: Sequence[str]) -> None:
    """Release waiting rows one record at a time, after one refused: a row that refuses is left to the pull."""
    for key in promoted:
        for step in route.release.waiting_for([key]):
            try:
                [released] = await transact(supabase, step)
            except psycopg.Error as error:
                await roll_back_refusal(supabase, error)
                _log_refused("release.refused", route, key, in_one_line(error))
            else:
                if any(row["held"] for row in released.fetchall()):
                    route.unreleased.put(Cause.HELD, [(key, None)], "")


async def release_ready(route: Route, neon: Connection, supabase: Connection, waiting: dict[str, Data]) -> list[str]:
    """Put the waiting rows whose requirements are now met back in the queue. A row that is locked, or refuses, is left
    for the next time.
    """
    keys = await route.invalid.ready(neon, waiting)
    if not keys:
        return []
    try:
        await transact(supabase, route.release.rows(keys))
    except psycopg.Error as error:
        await roll_back_refusal(supabase, error)
        if len(keys) == 1:
            _log_refused("release.refused", route, keys[0], in_one_line(error))
            return []
        half = len(keys) // 2
        parts = ({key: waiting[key] for key in some} for some in (keys[:half], keys[half:]))
        return [key for part in parts for key in await release_ready(route, neon, supabase, part)]
    return keys


def _log_refused(event: str, route: Route, key: str, reason: str) -> None:
    """Log one line for a reason that repeats."""
    if (times := _throttle.seen(reason)) is not None:
        log.warning(event, entity=route.entity.name, key=key, error=reason, times=times)
