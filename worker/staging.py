"""Supabase: what a pull does there: its position, the stage its rows pass through, and their upkeep."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
import structlog
from psycopg import sql
from psycopg.types.json import Jsonb

from worker.database import COMMIT, Connection, Step, begin, send, within
from worker.entities import Entity, data_of
from worker.faults import Kind, kind_of
from worker.model import Code, Data, Receipt
from worker.neon import PULLED
from worker.workspace import CODE

log = structlog.get_logger("worker.pull")

STAGE = sql.Identifier("enrichment_stage")
PATIENCE = 60.0


# The stage is small and the workspace may be huge: every stage row is looked up by the unique index.
_PLANNER = ("enable_hashjoin", "enable_mergejoin", "enable_seqscan")
_CREATE = sql.SQL("""
CREATE TEMP TABLE {stage} ON COMMIT DROP AS SELECT {columns} FROM {workspace} WITH NO DATA
""")
_INSERT = sql.SQL("""
INSERT INTO {workspace} ({columns}) SELECT {columns} FROM {stage} s
WHERE NOT EXISTS (SELECT FROM {workspace} w WHERE w.{key} = s.{key})
ON CONFLICT ({key}) DO NOTHING
""")
# LIMIT keeps the planner from reading the stage once for each workspace row. What this transaction has inserted
# is as Neon has it.
_CHANGED = sql.SQL("""
SELECT s.{key} AS key FROM {stage} s
CROSS JOIN LATERAL (SELECT w.*, w.xmin FROM {workspace} w WHERE w.{key} = s.{key} LIMIT 1) w
WHERE w.xmin <> pg_current_xact_id()::xid
  -- The delivery's, but for a row that waits for its record to be there again.
  AND (w.sync_code = 'lost' OR NOT coalesce(w.enrichment_status = 'complete' AND w.pushed_to_neon_at IS NULL, false))
  AND (w.last_sync_hash IS DISTINCT FROM s.last_sync_hash OR w.neon_id IS DISTINCT FROM s.neon_id
  OR w.promoted_at IS NOT NULL
  OR {code} IN ('left', 'gone', 'lost')  -- it is back
  OR (w.enrichment_status = 'pending' AND
      (w.original_validation_errors, w.original_validation_warnings, w.reason_code)
      IS DISTINCT FROM (s.original_validation_errors, s.original_validation_warnings, s.reason_code)))
ORDER BY s.{key}
""")
_NEW = sql.SQL("""
SELECT s.{key} AS key FROM {stage} s
WHERE NOT EXISTS (SELECT FROM {workspace} w WHERE w.{key} = s.{key}) ORDER BY s.{key}
""")


@dataclass(frozen=True)
class Staged:
    """What a batch of Neon's rows turned out to be."""

    new: int
    new_keys: list[str]
    """Only where nothing was written."""
    changed: list[str]
    direct: bool = False
    """Whether it went straight to the workspace, and the next one may."""


async def vacancy(connection: Connection, entity: Entity) -> tuple[bool, bool]:
    """Whether the workspace has no row, and whether it then takes rows by COPY, as row level security does not."""
    statement = sql.SQL(
        "SELECT NOT EXISTS (SELECT FROM {}) AS vacant, NOT row_security_active({}::regclass) AS direct"
    ).format(entity.workspace_table.sql, sql.Literal(entity.workspace_table.sql.as_string()))
    results = await send(connection, *begin(read_only=True), (statement, None), COMMIT)
    row = results[2].fetchone()
    assert row is not None
    return row["vacant"], row["vacant"] and row["direct"]


