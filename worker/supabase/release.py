"""Supabase: rows that wait for another record, put back in the queue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from psycopg import sql

from worker.domain import messages
from worker.entities.declaration import Entity
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, composed

_RELEASE = statement("worker.supabase", "release")


def release(entity: Entity, keys: Sequence[str], *, by: str = "waiting_for", note: str = messages.RELEASED) -> Step:
    """The step that puts waiting rows back in the queue, and returns whether another transaction holds one. An edited
    row goes back by itself.

    Args:
        entity: whose rows wait.
        keys: the keys that they wait for, or their own.
        by: the column that ``keys`` are from.
        note: the new note of the rows.
    """
    return _release(entity, by), {"keys": list(keys), "note": note}


@cache
def _release(entity: Entity, by: str) -> sql.SQL:
    return composed(_RELEASE.format(workspace=entity.workspace_table.sql, column=sql.Identifier(by)))


def releases(entity: Entity, promoted: Sequence[str]) -> list[Step]:
    """The steps that release the rows that wait for these records of ``entity``."""
    if not promoted:
        return []
    return [release(other, promoted) for other in entity.releases]
