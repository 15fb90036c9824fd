"""Supabase: one look at everything that may have happened there without a notification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from worker.domain.postponed import Postponed
from worker.entities.worker_tables import OUTBOX, PAUSED, POSITION
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import fetch_inside
from worker.supabase.channels import ALIVE
from worker.supabase.position import IS_DUE
from worker.supabase.queue import IS_WORK, Queue

_LOOK = statement("worker.supabase", "look")
_HAS_EVENT = sql.SQL("EXISTS (SELECT FROM {} o WHERE o.entity = {})")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of an entity."""

    paused_at: datetime | None
    """Since when it is paused, UTC without zone; None if it is not. A paused one has no work, and no pull is due."""
    has_work: bool
    """Whether its queue has work that is not postponed."""
    is_due: bool
    """Whether its pull is due."""
    has_event: bool
    """Whether an event waits to be posted."""
    changes: str | None
    """Another text where the workspace table or the pull's position has changed; None where that is not known."""


async def look(
    connection: Connection, queues: Mapping[Queue, Postponed], pull_interval: float, *, events: bool
) -> dict[str, Seen]:
    """Look at all entities, in one statement.

    Args:
        connection: in autocommit.
        queues: each entity's queue, and its postponed rows.
        pull_interval: seconds after which an entity is pulled again.
        events: whether events are posted.

    Returns:
        Entity → what was seen.

    Raises:
        psycopg.Error: the database failed.
    """
    parts: list[sql.Composable] = []
    params: dict[str, object] = {"interval": pull_interval}
    for queue, postponed in queues.items():
        name, table = sql.Literal(queue.entity.name), queue.entity.workspace_table
        but, more = queue.but(postponed)
        params |= more
        parts.append(
            _LOOK.format(
                name=name, workspace=table.sql, table_name=sql.Literal(table.sql.as_string()), is_work=IS_WORK, but=but,
                is_due=IS_DUE, position=POSITION.sql, paused=PAUSED.sql, channel=sql.Literal(ALIVE),
                has_event=_HAS_EVENT.format(OUTBOX.sql, name) if events else sql.SQL("false"),
            )
        )  # fmt: skip
    rows = await fetch_inside(connection, sql.SQL(" UNION ALL ").join(parts), params)
    return {
        row["entity"]: Seen(row["paused_at"], row["has_work"], row["is_due"], row["has_event"], row["changes"])
        for row in rows
    }
