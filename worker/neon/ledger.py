"""Neon: the outcomes in the ledger, compared with those that the workspace rows show. Knows no rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.lineage import is_older
from worker.domain.messages import LEDGER_NOTES
from worker.domain.model import Data, NoteCode, Outcome, Receipt, moment
from worker.domain.steps import Claimed, Sent
from worker.entities.declaration import Entity, key_sql
from worker.entities.worker_tables import LEDGER, RECEIPTS
from worker.neon.books import BOOK, Entry
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, composed, fetch_all, transact

CHUNK = 5000


_MARK_PRUNED = sql.SQL(
    "INSERT INTO {} AS r (entity, pruned_id) VALUES (%(entity)s, %(id)s)"
    " ON CONFLICT (entity) DO UPDATE SET pruned_id = greatest(r.pruned_id, EXCLUDED.pruned_id)"
).format(RECEIPTS.sql)
_FORGOTTEN = sql.SQL("""
SELECT t.key FROM unnest(%(keys)s::text[], %(ids)s::bigint[], %(hashes)s::text[]) AS t (key, id, hash)
WHERE NOT EXISTS (SELECT FROM {ledger} l WHERE l.id = t.id AND l.delivery_hash IS NOT DISTINCT FROM t.hash)
  AND t.id > coalesce((SELECT pruned_id FROM {receipts} WHERE entity = %(entity)s), 0)
""").format(ledger=LEDGER.sql, receipts=RECEIPTS.sql)
# In id order, of every entity: searching for the few rows of a rare entity would read the whole ledger.
_ENTRIES = sql.SQL("""
SELECT id, key, outcome IN ('waiting', 'undone') AS open,
  entity = %(entity)s AND outcome IN ('promoted', 'flagged', 'waiting', 'undone') AS is_outcome, row_version
FROM {ledger} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
""").format(ledger=LEDGER.sql)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The outcomes of an entity's records in a part of the ledger."""

    last: int
    """The last id that was read."""
    latest: dict[str, int]
    """Key → id of the latest row with its outcome."""
    open: set[str]
    """The keys that wait, or whose promotion was undone: only the ledger has what the enricher sent."""
    versions: dict[str, datetime | None]
    """Key → the version of the workspace row that was last carried; None if the release did not keep it."""


@dataclass(frozen=True, slots=True)
class LedgerOutcome:
    """An outcome as recorded in the ledger. Times are UTC without zone."""

    receipt: Receipt
    outcome: Outcome
    row_version: datetime | None
    """The carried row's ``updated_at``; None if the release did not keep it, or no row was carried."""
    record: Data | None
    errors: Mapping[str, str]
    warnings: Mapping[str, str]
    pushed: bool
    """Whether ``push`` carried it without judging it."""
    at: datetime
    enriched_by: str | None
    enriched_at: datetime | None
    enriched_fields: Sequence[str]
    """Fields whose value came from the enricher."""
    neon_id: int | None
    """The ``id`` of the record in the invalid table; None if no row of it was settled."""

    @property
    def sent(self) -> Sent:
        """What was carried."""
        return Sent(self.record, self.row_version, self.enriched_at, self.enriched_fields, self.receipt.id)


@dataclass(frozen=True, slots=True)
class NeonState:
    """What Neon knows about a record, compared with what its workspace row shows."""

    key: str
    forgotten: bool
    """Neon lacks the ledger row whose outcome the workspace row shows: Neon was restored to an earlier moment."""
    written: Data
    """What the worker has written to Neon since then, for the enricher or by normalising: not Neon's own change."""
    written_in: Mapping[str, datetime]
    """Field of ``written`` → the version of the workspace row that it was carried with."""
    writes: Mapping[datetime, datetime | None]
    """When the worker wrote → when Neon's row had last changed before that."""
    latest: LedgerOutcome | None
    """The latest outcome in the ledger, whether the row shows it or not."""
    carried: LedgerOutcome | None
    """The latest promotion that the row does not show."""
    master: Data | None
    """The master row; None if there is none."""

    def moved_at(self, at: datetime | None) -> datetime | None:
        """When Neon's row last changed other than by the worker. ``at`` is its ``updated_at``."""
        writes = dict(self.writes)
        while at in writes:
            at = writes.pop(at)
        return at


def minimum_receipt(row: Claimed, neon_state: NeonState) -> Receipt | None:
    """The latest outcome that a row certainly shows when a restored Neon has forgotten the row's own receipt: the
    outcomes of everything carried before this version of the row.
    """
    latest = neon_state.latest
    return None if latest is None or latest.row_version is None or is_older(row, latest.sent) else latest.receipt