async def stage(
    connection: Connection,
    entity: Entity,
    blocks: AsyncIterable[bytes],
    refused: Callable[[str, psycopg.Error], None],
    *,
    dry_run: bool,
    direct: bool = False,
) -> Staged:
    """Bring a batch of Neon's rows into the workspace: insert those that are new, name those that differ.

    A workspace that was made by hand may refuse a value that Neon takes: then all other rows arrive.

    Args:
        connection: to Supabase.
        entity: which.
        blocks: rows in COPY's text format, as :func:`worker.neon.stream` yields them.
        refused: told the key of each record that the workspace does not take, and why.
        dry_run: write nothing.
        direct: the workspace was empty: the rows are copied straight into it, unless it refuses one.
    """
    kept: list[bytes] = []

    async def keep() -> AsyncGenerator[bytes]:
        async for block in blocks:
            kept.append(block)
            yield block

    try:
        async with aclosing(keep()) as all_blocks:
            if direct:
                return await _load(connection, entity, all_blocks)
            return await _stage(connection, entity, all_blocks, dry_run=dry_run)
    except psycopg.Error as error:
        if kind_of(error) is not Kind.REFUSED:
            raise
        await send(connection, (sql.SQL("ROLLBACK"), None))
        if direct:
            return await stage(connection, entity, _once(kept), refused, dry_run=dry_run)
        # COPY's text format has a line for each row.
        rows = [row + b"\n" for row in b"".join(kept).removesuffix(b"\n").split(b"\n")]
        if len(rows) == 1:
            refused(rows[0].split(b"\t", 1)[0].decode(), error)
            return Staged(0, [], [])
        kept.clear()
    half = len(rows) // 2
    parts = [
        await stage(connection, entity, _once(part), refused, dry_run=dry_run) for part in (rows[:half], rows[half:])
    ]
    first, second = parts
    return Staged(first.new + second.new, first.new_keys + second.new_keys, sorted({*first.changed, *second.changed}))


async def _once(rows: list[bytes]) -> AsyncGenerator[bytes]:
    yield b"".join(rows)


def _columns(entity: Entity) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, (entity.key, *entity.columns, *PULLED)))


async def _copy(connection: Connection, statement: sql.SQL | sql.Composed, blocks: AsyncIterable[bytes]) -> int:
    async with connection.cursor() as cursor:
        async with cursor.copy(statement) as copy:
            async for block in blocks:
                with within(connection, PATIENCE):
                    await copy.write(block)
        return cursor.rowcount


async def _load(connection: Connection, entity: Entity, blocks: AsyncIterable[bytes]) -> Staged:
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(entity.workspace_table.sql, _columns(entity))
    # What a crash takes back comes with the next pull: the position that passes it over waits for the disk.
    await send(connection, *begin(statement=300.0, durable=False))
    new = await _copy(connection, into, blocks)
    await send(connection, COMMIT)
    return Staged(new, [], [], direct=True)


async def _stage(connection: Connection, entity: Entity, blocks: AsyncIterable[bytes], *, dry_run: bool) -> Staged:
    names = {
        "stage": STAGE,
        "key": sql.Identifier(entity.key),
        "workspace": entity.workspace_table.sql,
        "columns": _columns(entity),
        "code": CODE,
    }
    opening = begin(statement=300.0, planner=_PLANNER, durable=False)
    await send(connection, *opening, (_CREATE.format(**names), None))
    await _copy(connection, sql.SQL("COPY pg_temp.enrichment_stage FROM STDIN"), blocks)
    new_step = (_NEW if dry_run else _INSERT).format(**names)
    results = await send(
        connection,
        (new_step, None),
        (_CHANGED.format(**names), None),
        (sql.SQL("ROLLBACK") if dry_run else COMMIT[0], None),
        seconds=600.0,
    )
    new = results[0].rowcount
    new_keys = [row["key"] for row in results[0].fetchall()] if dry_run else []
    return Staged(new, new_keys, [row["key"] for row in results[1].fetchall()])


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a pull changes in a workspace row. None leaves a cell as it is."""

    key: str
    neon_id: int | None
    data: Data
    snapshot: Data
    status: str
    original_errors: Any
    original_warnings: Any
    reason_code: str | None
    reopened: bool
    note: str | None
    code: str | None = None
    """What ``note`` says."""
    cleared: bool = False
    """Whether the old note goes, though there is no new one."""
    receipt: Receipt | None = None
    """The ledger row that the row is told of by this."""
    forget: bool = False
    """Whether the receipt that the row holds goes: Neon does not know it any more."""
    waiting_for: str | None = None
    enriched_by: str | None = None
    """Who had enriched it, where the row does not say."""
    enriched_at: datetime | None = None


_REFRESH = sql.SQL("""
UPDATE {workspace} w SET
  ({columns}) = (SELECT {columns_r} FROM jsonb_populate_record(w, a.data) r),
  neon_id = coalesce(a.neon_id, w.neon_id), neon_snapshot = a.snapshot, last_sync_hash = md5(a.snapshot::text),
  enrichment_status = a.status, reason_code = coalesce(a.reason_code, w.reason_code),
  original_validation_errors = coalesce(a.original_errors, w.original_validation_errors),
  original_validation_warnings = CASE WHEN a.original_errors IS NULL THEN w.original_validation_warnings
    ELSE a.original_warnings END,
  validation_errors = CASE WHEN a.reopened THEN '{{}}' ELSE w.validation_errors END,
  validation_warnings = CASE WHEN a.reopened THEN '{{}}' ELSE w.validation_warnings END,
  pushed_to_neon_at = CASE WHEN a.reopened THEN NULL ELSE w.pushed_to_neon_at END,
  promoted_at = CASE WHEN a.reopened THEN NULL ELSE w.promoted_at END,
  sync_note = CASE WHEN a.cleared THEN a.note ELSE coalesce(a.note, w.sync_note) END,
  sync_code = CASE WHEN a.cleared OR a.note IS NOT NULL THEN a.code ELSE w.sync_code END,
  receipt_id = CASE WHEN a.forget THEN a.receipt_id ELSE coalesce(a.receipt_id, w.receipt_id) END,
  receipt_hash = CASE WHEN a.forget THEN a.receipt_hash ELSE coalesce(a.receipt_hash, w.receipt_hash) END,
  waiting_for = a.waiting_for,
  enriched_by = coalesce(w.enriched_by, a.enriched_by), enriched_at = coalesce(w.enriched_at, a.enriched_at),
  pulled_from_neon_at = CASE WHEN a.neon_id IS NULL THEN w.pulled_from_neon_at ELSE now() AT TIME ZONE 'UTC' END
