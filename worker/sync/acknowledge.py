"""Tell the enrichers in their rows. A row that refuses what it is told, by the customer's own constraints or triggers,
keeps nobody else from hearing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import psycopg
import structlog

from worker.domain.aside import Why
from worker.domain.model import Data
from worker.entities.declaration import Entity
from worker.neon import invalid
from worker.postgres.errors import Kind, Storm, in_one_line, kind_of
from worker.postgres.hints import is_everybodys
from worker.postgres.pool import COMMIT, ROLLBACK, Connection, Step, begin, send
from worker.supabase import queue
from worker.supabase.queue import Reply
from worker.sync.databases import Bridge

log = structlog.get_logger("worker.delivery")

_storm = Storm()


@dataclass
class Telling:
    """What became of replies."""

    told: int = 0
    missed: int = 0
    """Rows that are not what they were when they were claimed, and were not told."""
    refused: dict[str, tuple[Reply, str]] = field(default_factory=dict)
    """Key → what the row does not take, and the server's reason."""
    unreleased: bool = False
    """Whether somebody holds a row that was to be released."""


async def tell(
    bridge: Bridge,
    here: Connection,
    entity: Entity,
    replies: Sequence[Reply],
    promoted: Sequence[str],
    events: Sequence[Step] = (),
) -> Telling:
    """Acknowledge, wake whoever waits for what was promoted, announce it, and commit the claim: one round trip.

    A row whose own constraints refuse the normalised values is told everything else. What is refused altogether, and
    who could not be woken, is put aside, to be tried again.

    Args:
        bridge: where that is kept.
        here: to Supabase, in the transaction of the claim.
        entity: whose rows.
        replies: what they are to be told.
        promoted: keys of the records that others may wait for.
        events: the steps that announce it.

    Raises:
        psycopg.Error: the rows are still in the queue, and Neon knows what became of them.
    """
    released = queue.releases(entity, promoted)
    try:
        results = await send(here, queue.acknowledge(entity, replies), *released, *events, COMMIT)
    except psycopg.Error as error:
        if kind_of(error) is Kind.TRANSIENT:
            raise
        await send(here, ROLLBACK)
        telling = await _tell_apart(here, entity, replies)
        await _release_apart(bridge, here, entity, promoted)
        if events:
            await send(here, *begin(), *events, COMMIT)
    else:
        told = results[0].rowcount
        telling = Telling(told, len(replies) - told)
        telling.unreleased = any(row["held"] for result in results[1 : 1 + len(released)] for row in result.fetchall())
    if telling.unreleased:
        bridge.unreleased[entity.name].put(Why.HELD, [(key, None) for key in promoted], "")
    aside = bridge.aside[entity.name]
    aside.forget(reply.key for reply in replies if reply.key not in telling.refused)
    for key, (reply, reason) in telling.refused.items():
        aside.put(Why.REPLY, [(key, reply.version)], reason, reply=reply)
    return telling


async def _tell_apart(here: Connection, entity: Entity, replies: Sequence[Reply]) -> Telling:
    """Tell each row by itself.

    Raises:
        psycopg.Error: no row takes anything, and not for what it is told: a privilege is missing, say.
    """
    telling, latest = Telling(), None
    for reply in replies:
        try:
            told = await _tell_one(here, entity, reply)
        except psycopg.Error as error:
            if kind_of(error) is Kind.TRANSIENT:
                raise
            await send(here, ROLLBACK)
            latest = error
            telling.refused[reply.key] = reply, in_one_line(error)
        else:
            telling.told += told
            telling.missed += 1 - told
    if latest and len(telling.refused) == len(replies) and is_everybodys(latest):
        raise latest
    for key, (_, reason) in telling.refused.items():
        _log_refused("reply.refused", entity, key, reason)
    return telling


async def _tell_one(here: Connection, entity: Entity, reply: Reply) -> int:
    try:
        results = await send(here, *begin(), queue.acknowledge(entity, [reply]), COMMIT)
    except psycopg.Error as error:
        if kind_of(error) is Kind.TRANSIENT or reply.data is None:
            raise
        await send(here, ROLLBACK)
        note = f"{reply.note} The values as they were carried do not fit this table: {in_one_line(error)}"
        return await _tell_one(here, entity, replace(reply, data=None, note=note))
    return results[2].rowcount


async def tell_again(bridge: Bridge, entity: Entity, keys: Sequence[str]) -> Telling:
    """Tell rows what they refused before. Neon is not asked again; an edited row has its own delivery.

    Returns:
        What became of it.

    Raises:
        psycopg.Error: a fault that passes; tell again.
    """
    aside = bridge.aside[entity.name]
    replies = [reply for reply in aside.replies(keys) if isinstance(reply, Reply)]
    async with bridge.supabase.connection() as here:
        await send(here, *begin())
        return await tell(bridge, here, entity, replies, [])


async def release_again(bridge: Bridge, entity: Entity, keys: Sequence[str]) -> None:
    """Wake whoever waits for these records and was held by somebody when they were promoted.

    Raises:
        psycopg.Error: a fault that passes; release again.
    """
    waiting = bridge.unreleased[entity.name]
    async with bridge.supabase.connection() as here:
        steps = queue.releases(entity, keys)
        try:
            results = await send(here, *begin(), *steps, COMMIT)
        except psycopg.Error as error:
            if kind_of(error) is Kind.TRANSIENT:
                raise
            await send(here, ROLLBACK)
            waiting.forget(keys)
            await _release_apart(bridge, here, entity, keys)
            return
        held = any(row["held"] for result in results[2 : 2 + len(steps)] for row in result.fetchall())
    if held:
        waiting.put(Why.HELD, [(key, None) for key in keys], "")
    else:
        waiting.forget(keys)


async def _release_apart(bridge: Bridge, here: Connection, entity: Entity, promoted: Sequence[str]) -> None:
    """Wake whoever waits, row by row where one of them refuses it: such a row is left to the pull."""
    for key in promoted:
        for step in queue.releases(entity, [key]):
            try:
                results = await send(here, *begin(), step, COMMIT)
            except psycopg.Error as error:
                if kind_of(error) is Kind.TRANSIENT:
                    raise
                await send(here, ROLLBACK)
                _log_refused("release.refused", entity, key, in_one_line(error))
            else:
                if any(row["held"] for row in results[2].fetchall()):
                    bridge.unreleased[entity.name].put(Why.HELD, [(key, None)], "")


async def release_ready(there: Connection, here: Connection, entity: Entity, waits: dict[str, Data]) -> list[str]:
    """Put those waiting rows back in the queue whose requirements are met by now. A row that somebody holds, or that
    refuses it, is left for the next time.
    """
    keys = await invalid.ready(there, entity, waits)
    if not keys:
        return []
    try:
        await send(here, *begin(), queue.release(entity, keys, by=entity.key), COMMIT)
    except psycopg.Error as error:
        if kind_of(error) is Kind.TRANSIENT:
            raise
        await send(here, ROLLBACK)
        if len(keys) == 1:
            _log_refused("release.refused", entity, keys[0], in_one_line(error))
            return []
        half = len(keys) // 2
        parts = ({key: waits[key] for key in some} for some in (keys[:half], keys[half:]))
        return [key for part in parts for key in await release_ready(there, here, entity, part)]
    return keys


def _log_refused(event: str, entity: Entity, key: str, reason: str) -> None:
    """One line for a reason that comes again and again."""
    if (times := _storm.seen(reason)) is not None:
        log.warning(event, entity=entity.name, key=key, error=reason, times=times)
