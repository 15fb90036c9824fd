"""Rows that wait for something in Neon: released when it is there, or when Neon has corrected the record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import psycopg

from worker.domain import messages
from worker.postgres.connection import Connection
from worker.postgres.transaction import transact
from worker.supabase.bisect import Refusals, for_each_accepted
from worker.sync.route import Route

PAGE = 5_000
"""Rows that are checked together: 700,000 at once are too many for a database."""


async def release_waiting(
    route: Route,
    neon: Connection,
    supabase: Connection,
    refusals: Refusals,
    go_on: Callable[[], Awaitable[None]],
) -> int:
    """Release every waiting row whose requirements are now met, whose record is no longer in Neon, or whose record has
    changed there since both sides agreed on it: it may wait for something else now. Page by page.

    Args:
        route: of the rows.
        neon: to Neon.
        supabase: to Supabase.
        refusals: counts the rows that the workspace refuses to release.
        go_on: called before each page, so that a million rows do not cost the pull its place; it may raise.

    Returns:
        How many were released.
    """
    entity = route.entity
    if not entity.requirements:
        return 0

    async def refuse(key: str, error: psycopg.Error) -> None:
        refusals.add(entity, key, error)

    released, after = 0, None
    while page := await route.workspace.waiting(supabase, after, PAGE):
        await go_on()
        after = page[-1].key
        ready = await route.invalid.ready(neon, {row.key: entity.rules.normalise(row.data) for row in page})
        left = {row.key: row.snapshot for row in page}
        for key in ready:
            del left[key]
        for keys, note in (
            (ready, messages.RELEASED),
            (await route.invalid.corrected(neon, left), messages.CORRECTED),
        ):

            async def release_rows(some: Sequence[str], note: str = note) -> None:
                await transact(supabase, route.release.rows(some, note))

            released += await for_each_accepted(supabase, release_rows, keys, refuse) if keys else 0
    return released
