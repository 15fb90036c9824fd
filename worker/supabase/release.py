"""Supabase: rows that wait for another record, put back in the queue."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from worker.domain import messages
from worker.entities.declaration import Entity, key_sql
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, composed

_RELEASE = statement("worker.supabase", "release")


class Release:
    """Puts waiting rows back in the queue: of an entity, and of others that wait for its records.

    Its steps return whether another transaction holds a row. An edited row goes back by itself.
    """

    def __init__(self, entity: Entity) -> None:
        """Compose the statements."""
        self._own = _compose(entity, entity.key)
        self._others = [_compose(other, "waiting_for") for other in entity.releases]

    def rows(self, keys: Sequence[str], note: str = messages.RELEASED) -> Step:
        """The step that releases the rows with these keys, which get this note."""
        return self._own, {"keys": list(keys), "note": note}

    def waiting_for(self, promoted: Sequence[str]) -> list[Step]:
        """The steps that release the rows, of other entities, that wait for these records."""
        if not promoted:
            return []
        return [(other, {"keys": list(promoted), "note": messages.RELEASED}) for other in self._others]


def parts(entity: Entity, by: str, number: int = 0) -> tuple[sql.Composed, sql.Composed]:
    """The parts of a statement that release the rows of an entity.

    Args:
        entity: whose rows.
        by: the column whose values are ``%(keys)s``: its key, or what its rows wait for.
        number: of these parts in the statement.

    Returns:
        The CTEs, and whether another transaction holds a row. An edited row goes back by itself.
    """
    cast = key_sql(entity)["keys_cast"] if by == entity.key else sql.SQL("")
    due, freed = sql.Identifier(f"due_{number}"), sql.Identifier(f"freed_{number}")
    names = {"workspace": entity.workspace_table.sql, "column": sql.Identifier(by), "keys_cast": cast}
    held = sql.SQL("EXISTS (SELECT id FROM {} EXCEPT SELECT id FROM {})").format(due, freed)
    return _RELEASE.format(due=due, freed=freed, **names), held


def _compose(entity: Entity, by: str) -> sql.SQL:
    ctes, held = parts(entity, by)
    return composed(sql.SQL("WITH {} SELECT {} AS held").format(ctes, held))
