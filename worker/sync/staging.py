"""Supabase: put a pull's rows into the workspace: new ones by COPY or INSERT; those that differ are named."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from worker.entities.declaration import Entity, key_sql
from worker.neon.invalid import Form, pulled_columns
from worker.postgres.binary import Texts, fields_of, text_of
from worker.postgres.connection import Connection, within
from worker.postgres.statements import statement
from worker.postgres.transaction import COMMIT, ROLLBACK, begin, fetch_one, send, transact
from worker.schema.causes import common_cause, is_taken_id, repeated_ids, sequence_behind
from worker.supabase.queue import CODE
from worker.sync.batches import Batches

PATIENCE = 60.0
TRIES = 3
"""How often a batch is retried when the id that a row was given is taken, and the next one is free."""


# The batch is small and the workspace may be huge: each of the batch's rows is looked up by the unique index.
_PLANNER = ("enable_hashjoin", "enable_mergejoin", "enable_seqscan")
_COMPARE = statement("worker.sync", "compare")
_INSPECT = statement("worker.sync", "inspect_workspace")
# OFFSET keeps the planner from reading an array once for each of its elements.
_INSERT = sql.SQL("""
INSERT INTO {workspace} ({columns})
SELECT {values} FROM (SELECT r.line::text[] AS a FROM unnest(%(rows)s) AS r (line) OFFSET 0) r
ON CONFLICT ({key}) DO NOTHING
""")


@dataclass(frozen=True)
class Staged:
    """The result of staging a batch of Neon's rows."""

    new: int
    """How many were inserted."""
    would_be: list[str]
    """The keys of those that would be inserted; dry run only."""
    changed: list[str]
    """The keys of those that differ from the existing rows."""


@dataclass(frozen=True)
class WorkspaceTable:
    """The workspace table of an entity when a pull begins; it takes the rows that the pull brings."""

    entity: Entity
    vacant: bool
    """Whether it has no rows."""
    direct: bool
    """Whether it takes rows by COPY; row level security forbids that."""
    casts: Mapping[str, str]
    """Column → what SQL writes after a text to make it a value of the column's type: without a length, and nothing for
    a kind of text, so that a value that is too long is refused when it is assigned, not cut before.
    """

    @property
    def form(self) -> Form:
        """The form in which rows are to be streamed that :meth:`load` takes."""
        return Form.COLUMNS if self.direct else Form.ARRAYS

    async def load(self, connection: Connection, batches: Batches) -> int:
        """Put a batch of Neon's rows straight into the table, if it was empty.

        Args:
            connection: to Supabase.
            batches: of rows in :attr:`form`.

        Returns:
            How many were inserted: all, or fewer if some have come by another way.

        Raises:
            psycopg.Error: none of them was inserted.
            SetupMissing: the ids that it gives to new rows are taken.
        """
        if self.direct:
            return await self._copy(connection, batches.blocks())
        return await self._insert(connection, [field for row in await batches.next_batch() for field in fields_of(row)])

    async def _copy(self, connection: Connection, blocks: AsyncIterable[Sequence[bytes]]) -> int:
        into = sql.SQL("COPY {} ({}) FROM STDIN").format(self.entity.workspace_table.sql, _columns(self.entity))
        # Rows lost in a crash come with the next pull: the commit of a position after them waits for the disk.
        await send(connection, *begin(statement=300.0, durable=False))
        async with connection.cursor() as cursor:
            async with cursor.copy(into) as copy:
                async for block in blocks:
                    with within(connection, PATIENCE):
                        await copy.write(b"".join(block))
            rows = cursor.rowcount
        await send(connection, COMMIT)
        return rows

    async def stage(self, connection: Connection, rows: Sequence[bytes], *, dry_run: bool) -> Staged:
        """Bring a batch of Neon's rows into the table: insert new ones, return those that differ. It needs no staging
        table, because DDL may be forbidden.

        Args:
            connection: to Supabase.
            rows: of the form ``COMPARED``.
            dry_run: write nothing.

        Raises:
            psycopg.Error: the workspace refuses one of them, or the database failed: none was inserted.
            SetupMissing: the ids that it gives to new rows are taken.
        """
        keys, compared, whole = zip(*map(fields_of, rows), strict=True)
        workspace = self.entity.workspace_table.sql
        params = {"keys": Texts(keys), "compared": Texts(compared)}
        step = _COMPARE.format(**key_sql(self.entity), workspace=workspace, code=CODE), params
        opening = begin(read_only=True, statement=300.0, planner=_PLANNER)
        [told] = await transact(connection, step, opening=opening, seconds=600.0)
        found = told.fetchall()
        new = [row["nr"] for row in found if row["new"]]
        changed = [text_of(keys[row["nr"]]) for row in found if not row["new"]]
        inserted = await self._insert(connection, [whole[nr] for nr in new]) if new and not dry_run else 0
        return Staged(inserted, [text_of(keys[nr]) for nr in new] if dry_run else [], changed)

    async def _insert(self, connection: Connection, rows: Sequence[bytes]) -> int:
        entity = self.entity
        casts = (self.casts[name].replace("%", "%%") for name in pulled_columns(entity))
        statement = _INSERT.format(
            key=sql.Identifier(entity.key),
            workspace=entity.workspace_table.sql,
            columns=_columns(entity),
            values=sql.SQL(", ").join(sql.SQL(f"r.a[{nr}]{cast}") for nr, cast in enumerate(casts, 1)),
        )
        # Rows lost in a crash come with the next pull: the commit of a position after them waits for the disk.
        opening, params = begin(statement=300.0, durable=False), {"rows": Texts(rows)}
        for _ in range(TRIES):
            try:
                [inserted] = await transact(connection, (statement, params), opening=opening, seconds=600.0)
            except psycopg.errors.UniqueViolation as error:
                await send(connection, ROLLBACK)
                if not await is_taken_id(connection, entity, error):
                    raise
                if fault := await sequence_behind(connection, entity):
                    raise fault from error
                continue  # only that id was taken
            return inserted.rowcount
        raise await repeated_ids(connection, entity)


async def inspect_table(connection: Connection, entity: Entity) -> WorkspaceTable:
    """Inspect the workspace table.

    Raises:
        SetupMissing: it lacks a column.
    """
    table = entity.workspace_table.sql
    statement = _INSPECT.format(table=table, name=sql.Literal(table.as_string()))
    row = await fetch_one(connection, statement)
    found = WorkspaceTable(entity, row["vacant"], row["direct"], row["casts"])
    if not found.casts.keys() >= set(pulled_columns(entity)) and (cause := await common_cause(connection, entity)):
        raise cause
    return found


def _columns(entity: Entity) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, pulled_columns(entity)))


def key_of(row: bytes) -> str:
    """The key of a row of the form ``COMPARED``."""
    return text_of(fields_of(row)[0])
