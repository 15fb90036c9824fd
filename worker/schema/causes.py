"""Cause the workspace refuses a record, where that is no fault of the record's own: it would refuse every other one."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from worker.entities.declaration import Entity
from worker.neon import catalogue
from worker.neon.catalogue import Found
from worker.postgres.connection import Connection
from worker.postgres.errors import SchemaProblem, SetupMissing
from worker.postgres.transaction import fetch_one
from worker.schema import fixes
from worker.schema.examination import examine, problems_of
from worker.schema.mismatches import Mismatch
from worker.schema.shape import SUPABASE, shapes


async def common_cause(connection: Connection, entity: Entity) -> SetupMissing | None:
    """In what the workspace table is not as it has to be by now: a column that nobody fills, another type; None where
    it is. A sequence behind its rows is no cause as long as its numbers are free.
    """
    mismatches, _ = await _look(connection, entity)
    grave = [mismatch for mismatch in mismatches if not mismatch.harmless]
    return SetupMissing(problems_of(grave)) if grave else None


async def taken_number(connection: Connection, entity: Entity, error: psycopg.errors.UniqueViolation) -> bool:
    """Whether it was refused for its ``id``, which the table itself gave it."""
    table = sql.Identifier(error.diag.schema_name or "", error.diag.table_name or "").as_string(connection)
    columns = await catalogue.constrained(connection, table, error.diag.constraint_name or "")
    return "id" in columns and entity.key not in columns


async def behind(connection: Connection, entity: Entity) -> SetupMissing | None:
    """What is to be said of numbers that are taken, where the table's next ones are too; None where those are free."""
    mismatches, _ = await _look(connection, entity)
    problems = problems_of(mismatches)
    return SetupMissing(problems) if problems else None


async def own_numbers(connection: Connection, entity: Entity) -> SetupMissing:
    """What is to be said of numbers that are taken again and again, though no sequence is behind."""
    _, found = await _look(connection, entity)
    default = await catalogue.default_of(connection, found.sql, "id")
    highest = sql.SQL("SELECT coalesce(max(id), 0)::bigint AS id FROM {}").format(entity.workspace_table.sql)
    row = await fetch_one(connection, highest)
    text = (
        f"Supabase's {entity.workspace_table}.id is numbered by {default or 'no default'}, which gives numbers that"
        f" rows have already: new {entity.plural} are refused"
    )
    return SetupMissing([SchemaProblem(text, fixes.numbered_anew(found, found.columns["id"], row["id"] + 1))])


async def _look(connection: Connection, entity: Entity) -> tuple[Sequence[Mismatch], Found]:
    table = entity.workspace_table
    wanted = [shape for shape in shapes([entity]) if shape.table == table]
    mismatches, found = await examine(connection, SUPABASE, wanted, [entity], {})
    return mismatches, found[table]
