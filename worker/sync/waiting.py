"""Rows that wait for something in Neon: released when it is there, or when Neon has corrected the record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import psycopg

from worker.domain import messages
from worker.domain.lineage import is_older
from worker.domain.model import Outcome
from worker.domain.steps import same_delivery
from worker.postgres.connection import Connection
from worker.postgres.transaction import transact
from worker.supabase.bisect import Refusals, for_each_accepted
from worker.sync.catch_up import look_at
from worker.sync.route import Route

PAGE = 1_500
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
        go_on: called before each part, so that a million rows do not cost the pull its place; it may raise.

    Returns:
        How many were released.
    """
    entity = route.entity

    async def refuse(key: str, error: psycopg.Error) -> None:
        refusals.add(entity, key, error)

    async def release(keys: Sequence[str], note: str) -> int:
        async def release_rows(some: Sequence[str]) -> None:
            await transact(supabase, route.release.rows(some, note))

        return await for_each_accepted(supabase, release_rows, keys, refuse) if keys else 0

    released = await release(await _promoted_after_all(route, neon, supabase, go_on), messages.RELEASED)
    if not entity.requirements:
        return released

    after: str | None = None

    async def release_page() -> int | None:
        """A function, so that nothing of a page is kept while the next one is read."""
        nonlocal after
        if not (page := await route.workspace.waiting(supabase, after, PAGE)):
            return None
        await go_on()
        after = page[-1].key
        ready = await route.invalid.ready(neon, {row.key: entity.rules.normalise(row.data) for row in page})
        left = {row.key: row.snapshot for row in page}
        for key in ready:
            del left[key]
        corrected = await route.invalid.corrected(neon, left)
        return await release(ready, messages.RELEASED) + await release(corrected, messages.CORRECTED)

    while (more := await release_page()) is not None:
        released += more
    return released


async def _promoted_after_all(
    route: Route, neon: Connection, supabase: Connection, go_on: Callable[[], Awaitable[None]]
) -> list[str]:
    """The keys of rows that wait for a record which Neon had lost, and which it has promoted by its ledger: it was
    restored once more, to a later moment. Their delivery acknowledges that.
    """
    found: list[str] = []
    for keys in route.batches(await route.workspace.sent_and_lost(supabase)):
        await go_on()
        promoted = sorted(set(keys) - set(await route.invalid.missing_in_master(neon, keys)))
        for row, neon_state in await look_at(route, neon, supabase, promoted):
            if (latest := neon_state.latest) and latest.outcome is Outcome.PROMOTED:
                known = same_delivery(latest.receipt.hash, row.claimed.delivery_hash)
                if row.undelivered and (known or is_older(row.claimed, latest.sent)):
                    found.append(row.claimed.key)
    return found
