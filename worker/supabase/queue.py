"""Supabase: the queue of rows to deliver. Knows no rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from worker.domain import messages
from worker.domain.model import Code, Receipt, Status, same_as
from worker.domain.postponed import Postponed
from worker.domain.steps import Claimed
from worker.entities.declaration import Entity, data_of, key_sql
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, begin, begin_and_fetch, composed, fetch_all, fetch_one
from worker.supabase.pause import not_paused

STAMP = sql.Literal("YYYY-MM-DD HH24:MI:SS.US")
"""What :func:`worker.domain.model.stamp` writes, for ``to_char``; the trigger has it too."""
IS_WORK = sql.SQL("w.enrichment_status = 'complete' AND w.pushed_to_neon_at IS NULL AND w.waiting_for IS NULL")

_NOTES_OF_0_1_0 = {
    Code.LEFT: messages.LEFT,
    Code.GONE: "This record is no longer in the invalid table:%",
    Code.FLAGGED: "Not promoted: %",
    Code.CARRIED: "Carried to Neon, where it waits for re-validation.%",
    Code.UNDONE: "The promotion was taken back:%",
}
"""How release 0.1.0 begins its notes: it has no codes."""

_CLAIM = statement("worker.supabase", "claim")


_MORE = sql.SQL(
    "coalesce(w.enrichment_notes, '') <> '' AS noted, {code} AS code, w.pulled_from_neon_at AS pulled_at,"
    " greatest(w.pushed_to_neon_at, w.promoted_at, w.returned_at[cardinality(w.returned_at)]) AS told_at,"
)
"""What a delivery does not need."""
# The word by itself: a line, a sentence, or a part between commas or semicolons. "not distinct" is not said so.
_DISTINCT = sql.SQL(r"coalesce(w.enrichment_notes ~* '(^|[\n\r.,;])\s*distinct\s*($|[\n\r.,;])', false) AS distinct, ")
# While release 0.1.0 runs beside this one, it overwrites a note and leaves the old note's code as it is.
CODE = sql.SQL("CASE {whens} ELSE w.sync_code END").format(
    whens=sql.SQL(" ").join(
        sql.SQL("WHEN w.sync_note LIKE {} THEN {}").format(sql.Literal(begins), sql.Literal(code.value))
        for code, begins in _NOTES_OF_0_1_0.items()
    )
)
_ROWS = {
    "work": sql.SQL(
        "WHERE {is_work} AND {not_paused} ORDER BY w.updated_at, w.id LIMIT %(limit)s OFFSET %(skip)s"
        " FOR UPDATE OF w SKIP LOCKED"
    ),
    "work, without postponed": sql.SQL(
        "WHERE {is_work} AND {not_paused} AND {not_postponed} ORDER BY w.updated_at, w.id LIMIT %(limit)s"
        " OFFSET %(skip)s FOR UPDATE OF w SKIP LOCKED"
    ),
    "work among some": sql.SQL(
        "WHERE {is_work} AND {not_paused} AND w.{key} = ANY(%(keys)s{keys_cast}) ORDER BY w.{key} LIMIT %(limit)s"
        " FOR UPDATE OF w SKIP LOCKED"
    ),
    "work, not locked": sql.SQL("WHERE {is_work} ORDER BY w.updated_at, w.id LIMIT %(limit)s OFFSET %(skip)s"),
    "keys": sql.SQL("WHERE w.{key} = ANY(%(keys)s{keys_cast}) ORDER BY w.{key} FOR UPDATE OF w"),
    "free keys": sql.SQL("WHERE w.{key} = ANY(%(keys)s{keys_cast}) ORDER BY w.{key} FOR UPDATE OF w SKIP LOCKED"),
    "keys, not locked": sql.SQL("WHERE w.{key} = ANY(%(keys)s{keys_cast}) ORDER BY w.{key}"),
}


_ROW_FIELDS = ("neon_id", "pulled_at", "noted", "code", "told_at")


PLANNER = ("enable_sort", "enable_seqscan", "enable_nestloop")
"""The queue's index has the oldest first. After a flip of many rows, and until the next ANALYZE, the planner believes
the queue is short, and would read and sort all of it for each batch. Acknowledged rows are looked up by index and
joined by hash, even if the workspace was small when the statement was prepared.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A workspace row, with its state."""

    claimed: Claimed
    neon_id: int | None
    pulled_at: datetime | None
    """When it was last brought up to date, by Neon's clock; UTC without zone."""
    noted: bool
    """Whether an enricher left notes on it."""
    code: str | None
    """The code of its note: a :class:`worker.domain.model.Code`."""
    told_at: datetime | None
    """When it was told an outcome last, as far as it shows; UTC without zone. A flip does not remove it."""

    @property
    def pushed(self) -> bool:
        """Whether it was carried to Neon."""
        return self.claimed.pushed_at is not None

    @property
    def promoted(self) -> bool:
        """Whether it shows that the record was promoted."""
        return self.claimed.promoted_at is not None

    @property
    def taken_back(self) -> bool:
        """Whether an enricher works on it again: what was carried before is not the enricher's final version."""
        status = self.claimed.status
        # A carried row stays complete until it is judged: another status was set by the enricher.
        return status == Status.IN_PROGRESS or (
            status != Status.COMPLETE and (self.edited or self.code == Code.CARRIED)
        )

    @property
    def undelivered(self) -> bool:
        """Whether it is in the queue, or waits: the delivery settles it."""
        return self.claimed.status == Status.COMPLETE and not self.pushed

    @property
    def carried(self) -> bool:
        """Whether it was carried to Neon, and its outcome was not acknowledged yet."""
        return self.claimed.status == Status.COMPLETE and self.pushed and not self.promoted

    @property
    def edited(self) -> bool:
        """Whether an enricher changed data since the snapshot."""
        return self.claimed.data != self.claimed.snapshot

    @property
    def untouched(self) -> bool:
        """Whether nobody has worked on it since it was pulled."""
        return self.claimed.status == Status.PENDING and not self.edited and not self.noted


