"""Supabase: the workspace rows that are looked at beside the queue, and all that is written in rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain import messages
from worker.domain.model import Code, Data, Receipt
from worker.entities.declaration import Entity, data_of, key_sql, pages
from worker.postgres.binary import Texts
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, composed, fetch_all, fetch_inside
from worker.supabase import release
from worker.supabase.acknowledgement import RETURNS, VERSIONS, Reply, as_json


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


_ACKNOWLEDGE = statement("worker.supabase", "acknowledge")
_REFRESH = statement("worker.supabase", "refresh")
_PULLED = sql.SQL(
    "SELECT w.{key}{key_text} AS key FROM {workspace} w WHERE {beyond} AND promoted_at IS NULL"
    " AND sync_code IS DISTINCT FROM 'lost'"
    " AND (%(queued)s OR NOT (enrichment_status = 'complete' AND pushed_to_neon_at IS NULL))"
    " ORDER BY w.{key} LIMIT %(limit)s"
)
_PROMOTED = sql.SQL(
    "SELECT w.{key}{key_text} AS key FROM {workspace} w WHERE {beyond} AND promoted_at IS NOT NULL"
    " AND pushed_to_neon_at IS NOT NULL ORDER BY w.{key} LIMIT %(limit)s"
)
_LOST = sql.SQL(
    "SELECT w.{key}{key_text} AS key, {data} AS data FROM {workspace} w WHERE w.sync_code = 'lost' ORDER BY 1"
)
# By the index on what is waited for: every pull asks.
_SENT_AND_LOST = sql.SQL(
    "SELECT w.{key}{key_text} AS key FROM {workspace} w"
    " WHERE w.waiting_for = 'the record itself' AND w.sync_code = 'lost' ORDER BY 1"
)
_WAITING = sql.SQL(
    "SELECT w.{key}{key_text} AS key, {data} AS data, w.neon_snapshot AS snapshot FROM {workspace} w"
    " WHERE w.waiting_for IS NOT NULL AND w.sync_code IS DISTINCT FROM 'lost' AND {beyond}"
    " ORDER BY w.{key} LIMIT %(limit)s"
)
_GIVE_UP = sql.SQL(
    "UPDATE {workspace} SET enrichment_status = CASE WHEN enrichment_status = 'complete' THEN 'failed'"
    " ELSE enrichment_status END, waiting_for = NULL, sync_note = %(text)s, sync_code = 'gone'"
    " WHERE {key} = ANY(%(keys)s{keys_cast})"
)
_REMOVE = sql.SQL("DELETE FROM {workspace} WHERE {key} = ANY(%(keys)s{keys_cast})")
_NOTE = sql.SQL(
    "UPDATE {workspace} SET sync_note = %(text)s, sync_code = %(code)s WHERE {key} = ANY(%(keys)s{keys_cast})"
)
_AWAIT_RETURN = sql.SQL(
    "UPDATE {workspace} w SET sync_note = %(text)s, sync_code = 'lost', promoted_at = NULL, receipt_id = NULL,"
    " receipt_hash = NULL, pushed_to_neon_at = NULL,"
    " waiting_for = CASE WHEN enrichment_status = 'complete' THEN 'the record itself' END"
    " WHERE {key} = ANY(%(keys)s{keys_cast})"
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row that waits for something in Neon."""

    key: str
    data: Data
    snapshot: Data
    """The data columns as Neon and the workspace last agreed on them."""