FROM jsonb_to_recordset(%(rows)s) AS a (key text, neon_id bigint, data jsonb, snapshot jsonb, status text,
  original_errors jsonb, original_warnings jsonb, reason_code text, reopened boolean, note text, code text,
  cleared boolean, receipt_id bigint, receipt_hash text, forget boolean, waiting_for text, enriched_by text,
  enriched_at timestamp)
WHERE w.{key} = a.key
""")


def refresh(entity: Entity, rows: Iterable[Refresh]) -> Step:
    """The step that brings changed records to their workspace rows, which the caller has locked."""
    return (
        _REFRESH.format(
            workspace=entity.workspace_table.sql,
            key=sql.Identifier(entity.key),
            columns=sql.SQL(", ").join(map(sql.Identifier, entity.columns)),
            columns_r=sql.SQL(", ").join(sql.Identifier("r", column) for column in entity.columns),
        ),
        {"rows": Jsonb([_refresh_as_json(row) for row in rows])},
    )


def _refresh_as_json(row: Refresh) -> dict[str, Any]:
    cells = asdict(row)
    receipt = cells.pop("receipt") or {"id": None, "hash": None}
    at = row.enriched_at.isoformat() if row.enriched_at else None
    return {**cells, "receipt_id": receipt["id"], "receipt_hash": receipt["hash"], "enriched_at": at}


async def pulled_keys(
    connection: Connection, entity: Entity, after: str, limit: int, *, queued: bool = False
) -> list[str]:
    """Keys of rows that should have their record in the invalid table, in order, after ``after``.

    Args:
        connection: to Supabase.
        entity: whose rows.
        after: only keys greater than this one.
        limit: keys at most.
        queued: also of rows that their delivery would tell.
    """
    statement = sql.SQL(
        "SELECT {key} AS key FROM {workspace} WHERE {key} > %(after)s AND promoted_at IS NULL"
        " AND sync_code IS DISTINCT FROM 'lost'"
        " AND (%(queued)s OR NOT (enrichment_status = 'complete' AND pushed_to_neon_at IS NULL))"
        " ORDER BY {key} LIMIT %(limit)s"
    ).format(key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql)
    params = {"after": after, "limit": limit, "queued": queued}
    results = await send(connection, *begin(read_only=True), (statement, params), COMMIT)
    return [row["key"] for row in results[2].fetchall()]


LOOKED_AT = 10_000
"""Rows that are compared at once."""


async def promoted_keys(connection: Connection, entity: Entity, after: str, limit: int) -> list[str]:
    """Keys of rows that say promoted, in order, after ``after``."""
    statement = sql.SQL(
        "SELECT {key} AS key FROM {workspace} WHERE {key} > %(after)s AND promoted_at IS NOT NULL"
        " AND pushed_to_neon_at IS NOT NULL ORDER BY {key} LIMIT %(limit)s"
    ).format(key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql)
    params = {"after": after, "limit": limit}
    results = await send(connection, *begin(read_only=True), (statement, params), COMMIT)
    return [row["key"] for row in results[2].fetchall()]


async def lost(connection: Connection, entity: Entity, *, inside: bool = False) -> dict[str, Data]:
    """Key → data of the rows whose record a restored Neon does not have any more.

    Args:
        connection: to Supabase.
        entity: whose rows.
        inside: within the transaction that is open already.
    """
    statement = sql.SQL("SELECT w.{} AS key, {} AS data FROM {} w WHERE w.sync_code = 'lost' ORDER BY 1").format(
        sql.Identifier(entity.key), data_of(entity, "w"), entity.workspace_table.sql
    )
    steps = [(statement, None)] if inside else [*begin(read_only=True), (statement, None), COMMIT]
    results = await send(connection, *steps)
    return {row["key"]: row["data"] for row in results[0 if inside else 2].fetchall()}


def give_up(entity: Entity, keys: Sequence[str], text: str) -> Step:
    """The step that lets rows, which the caller has locked, wait for their record no longer."""
    statement = sql.SQL(
        "UPDATE {} SET enrichment_status = CASE WHEN enrichment_status = 'complete' THEN 'failed'"
        " ELSE enrichment_status END, waiting_for = NULL, sync_note = %(text)s, sync_code = 'gone'"
        " WHERE {} = ANY(%(keys)s)"
    )
    params = {"keys": list(keys), "text": text}
    return statement.format(entity.workspace_table.sql, sql.Identifier(entity.key)), params


def remove(entity: Entity, keys: Sequence[str]) -> Step:
    """The step that removes withdrawn rows, which the caller has locked."""
    statement = sql.SQL("DELETE FROM {} WHERE {} = ANY(%(keys)s)")
    return statement.format(entity.workspace_table.sql, sql.Identifier(entity.key)), {"keys": list(keys)}


def note(entity: Entity, keys: Sequence[str], text: str, code: Code) -> Step:
    """The step that leaves a note on rows, which the caller has locked."""
    statement = sql.SQL("UPDATE {} SET sync_note = %(text)s, sync_code = %(code)s WHERE {} = ANY(%(keys)s)")
    params = {"keys": list(keys), "text": text, "code": code}
    return statement.format(entity.workspace_table.sql, sql.Identifier(entity.key)), params


def await_return(entity: Entity, keys: Sequence[str], text: str) -> Step:
    """The step that lets rows, which the caller has locked, wait until their record is in Neon again: what was set to
    complete goes on by itself then. What they were told is of an outcome that Neon has forgotten.
    """
    statement = sql.SQL(
        "UPDATE {} w SET sync_note = %(text)s, sync_code = 'lost', promoted_at = NULL, receipt_id = NULL,"
        " receipt_hash = NULL, pushed_to_neon_at = NULL,"
        " waiting_for = CASE WHEN enrichment_status = 'complete' THEN 'the record itself' END"
        " WHERE {} = ANY(%(keys)s)"
    )
    params = {"keys": list(keys), "text": text}
    return statement.format(entity.workspace_table.sql, sql.Identifier(entity.key)), params


class Batches:
    """Cuts a stream of rows into batches without holding more than one block of them."""

    def __init__(self, rows: AsyncIterator[list[bytes]], size: int) -> None:
        self._source, self._size = rows, size
        self._next: list[bytes] = []
        self.rows = 0

    async def more(self) -> bool:
        """Whether there is another row."""
        self._next = self._next or await anext(self._source, [])
        return bool(self._next)

    async def batch(self) -> AsyncIterator[bytes]:
        """The next batch, block by block."""
        self.rows = 0
        while self.rows < self._size and await self.more():
            block, self._next = self._next[: self._size - self.rows], self._next[self._size - self.rows :]
            self.rows += len(block)
            yield b"".join(block)