class Queue:
    """The queue of an entity. Its statements are composed once."""

    def __init__(self, entity: Entity) -> None:
        """Compose the statements."""
        self.entity = entity
        self._columns = frozenset(entity.columns)
        workspace = entity.workspace_table.sql
        self._claims = {rows: self._compose_claim(rows) for rows in _ROWS}
        self._count = composed(sql.SQL("SELECT count(*) AS rows FROM {} w WHERE {}").format(workspace, IS_WORK))
        self._carried = composed(
            sql.SQL(
                "SELECT w.id, w.{key}{key_text} AS key FROM {workspace} w WHERE w.enrichment_status = 'complete'"
                " AND w.pushed_to_neon_at IS NOT NULL AND w.promoted_at IS NULL AND w.id > %(after)s"
                " ORDER BY w.id LIMIT %(limit)s"
            ).format(**key_sql(entity), workspace=workspace)
        )

    def _compose_claim(self, rows: str) -> sql.SQL:
        entity = self.entity
        return composed(
            _CLAIM.format(
                **key_sql(entity),
                data=data_of(entity, "w"),
                workspace=entity.workspace_table.sql,
                released=sql.Literal(messages.RELEASED),
                distinct=_DISTINCT if entity.alike else sql.SQL(""),
                more=_MORE.format(code=CODE) if "keys" in rows else sql.SQL(""),
            )
            + _ROWS[rows].format(
                is_work=IS_WORK,
                **key_sql(entity),
                not_paused=not_paused(entity),
                not_postponed=self._not_postponed("postponed"),
            )
            + sql.SQL(") c")
        )

    def _not_postponed(self, parameter: str) -> sql.Composed:
        """The condition that a row is not postponed. No join, so that the queue's index is used."""
        return sql.SQL("concat(w.{}, '|', to_char(w.updated_at, {})) <> ALL({})").format(
            sql.Identifier(self.entity.key), STAMP, sql.Placeholder(parameter)
        )

    async def claim(
        self,
        connection: Connection,
        limit: int,
        *,
        read_only: bool = False,
        skip: int = 0,
        durable: bool = True,
        postponed: Sequence[str] = (),
        among: Sequence[str] | None = None,
    ) -> list[Claimed]:
        """The oldest work, locked for this worker in a transaction that stays open; none while the entity is paused,
        unless it is only read.

        The claim is the row locks themselves: it ends with the transaction, however that ends.

        Args:
            connection: to Supabase; its transaction stays open.
            limit: maximum number of rows.
            read_only: read only and lock nothing.
            skip: number of rows to skip.
            durable: the transaction's COMMIT waits for the disk.
            postponed: row versions to skip, as from :class:`worker.domain.postponed.Postponed`.
            among: only rows with these keys.
        """
        rows = "work, not locked" if read_only else "work, without postponed" if postponed else "work"
        params: dict[str, Any] = {"limit": limit, "skip": skip}
        if among is not None:
            rows, params = "work among some", {"limit": limit, "keys": list(among)}
        elif rows == "work, without postponed":
            params["postponed"] = list(postponed)
        opening = begin(read_only=read_only, planner=PLANNER, planned_once=True, durable=durable)
        found = await begin_and_fetch(connection, opening, (self._claims[rows], params))
        return [self._claimed(row) for row in found]

    async def lock(
        self, connection: Connection, keys: Sequence[str], *, read_only: bool = False, wait: bool = True
    ) -> dict[str, Row]:
        """The workspace rows with these keys, locked in a transaction that stays open.

        Args:
            connection: to Supabase.
            keys: which.
            read_only: read only and lock nothing.
            wait: wait for other transactions' locks; else locked rows are left out.
        """
        rows = "keys, not locked" if read_only else "keys" if wait else "free keys"
        step = self._claims[rows], {"keys": list(keys)}
        found = await begin_and_fetch(connection, begin(read_only=read_only), step)
        return {row["key"]: Row(self._claimed(row), **{name: row[name] for name in _ROW_FIELDS}) for row in found}

    def _claimed(self, row: Mapping[str, Any]) -> Claimed:
        # A row adopted from a hand-made table has no snapshot: all its values count as the enricher's.
        # A snapshot from before a change of the file may have other columns: on a missing one, nothing was agreed.
        snapshot = row["snapshot"] or {}
        if snapshot.keys() != self._columns:
            snapshot = {name: snapshot.get(name) for name in self.entity.columns}
        for name in self.entity.numeric:  # a number in a snapshot of before is a text now
            snapshot[name] = same_as(snapshot[name], row["data"].get(name))
        receipt = None if row["receipt_id"] is None else Receipt(row["receipt_id"], row["receipt_hash"])
        return Claimed(
            row["key"], row["version"], row["data"], snapshot, row["snapshot_hash"], row["delivery_hash"],
            row["enriched_by"], row["enriched_at"], row["status"], row["pushed_at"], row["promoted_at"],
            pulled=bool(row["snapshot"] or row["neon_id"]), receipt=receipt, queued_versions=row["queued_versions"],
            distinct=row.get("distinct", False), age=row["age"],
        )  # fmt: skip

    async def count_work(self, connection: Connection) -> int:
        """How many rows are work."""
        row = await fetch_one(connection, self._count)
        return int(row["rows"])

    async def carried(self, connection: Connection, after: int, limit: int) -> dict[int, str]:
        """Id → key of rows that were carried to Neon and whose outcome was not acknowledged yet, in id order, after
        ``after``.
        """
        rows = await fetch_all(connection, self._carried, {"after": after, "limit": limit})
        return {row["id"]: row["key"] for row in rows}

    def has_work(self, postponed: Postponed) -> Step:
        """The step that returns a row with the entity's name if there is work which is not postponed, nor paused."""
        but, params = self.but(postponed)
        statement = sql.SQL("SELECT {} AS entity WHERE {} AND EXISTS (SELECT FROM {} w WHERE {}{})")
        name, table = sql.Literal(self.entity.name), self.entity.workspace_table.sql
        return statement.format(name, not_paused(self.entity), table, IS_WORK, but), params or None

    def but(self, postponed: Postponed) -> tuple[sql.Composable, dict[str, Any]]:
        """The rest of a condition that leaves out postponed rows, and its parameters, by the entity's name."""
        if row_versions := postponed.row_versions():
            return sql.SQL(" AND {}").format(self._not_postponed(self.entity.name)), {self.entity.name: row_versions}
        return sql.SQL(""), {}


async def with_work(connection: Connection, queues: Mapping[Queue, Postponed]) -> set[str]:
    """The names of the entities whose queue has work which is not postponed."""
    steps = [queue.has_work(postponed) for queue, postponed in queues.items()]
    params = {name: value for _, some in steps for name, value in (some or {}).items()}
    rows = await fetch_all(connection, sql.SQL(" UNION ALL ").join(part for part, _ in steps), params or None)
    return {row["entity"] for row in rows}
