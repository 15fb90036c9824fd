"""Supabase: insert a pull's rows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from worker.entities.declaration import Entity, key_sql
from worker.neon.invalid import PULLED
from worker.postgres.connection import Connection, within
from worker.postgres.statements import statement
from worker.postgres.transaction import COMMIT, ROLLBACK, begin, fetch_one, send, transact
from worker.schema.causes import common_cause, is_taken_id, repeated_ids, sequence_behind
from worker.supabase.queue import CODE

PATIENCE = 60.0
BATCH_BYTES = 64 * 1024 * 1024
"""A batch of large rows ends at this size: a database takes 1 GB at once, and this process has less memory."""
TRIES = 3
"""How often a batch is retried when the id that a row was given is taken, and the next one is free."""


# The batch is small and the workspace may be huge: each of the batch's rows is looked up by the unique index.
_PLANNER = ("enable_hashjoin", "enable_mergejoin", "enable_seqscan")
_COMPARE = statement("worker.sync", "compare")
_INSERT = sql.SQL("""
INSERT INTO {workspace} ({columns}) SELECT {columns} FROM json_to_recordset(%(rows)s) AS s ({typed})
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
    types: Mapping[str, str]
    """Column → its type as SQL writes it, with its length, so that a value that is too long is refused, not cut."""

    async def load(self, connection: Connection, blocks: AsyncIterable[Sequence[bytes]]) -> int:
        """Copy a batch of Neon's rows straight into the table, if it was empty. Returns how many.

        Args:
            connection: to Supabase.
            blocks: rows in COPY's text format, as :meth:`worker.neon.invalid.Invalid.stream` yields them.

        Raises:
            psycopg.Error: none of them was inserted.
        """
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
            rows: as :meth:`worker.neon.invalid.Invalid.stream` yields them as JSON.
            dry_run: write nothing.

        Raises:
            psycopg.Error: the workspace refuses one of them, or the database failed: none was inserted.
            SetupMissing: the ids that it gives to new rows are taken.
        """
        heads, bodies = zip(*(row.split(b"\t", 1) for row in rows), strict=True)
        workspace = self.entity.workspace_table.sql
        step = _COMPARE.format(**key_sql(self.entity), workspace=workspace, code=CODE), {"rows": _as_array(heads)}
        opening = begin(read_only=True, statement=300.0, planner=_PLANNER)
        [compared] = await transact(connection, step, opening=opening, seconds=600.0)
        found = compared.fetchall()
        new = [row["nr"] for row in found if row["new"]]
        changed = [key_of(rows[row["nr"]]) for row in found if not row["new"]]
        inserted = await self._insert(connection, [bodies[nr] for nr in new]) if new and not dry_run else 0
        return Staged(inserted, [key_of(rows[nr]) for nr in new] if dry_run else [], changed)

    async def _insert(self, connection: Connection, rows: Sequence[bytes]) -> int:
        entity, types = self.entity, self.types
        columns = ((sql.Identifier(name), sql.SQL(types[name].replace("%", "%%"))) for name in _names(entity))
        statement = _INSERT.format(
            key=sql.Identifier(entity.key),
            workspace=entity.workspace_table.sql,
            columns=_columns(entity),
            typed=sql.SQL(", ").join(sql.SQL("{} {}").format(*column) for column in columns),
        )
        # Rows lost in a crash come with the next pull: the commit of a position after them waits for the disk.
        opening, params = begin(statement=300.0, durable=False), {"rows": _as_array(rows)}
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
    statement = sql.SQL(
        "SELECT NOT EXISTS (SELECT FROM {table}) AS vacant, NOT row_security_active({name}::regclass) AS direct,"
        " (SELECT jsonb_object_agg(attname, format_type(atttypid, atttypmod)) FROM pg_attribute"
        "  WHERE attrelid = {name}::regclass AND attnum > 0 AND NOT attisdropped) AS types"
    ).format(table=entity.workspace_table.sql, name=sql.Literal(entity.workspace_table.sql.as_string()))
    row = await fetch_one(connection, statement)
    found = WorkspaceTable(entity, row["vacant"], row["direct"], row["types"])
    if not found.types.keys() >= set(_names(entity)) and (cause := await common_cause(connection, entity)):
        raise cause
    return found


def _names(entity: Entity) -> Sequence[str]:
    return (entity.key, *entity.columns, *PULLED)


def _columns(entity: Entity) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, _names(entity)))


def key_of(row: bytes) -> str:
    """The key of a row that :meth:`worker.neon.invalid.Invalid.stream` yields as JSON."""
    # The first member; the others may be nested deeper than Python can read.
    text = _as_array([row.partition(b"\t")[0]]).removeprefix('[{"key":')
    return str(json.JSONDecoder().raw_decode(text)[0])


def _as_array(objects: Iterable[bytes]) -> str:
    """Objects in COPY's text format as one JSON array. COPY doubles backslashes, and escapes with a backslash the
    whitespace that a ``json`` column may have between its tokens.
    """
    text = b",".join(objects)
    if b"\\" in text:
        text = text.replace(rb"\\", b"\0")  # a byte that no text contains
        if b"\\" in text:
            for blank in (rb"\n", rb"\r", rb"\t"):
                text = text.replace(blank, b" ")
        text = text.replace(b"\0", b"\\")
    return f"[{text.decode()}]"


class Batches:
    """Cuts a stream of rows into batches, buffering at most one extra block."""

    def __init__(self, rows: AsyncIterator[list[bytes]], size: int) -> None:
        self._source, self._size = rows, size
        self._next: list[bytes] = []
        self.rows = 0
        """Of the latest batch."""

    async def more(self) -> bool:
        """Whether there is another row."""
        self._next = self._next or await anext(self._source, [])
        return bool(self._next)

    async def blocks(self) -> AsyncIterator[list[bytes]]:
        """The next batch, block by block."""
        self.rows, size = 0, 0
        while self.rows < self._size and size < BATCH_BYTES and await self.more():
            block, self._next = self._next[: self._size - self.rows], self._next[self._size - self.rows :]
            self.rows += len(block)
            size += sum(map(len, block))
            yield block

    async def next_batch(self) -> list[bytes]:
        """The next batch."""
        return [row async for block in self.blocks() for row in block]