_NEON_STATES = statement("worker.neon", "neon_states")
# Release 0.1.0 has no codes, only notes.
_PUSHED = sql.SQL("coalesce(l.note_code = 'pushed', l.note = {note})").format(
    note=sql.Literal(LEDGER_NOTES[NoteCode.PUSHED])
)
_WRITTEN_BY_WORKER = sql.SQL(
    "l.entity = %(entity)s AND l.key = t.key AND l.id > s.since AND l.row_version IS NOT NULL"
    " AND (l.outcome = 'flagged' OR (l.outcome = 'waiting' AND {pushed}))"
).format(pushed=_PUSHED)
_OUTCOME_COLUMNS = sql.SQL(
    "l.id, l.delivery_hash AS hash, l.outcome, l.row_version, l.record, l.errors, l.warnings,"
    " coalesce(l.outcome = 'waiting' AND {pushed}, false) AS pushed, l.recorded_at AT TIME ZONE 'UTC' AS at,"
    " l.enriched_by, l.enriched_at, l.enriched_fields, (l.invalid_before ->> 'id')::bigint AS neon_id"
).format(pushed=_PUSHED)


class Ledger:
    """The ledger, as to the records of one entity. The statements are composed once."""

    def __init__(self, entity: Entity) -> None:
        """Compose the statements."""
        self._entity = entity.name
        self._neon_states = composed(
            _NEON_STATES.format(
                ledger=LEDGER.sql,
                receipts=RECEIPTS.sql,
                master=entity.master_table.sql,
                **key_sql(entity),
                wrote=_WRITTEN_BY_WORKER,
                said=_OUTCOME_COLUMNS,
            )
        )

    def mark_pruned(self, ids: Sequence[int]) -> Step:
        """The step that records that retention removed these ledger rows: they were not forgotten in a restore."""
        return _MARK_PRUNED, {"entity": self._entity, "id": max(ids)}

    async def book(self, connection: Connection, run_id: str, entries: Iterable[Entry]) -> None:
        """Write rows that no settlement writes; existing ones stay as they are."""
        if rows := [asdict(entry) for entry in entries]:
            params = {"run_id": run_id, "entity": self._entity, "entries": Jsonb(rows)}
            await transact(connection, (BOOK, params))

    async def forgotten(self, connection: Connection, receipts: Mapping[str, Receipt]) -> list[str]:
        """The keys whose ledger row Neon lacks, although retention did not remove it."""
        if not receipts:
            return []
        params = {"entity": self._entity, **_as_arrays(receipts)}
        return [row["key"] for row in await fetch_all(connection, _FORGOTTEN, params)]

    async def read_chunk(self, connection: Connection, after: int) -> Chunk | None:
        """The next part of the ledger after an id; None at its end."""
        rows = await fetch_all(connection, _ENTRIES, {"entity": self._entity, "after": after, "limit": CHUNK})
        if not rows:
            return None
        outcomes = {row["key"]: row for row in rows if row["is_outcome"]}
        open_ = {key for key, row in outcomes.items() if row["open"]}
        versions = {key: row["row_version"] for key, row in outcomes.items()}
        return Chunk(rows[-1]["id"], {key: row["id"] for key, row in outcomes.items()}, open_, versions)

    async def neon_states(self, connection: Connection, receipts: Mapping[str, Receipt | None]) -> dict[str, NeonState]:
        """What Neon knows about these records, by key.

        Args:
            connection: to Neon.
            receipts: key → the receipt of its workspace row.
        """
        if not receipts:
            return {}
        params = {"entity": self._entity, **_as_arrays(receipts)}
        rows = await fetch_all(connection, self._neon_states, params)
        return {
            row["key"]: NeonState(
                row["key"], row["forgotten"], row["written"],
                {name: at for name, one in row["written_in"].items() if (at := moment(one))},
                {at: moment(before) for one, before in row["writes"] or () if (at := moment(one))},
                _ledger_outcome(row["latest"]), _ledger_outcome(row["carried"]), row["master"],
            )
            for row in rows
        }  # fmt: skip


def _as_arrays(receipts: Mapping[str, Receipt | None]) -> dict[str, Sequence[object]]:
    return {
        "keys": list(receipts),
        "ids": [receipt.id if receipt else None for receipt in receipts.values()],
        "hashes": [receipt.hash if receipt else None for receipt in receipts.values()],
    }


def _ledger_outcome(row: dict[str, object] | None) -> LedgerOutcome | None:
    if row is None or row["id"] is None:
        return None
    cells = dict(row)
    receipt = Receipt(cells.pop("id"), cells.pop("hash"))  # type: ignore[arg-type]
    for name in ("row_version", "at", "enriched_at"):
        cells[name] = moment(cells[name])
    outcome = Outcome(str(cells.pop("outcome")))
    return LedgerOutcome(receipt=receipt, outcome=outcome, **cells)  # type: ignore[arg-type]
