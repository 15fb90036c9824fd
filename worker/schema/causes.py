"""Why the workspace refuses a record, if it is not the record's fault: then it would refuse every other one, too."""

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
    """What is wrong with the workspace table now: a column that nobody fills, or another type; None if it is right. A
    sequence behind its rows is no cause as long as its next ids are free.
    """
    mismatches, _ = await _examine(connection, entity)
    blocking = [mismatch for mismatch in mismatches if not mismatch.harmless]
    return SetupMissing(problems_of(blocking)) if blocking else None


async def is_taken_id(connection: Connection, entity: Entity, error: psycopg.errors.UniqueViolation) -> bool:
    """Whether a row was refused because of its ``id``, which the table itself assigned."""
    table = sql.Identifier(error.diag.schema_name or "", error.diag.table_name or "").as_string(connection)
    columns = await catalogue.constrained(connection, table, error.diag.constraint_name or "")
    return "id" in columns and entity.key not in columns


async def sequence_behind(connection: Connection, entity: Entity) -> SetupMissing | None:
    """The error for a taken ``id`` if the sequence is behind its rows; None if its next ids are free."""
    mismatches, _ = await _examine(connection, entity)
    problems = problems_of(mismatches)
    return SetupMissing(problems) if problems else None


async def repeated_ids(connection: Connection, entity: Entity) -> SetupMissing:
    """The error for ids that are taken again and again, although no sequence is behind."""
    _, found = await _examine(connection, entity)
    default = await catalogue.default_of(connection, found.sql, "id")
    highest = sql.SQL("SELECT coalesce(max(id), 0)::bigint AS id FROM {}").format(entity.workspace_table.sql)
    row = await fetch_one(connection, highest)
    text = (
        f"Supabase's {entity.workspace_table}.id is numbered by {default or 'no default'}, which gives numbers that"
        f" rows have already: new {entity.plural} are refused"
    )
    return SetupMissing([SchemaProblem(text, fixes.numbered_anew(found, found.columns["id"], row["id"] + 1))])


async def _examine(connection: Connection, entity: Entity) -> tuple[Sequence[Mismatch], Found]:
    table = entity.workspace_table
    wanted = [shape for shape in shapes([entity]) if shape.table == table]
    mismatches, found = await examine(connection, SUPABASE, wanted, [entity], {})
    return mismatches, found[table]
