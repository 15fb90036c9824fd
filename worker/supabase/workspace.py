"""Supabase: which existing workspace rows a pull looks at, and what it changes in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.model import Code, Data, Receipt
from worker.entities.declaration import Entity, data_of
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, fetch_all, fetch_inside
from worker.supabase.acknowledgement import VERSIONS


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
    """The code of ``note``."""
    cleared: bool = False
    """Whether to remove the old note, even without a new one."""
    receipt: Receipt | None = None
    """The ledger row whose outcome the row then shows."""
    forget: bool = False
    """Whether to remove the row's receipt: Neon no longer knows it."""
    waiting_for: str | None = None
    enriched_by: str | None = None
    """Who enriched it, if the row does not say."""
    enriched_at: datetime | None = None
    as_of: datetime | None = None
    """If the row is older because its database was restored: the version that the values are from."""


_REFRESH = statement("worker.supabase", "refresh")


def refresh(entity: Entity, rows: Iterable[Refresh]) -> Step:
    """The step that writes changed records into their workspace rows, which the caller has locked."""
    return (
        _REFRESH.format(
            workspace=entity.workspace_table.sql,
            key=sql.Identifier(entity.key),
            versions=VERSIONS,
            columns=sql.SQL(", ").join(map(sql.Identifier, entity.columns)),
            columns_r=sql.SQL(", ").join(sql.Identifier("r", column) for column in entity.columns),
        ),
        {"rows": Jsonb([_refresh_as_json(row) for row in rows])},
    )


def _refresh_as_json(row: Refresh) -> dict[str, Any]:
    cells = asdict(row)
    receipt = cells.pop("receipt") or {"id": None, "hash": None}
    return {**cells, "receipt_id": receipt["id"], "receipt_hash": receipt["hash"]}


async def pulled_keys(
    connection: Connection, entity: Entity, after: str, limit: int, *, queued: bool = False
) -> list[str]:
    """Keys of rows whose record should be in the invalid table, in order, after ``after``.

    Args:
        connection: to Supabase.
        entity: whose rows.
        after: only keys greater than this one.
        limit: maximum number of keys.
        queued: also queued rows, which their delivery would acknowledge.
    """
    statement = sql.SQL(
        "SELECT {key} AS key FROM {workspace} WHERE {key} > %(after)s AND promoted_at IS NULL"
        " AND sync_code IS DISTINCT FROM 'lost'"
        " AND (%(queued)s OR NOT (enrichment_status = 'complete' AND pushed_to_neon_at IS NULL))"
        " ORDER BY {key} LIMIT %(limit)s"
    ).format(key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql)
    params = {"after": after, "limit": limit, "queued": queued}
    rows = await fetch_all(connection, statement, params)
    return [row["key"] for row in rows]


COMPARED_AT_ONCE = 10_000
"""This many rows are compared at once."""


async def promoted_keys(connection: Connection, entity: Entity, after: str, limit: int) -> list[str]:
    """Keys of rows that show a promotion, in order, after ``after``."""
    statement = sql.SQL(
        "SELECT {key} AS key FROM {workspace} WHERE {key} > %(after)s AND promoted_at IS NOT NULL"
        " AND pushed_to_neon_at IS NOT NULL ORDER BY {key} LIMIT %(limit)s"
    ).format(key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql)
    params = {"after": after, "limit": limit}
    rows = await fetch_all(connection, statement, params)
    return [row["key"] for row in rows]


async def lost(connection: Connection, entity: Entity, *, inside: bool = False) -> dict[str, Data]:
    """Key → data of the rows whose record a restored Neon no longer has.

    Args:
        connection: to Supabase.
        entity: whose rows.
        inside: within the open transaction.
    """
    statement = sql.SQL("SELECT w.{} AS key, {} AS data FROM {} w WHERE w.sync_code = 'lost' ORDER BY 1").format(
        sql.Identifier(entity.key), data_of(entity, "w"), entity.workspace_table.sql
    )
    rows = await (fetch_inside if inside else fetch_all)(connection, statement)
    return {row["key"]: row["data"] for row in rows}


def give_up(entity: Entity, keys: Sequence[str], text: str) -> Step:
    """The step that ends the wait of rows for their lost record; the caller has locked them."""
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
    """The step that writes a note on rows, which the caller has locked."""
    statement = sql.SQL("UPDATE {} SET sync_note = %(text)s, sync_code = %(code)s WHERE {} = ANY(%(keys)s)")
    params = {"keys": list(keys), "text": text, "code": code}
    return statement.format(entity.workspace_table.sql, sql.Identifier(entity.key)), params


def await_return(entity: Entity, keys: Sequence[str], text: str) -> Step:
    """The step that makes rows, which the caller has locked, wait until their record is in Neon again: then rows set to
    complete go on by themselves. The outcomes that they show are removed, because Neon has forgotten them.
    """
    statement = sql.SQL(
        "UPDATE {} w SET sync_note = %(text)s, sync_code = 'lost', promoted_at = NULL, receipt_id = NULL,"
        " receipt_hash = NULL, pushed_to_neon_at = NULL,"
        " waiting_for = CASE WHEN enrichment_status = 'complete' THEN 'the record itself' END"
        " WHERE {} = ANY(%(keys)s)"
    )
    params = {"keys": list(keys), "text": text}
    return statement.format(entity.workspace_table.sql, sql.Identifier(entity.key)), params
