"""Supabase: the receipts of the workspace rows. They say which outcomes the rows show, and reveal when a database was
restored to an earlier moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from worker.domain.model import Receipt
from worker.entities.declaration import Entity, key_sql
from worker.postgres.connection import Connection
from worker.postgres.transaction import composed, fetch_all, fetch_first

CHUNK = 5000

_NEWEST = sql.SQL(
    "SELECT receipt_id AS id, receipt_hash AS hash FROM {workspace} WHERE receipt_id IS NOT NULL"
    " ORDER BY receipt_id DESC LIMIT 1"
)
_AFTER = sql.SQL(
    "SELECT {key}{key_text} AS key, receipt_id AS id, receipt_hash AS hash FROM {workspace}"
    " WHERE receipt_id > %(after)s ORDER BY receipt_id LIMIT %(limit)s"
)
_FIRST_ACKNOWLEDGED = sql.SQL(
    "SELECT min(coalesce(promoted_at, pushed_to_neon_at)) AS at FROM {workspace} WHERE {key} = ANY(%(keys)s{keys_cast})"
)
_LACKING = sql.SQL(
    "SELECT {key}{key_text} AS key FROM {workspace} WHERE {key} = ANY(%(keys)s{keys_cast})"
    " AND enrichment_status = 'complete' AND (pushed_to_neon_at IS NULL OR promoted_at IS NULL)"
)
_UNACKNOWLEDGED = sql.SQL(
    "SELECT a.key, w.{key} IS NULL AS absent, w.waiting_for IS NOT NULL AS waits,"
    " w.updated_at < a.version AS older,"
    " coalesce(w.enrichment_status = 'complete' AND w.pushed_to_neon_at IS NULL, false) AS queued"
    " FROM unnest(%(keys)s::text[], %(ids)s::bigint[], %(versions)s::timestamp[]) AS a (key, id, version)"
    " LEFT JOIN {workspace} w ON w.{key} = a.key{key_cast} WHERE w.{key} IS NULL OR coalesce(w.receipt_id, 0) < a.id"
)


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


class Receipts:
    """The receipts of an entity's rows. The statements are composed once."""

    def __init__(self, entity: Entity) -> None:
        """Compose the statements."""
        self._entity = entity.name
        names = {**key_sql(entity), "workspace": entity.workspace_table.sql}
        self._newest = composed(_NEWEST.format(**names))
        self._after = composed(_AFTER.format(**names))
        self._first_acknowledged = composed(_FIRST_ACKNOWLEDGED.format(**names))
        self._lacking = composed(_LACKING.format(**names))
        self._unacknowledged = composed(_UNACKNOWLEDGED.format(**names))

    async def newest(self, connection: Connection) -> Receipt | None:
        """The latest receipt of any row."""
        row = await fetch_first(connection, self._newest)
        return Receipt(**row) if row else None

    async def after(self, connection: Connection, after: int) -> dict[str, Receipt]:
        """The next receipts after a ledger id, by key, in id order; at most ``CHUNK``."""
        rows = await fetch_all(connection, self._after, {"after": after, "limit": CHUNK})
        return {row["key"]: Receipt(row["id"], row["hash"]) for row in rows}

    async def first_acknowledged(self, connection: Connection, keys: Sequence[str]) -> datetime | None:
        """When the first of these rows was acknowledged; UTC without zone."""
        row = await fetch_first(connection, self._first_acknowledged, {"keys": list(keys)})
        return row["at"] if row else None

    async def lacking(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """The keys among these whose row was set to complete and not acknowledged: that needs the ledger."""
        rows = await fetch_all(connection, self._lacking, {"keys": list(keys)})
        return {row["key"] for row in rows}

    async def unacknowledged(
        self, connection: Connection, latest: Mapping[str, int], versions: Mapping[str, datetime | None]
    ) -> Unacknowledged:
        """Find the rows that do not show these outcomes yet.

        Args:
            connection: to Supabase.
            latest: key → id of the ledger row with the latest outcome.
            versions: key → the version of the row that was carried.
        """
        params = {"keys": list(latest), "ids": list(latest.values()), "versions": [versions[key] for key in latest]}
        rows = await fetch_all(connection, self._unacknowledged, params)
        return Unacknowledged(
            [row["key"] for row in rows if not (row["absent"] or row["queued"])],
            {row["key"] for row in rows if row["absent"]},
            [row["key"] for row in rows if row["queued"] and not row["waits"]],
            [row["key"] for row in rows if row["queued"] and row["waits"] and row["older"]],
        )