class Workspace:
    """The workspace table of an entity. The statements are composed once. The steps change rows that are locked."""

    def __init__(self, entity: Entity) -> None:
        """Compose the statements."""
        self._columns = entity.columns
        self._releases = bool(entity.releases)
        names = {
            **key_sql(entity),
            "workspace": entity.workspace_table.sql,
            "data": data_of(entity, "w"),
            "versions": VERSIONS,
            "returns": RETURNS,
            "returned_often": sql.Literal(messages.RETURNED_OFTEN),
            "columns": sql.SQL(", ").join(map(sql.Identifier, entity.columns)),
            "columns_r": sql.SQL(", ").join(sql.Identifier("r", column) for column in entity.columns),
        }

        def compose(template: sql.SQL) -> sql.SQL:
            return composed(template.format(**names))

        self._acknowledge, self._refresh = compose(_ACKNOWLEDGE), compose(_REFRESH)
        released = [release.parts(other, "waiting_for", number) for number, other in enumerate(entity.releases)]
        self._acknowledge_and_release = composed(
            sql.SQL(
                "WITH told AS ({} RETURNING w.id){} SELECT (SELECT count(*) FROM told) AS written, {} AS held"
            ).format(
                self._acknowledge,
                sql.SQL("").join(sql.SQL(", {}").format(ctes) for ctes, _ in released),
                sql.SQL(" OR ").join(held for _, held in released) if released else sql.SQL("false"),
            )
        )
        self._lost, self._sent_and_lost = compose(_LOST), compose(_SENT_AND_LOST)
        self._pulled, self._promoted, self._waiting = (
            {is_first: composed(one) for is_first, one in pages(template, entity, "w", **tables).items()}
            for template, tables in (
                (_PULLED, {"workspace": names["workspace"]}),
                (_PROMOTED, {"workspace": names["workspace"]}),
                (_WAITING, {"workspace": names["workspace"], "data": names["data"]}),
            )
        )
        self._remove, self._note = compose(_REMOVE), compose(_NOTE)
        self._await_return, self._give_up = compose(_AWAIT_RETURN), compose(_GIVE_UP)

    async def pulled_keys(
        self, connection: Connection, after: str | None, limit: int, *, queued: bool = False
    ) -> list[str]:
        """Keys of rows whose record should be in the invalid table, in order, after ``after``.

        Args:
            connection: to Supabase.
            after: only keys greater than this one; None for the first page.
            limit: maximum number of keys.
            queued: also queued rows, which their delivery would acknowledge.
        """
        rows = await fetch_all(
            connection, self._pulled[after is None], {"after": after, "limit": limit, "queued": queued}
        )
        return [row["key"] for row in rows]

    async def promoted_keys(self, connection: Connection, after: str | None, limit: int) -> list[str]:
        """Keys of rows that show a promotion, in order, after ``after``."""
        rows = await fetch_all(connection, self._promoted[after is None], {"after": after, "limit": limit})
        return [row["key"] for row in rows]

    async def lost(self, connection: Connection, *, inside: bool = False) -> dict[str, Data]:
        """Key → data of the rows whose record a restored Neon no longer has.

        Args:
            connection: to Supabase.
            inside: within the open transaction.
        """
        rows = await (fetch_inside if inside else fetch_all)(connection, self._lost)
        return {row["key"]: row["data"] for row in rows}

    async def sent_and_lost(self, connection: Connection) -> list[str]:
        """The keys of those that are set to complete, and wait for the record itself."""
        return [row["key"] for row in await fetch_all(connection, self._sent_and_lost)]

    async def waiting(self, connection: Connection, after: str | None, limit: int) -> list[Waiting]:
        """Rows that wait, in key order: only keys greater than ``after``, and at most ``limit``."""
        rows = await fetch_all(connection, self._waiting[after is None], {"after": after, "limit": limit})
        return [
            Waiting(row["key"], row["data"], {name: (row["snapshot"] or {}).get(name) for name in self._columns})
            for row in rows
        ]

    def acknowledge(self, replies: Iterable[Reply]) -> Step:
        """The step that writes the replies into their rows."""
        return self._acknowledge, {"replies": Jsonb([as_json(reply) for reply in replies])}

    def acknowledge_and_release(self, replies: Sequence[Reply], promoted: Sequence[str]) -> Step:
        """The step that writes the replies into their rows, and puts those back in the queue that wait for the promoted
        records. It returns how many were ``written``, and whether another transaction ``held`` one that waits.
        """
        params = {"keys": Texts.of(promoted), "note": messages.RELEASED} if self._releases else {}
        return self._acknowledge_and_release, {"replies": Jsonb([as_json(reply) for reply in replies]), **params}

    def refresh(self, rows: Iterable[Refresh]) -> Step:
        """The step that writes changed records into their rows."""
        return self._refresh, {"rows": Jsonb([_refresh_as_json(row) for row in rows])}

    def give_up(self, keys: Sequence[str], text: str) -> Step:
        """The step that ends the wait of rows for their lost record."""
        return self._give_up, {"keys": list(keys), "text": text}

    def remove(self, keys: Sequence[str]) -> Step:
        """The step that removes withdrawn rows."""
        return self._remove, {"keys": list(keys)}

    def note(self, keys: Sequence[str], text: str, code: Code) -> Step:
        """The step that writes a note on rows."""
        return self._note, {"keys": list(keys), "text": text, "code": code}

    def await_return(self, keys: Sequence[str], text: str) -> Step:
        """The step that makes rows wait until their record is in Neon again: then rows set to complete go on by
        themselves. The outcomes that they show are removed, because Neon has forgotten them.
        """
        return self._await_return, {"keys": list(keys), "text": text}


def _refresh_as_json(row: Refresh) -> dict[str, Any]:
    cells = asdict(row)
    receipt = cells.pop("receipt") or {"id": None, "hash": None}
    return {**cells, "receipt_id": receipt["id"], "receipt_hash": receipt["hash"]}
