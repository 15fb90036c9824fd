"""Supabase: the entities that an operator has paused. No worker claims or pulls a record of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from psycopg import sql

from worker.entities.declaration import Entity
from worker.entities.worker_tables import PAUSED
from worker.postgres.connection import Connection
from worker.postgres.transaction import fetch_inside, transact
from worker.supabase.channels import ALIVE, CHANGED, CHANNEL, work_of


class Paused(Exception):
    """Entities are paused: what was asked for is not done."""

    def __init__(self, names: Sequence[str]) -> None:
        """Create the error.

        Args:
            names: of the entities.
        """
        commands = " and ".join(f"`enrichment-worker resume {name}`" for name in names)
        verb, it = ("is", "it") if len(names) == 1 else ("are", "them")
        super().__init__(f"{' and '.join(names)} {verb} paused: {commands} first, or leave {it} out with --entity")


def not_paused(entity: Entity) -> sql.Composed:
    """The condition that an entity is not paused: asked once in a statement, not for each row."""
    return sql.SQL("NOT EXISTS (SELECT FROM {} z WHERE z.entity = {})").format(PAUSED.sql, sql.Literal(entity.name))


_PAUSE = sql.SQL("INSERT INTO {} (entity) VALUES (%(entity)s) ON CONFLICT DO NOTHING").format(PAUSED.sql)
_RESUME = sql.SQL("DELETE FROM {} WHERE entity = %(entity)s").format(PAUSED.sql)
_READ = sql.SQL(
    "SELECT entity, paused_at AT TIME ZONE 'UTC' AS paused_at FROM {} WHERE entity = ANY(%(entities)s)"
).format(PAUSED.sql)
_NOTIFY = sql.SQL("SELECT pg_notify(%(channel)s, %(payload)s)")


def _notify(channel: str, payload: str) -> tuple[sql.SQL, dict[str, Any]]:
    return _NOTIFY, {"channel": channel, "payload": payload}


async def pause(connection: Connection, entity: Entity) -> tuple[datetime, bool]:
    """Pause an entity for all workers. What is claimed when it commits is finished.

    Returns:
        Since when it is paused, UTC without zone; whether it was paused before.

    Raises:
        psycopg.Error: the database failed.
    """
    made, found, _ = await transact(
        connection,
        (_PAUSE, {"entity": entity.name}),
        (_READ, {"entities": [entity.name]}),
        _notify(ALIVE, CHANGED),
    )
    [row] = found.fetchall()
    return row["paused_at"], made.rowcount == 0


async def resume(connection: Connection, entity: Entity) -> bool:
    """Let an entity go on, and wake all workers.

    Returns:
        Whether it was paused.

    Raises:
        psycopg.Error: the database failed.
    """
    ended, *_ = await transact(
        connection, (_RESUME, {"entity": entity.name}), _notify(CHANNEL, work_of(entity)), _notify(ALIVE, CHANGED)
    )
    return ended.rowcount > 0


async def paused_among(connection: Connection, entities: Iterable[Entity]) -> dict[str, datetime]:
    """Entity → since when it is paused, UTC without zone; read within the open transaction, if there is one."""
    rows = await fetch_inside(connection, _READ, {"entities": [entity.name for entity in entities]})
    return {row["entity"]: row["paused_at"] for row in rows}


async def require_running(connection: Connection, entities: Iterable[Entity]) -> None:
    """Check that none of these entities is paused; within the open transaction, if there is one.

    Raises:
        Paused: some are.
        psycopg.Error: the database failed.
    """
    names = [entity.name for entity in entities]
    if found := await paused_among(connection, entities):
        raise Paused([name for name in names if name in found])
