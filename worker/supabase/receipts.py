"""Supabase: the receipts of the workspace rows. They say which outcomes the rows show, and reveal when a database was
restored to an earlier moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from worker.domain.model import Receipt
from worker.entities.declaration import Entity
from worker.entities.worker_tables import POSITION
from worker.postgres.connection import Connection
from worker.postgres.transaction import fetch_all, fetch_first

CHUNK = 5000


async def newest(connection: Connection, entity: Entity) -> Receipt | None:
    """The latest receipt of any workspace row."""
    statement = sql.SQL(
        "SELECT receipt_id AS id, receipt_hash AS hash FROM {} WHERE receipt_id IS NOT NULL"
        " ORDER BY receipt_id DESC LIMIT 1"
    ).format(entity.workspace_table.sql)
    row = await fetch_first(connection, statement)
    return Receipt(**row) if row else None


async def receipts_after(connection: Connection, entity: Entity, after: int) -> dict[str, Receipt]:
    """The next receipts of workspace rows after a ledger id, by key, in id order; at most ``CHUNK``."""
    statement = sql.SQL(
        "SELECT {key} AS key, receipt_id AS id, receipt_hash AS hash FROM {workspace} WHERE receipt_id > %(after)s"
        " ORDER BY receipt_id LIMIT %(limit)s"
    ).format(key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql)
    rows = await fetch_all(connection, statement, {"after": after, "limit": CHUNK})
    return {row["key"]: Receipt(row["id"], row["hash"]) for row in rows}


async def first_acknowledged(connection: Connection, entity: Entity, keys: Sequence[str]) -> datetime | None:
    """When the first of these rows was acknowledged; UTC without zone."""
    statement = sql.SQL(
        "SELECT min(coalesce(promoted_at, pushed_to_neon_at)) AS at FROM {} WHERE {} = ANY(%(keys)s)"
    ).format(entity.workspace_table.sql, sql.Identifier(entity.key))
    row = await fetch_first(connection, statement, {"keys": list(keys)})
    return row["at"] if row else None


async def pulls_kept(connection: Connection, entity: Entity) -> int:
    """How many pulls the workspace has counted."""
    statement = sql.SQL("SELECT pulls FROM {} WHERE entity = %(entity)s").format(POSITION.sql)
    cursor = await connection.execute(statement, {"entity": entity.name})
    row = await cursor.fetchone()
    return int(row["pulls"]) if row else 0


@dataclass(frozen=True, slots=True)
class Unacknowledged:
    """Rows that do not show the latest outcome in the ledger."""

    keys: list[str]
    """Rows that are not queued."""
    absent: set[str]
    """Keys without a row."""
    queued: list[str]
    """Rows that are queued and wait for nothing: their delivery acknowledges them, unless they are taken back."""
    waiting: list[str]
    """Rows that wait for another record, and are older than the version that was carried."""


async def unacknowledged(
    connection: Connection, entity: Entity, latest: Mapping[str, int], versions: Mapping[str, datetime | None]
) -> Unacknowledged:
    """Find the rows that do not show these outcomes yet.

    Args:
        connection: to Supabase.
        entity: whose rows.
        latest: key → id of the ledger row with the latest outcome.
        versions: key → the version of the row that was carried.
    """
    statement = sql.SQL(
        "SELECT a.key, w.{key} IS NULL AS absent, w.waiting_for IS NOT NULL AS waits,"
        " w.updated_at < a.version AS older,"
        " coalesce(w.enrichment_status = 'complete' AND w.pushed_to_neon_at IS NULL, false) AS queued"
        " FROM unnest(%(keys)s::text[], %(ids)s::bigint[], %(versions)s::timestamp[]) AS a (key, id, version)"
        " LEFT JOIN {workspace} w ON w.{key} = a.key WHERE w.{key} IS NULL OR coalesce(w.receipt_id, 0) < a.id"
    ).format(key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql)
    params = {"keys": list(latest), "ids": list(latest.values()), "versions": [versions[key] for key in latest]}
    rows = await fetch_all(connection, statement, params)
    return Unacknowledged(
        [row["key"] for row in rows if not (row["absent"] or row["queued"])],
        {row["key"] for row in rows if row["absent"]},
        [row["key"] for row in rows if row["queued"] and not row["waits"]],
        [row["key"] for row in rows if row["queued"] and row["waits"] and row["older"]],
    )
