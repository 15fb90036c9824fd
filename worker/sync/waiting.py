"""Rows that wait for something in Neon: released when it is there, or when Neon has corrected the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from worker.domain import messages
from worker.domain.model import Data
from worker.entities.declaration import Entity, data_of
from worker.neon import invalid
from worker.postgres.connection import Connection
from worker.postgres.transaction import fetch_all, transact
from worker.supabase.bisect import Refusals, for_each_accepted
from worker.supabase.release import release

PAGE = 5_000
"""Rows that are checked together: 700,000 at once are too many for a database."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A row that waits for something in Neon."""

    key: str
    data: Data
    snapshot: Data
    """The data columns as Neon and the workspace last agreed on them."""


async def _waiting(connection: Connection, entity: Entity, after: str, limit: int) -> list[_Waiting]:
    """Rows that wait, in key order: only keys greater than ``after``, and at most ``limit``."""
    statement = sql.SQL(
        "SELECT w.{key} AS key, {data} AS data, w.neon_snapshot AS snapshot FROM {workspace} w"
        " WHERE w.waiting_for IS NOT NULL AND w.sync_code IS DISTINCT FROM 'lost' AND w.{key} > %(after)s"
        " ORDER BY w.{key} LIMIT %(limit)s"
    ).format(key=sql.Identifier(entity.key), data=data_of(entity, "w"), workspace=entity.workspace_table.sql)
    params = {"after": after, "limit": limit}
    rows = await fetch_all(connection, statement, params)
    return [
        _Waiting(row["key"], row["data"], {name: (row["snapshot"] or {}).get(name) for name in entity.columns})
        for row in rows
    ]


async def release_waiting(neon: Connection, supabase: Connection, entity: Entity, refusals: Refusals) -> int:
    """Release every waiting row whose requirements are now met, whose record is no longer in Neon, or whose record has
    changed there since both sides agreed on it: it may wait for something else now. Page by page.

    Args:
        neon: to Neon.
        supabase: to Supabase.
        entity: whose rows.
        refusals: counts the rows that the workspace refuses to release.

    Returns:
        How many were released.
    """
    if not entity.requirements:
        return 0

    async def refuse(key: str, error: psycopg.Error) -> None:
        refusals.add(entity, key, error)

    released, after = 0, ""
    while page := await _waiting(supabase, entity, after, PAGE):
        after = page[-1].key
        ready = await invalid.ready(neon, entity, {row.key: entity.rules.normalise(row.data) for row in page})
        left = {row.key: row.snapshot for row in page}
        for key in ready:
            del left[key]
        for keys, note in (
            (ready, messages.RELEASED),
            (await invalid.corrected(neon, entity, left), messages.CORRECTED),
        ):

            async def release_rows(some: Sequence[str], note: str = note) -> None:
                await transact(supabase, release(entity, some, by=entity.key, note=note))

            released += await for_each_accepted(supabase, release_rows, keys, refuse) if keys else 0
    return released
