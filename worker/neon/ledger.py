"""Neon: what the ledger says became of records, beside what their workspace rows were told, and the pulls that both
databases count. Knows no rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from worker.domain.lineage import is_older
from worker.domain.messages import LEDGER_NOTES
from worker.domain.model import Data, NoteCode, Outcome, Receipt, moment
from worker.domain.steps import Claimed, Sent
from worker.entities.declaration import Entity
from worker.entities.worker_tables import LEDGER, RECEIPTS
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, fetch_all, fetch_one

CHUNK = 5000


@dataclass(frozen=True, slots=True)
class Counts:
    """What Neon knows of the pulls."""

    pulls: int
    confirmed: int
    """The last pull that the workspace is known to have kept."""
    settled_id: int
    """No ledger row up to this id is still to come."""
    moment: datetime | None
    """When the last pull ended that Neon remembers; UTC without zone. The ledger's own may be from after a restore."""


_COUNTS = statement("worker.neon", "counts")


async def counts(connection: Connection, entity: Entity) -> Counts:
    """What Neon knows of the pulls of an entity."""
    statement = _COUNTS.format(receipts=RECEIPTS.sql, ledger=LEDGER.sql)
    row = await fetch_one(connection, statement, {"entity": entity.name})
    return Counts(**row)


def count_pull(entity: Entity, pulls: int, confirmed: int) -> Step:
    """The step that lets Neon count a pull, and remember how many the workspace had kept when it began."""
    statement = sql.SQL(
        "INSERT INTO {} AS r (entity, pulls, confirmed, pulled_at) VALUES (%(entity)s, %(pulls)s, %(confirmed)s, now())"
        " ON CONFLICT (entity) DO UPDATE SET pulls = EXCLUDED.pulls, confirmed = EXCLUDED.confirmed,"
        " pulled_at = EXCLUDED.pulled_at"
    ).format(RECEIPTS.sql)
    return statement, {"entity": entity.name, "pulls": pulls, "confirmed": confirmed}


def mark_pruned(entity: Entity, ids: Sequence[int]) -> Step:
    """The step that keeps in mind that retention removed these ledger rows: they were not forgotten."""
    statement = sql.SQL(
        "INSERT INTO {} AS r (entity, pruned_id) VALUES (%(entity)s, %(id)s)"
        " ON CONFLICT (entity) DO UPDATE SET pruned_id = greatest(r.pruned_id, EXCLUDED.pruned_id)"
    ).format(RECEIPTS.sql)
    return statement, {"entity": entity.name, "id": max(ids)}


_FORGOTTEN = sql.SQL("""
SELECT t.key FROM unnest(%(keys)s::text[], %(ids)s::bigint[], %(hashes)s::text[]) AS t (key, id, hash)
WHERE NOT EXISTS (SELECT FROM {ledger} l WHERE l.id = t.id AND l.delivery_hash IS NOT DISTINCT FROM t.hash)
  AND t.id > coalesce((SELECT pruned_id FROM {receipts} WHERE entity = %(entity)s), 0)
""")


async def forgotten(connection: Connection, entity: Entity, receipts: Mapping[str, Receipt]) -> list[str]:
    """The keys whose ledger row Neon does not have, though no retention removed it."""
    if not receipts:
        return []
    params = {
        "entity": entity.name,
        "keys": list(receipts),
        "ids": [receipt.id for receipt in receipts.values()],
        "hashes": [receipt.hash for receipt in receipts.values()],
    }
    statement = _FORGOTTEN.format(ledger=LEDGER.sql, receipts=RECEIPTS.sql)
    rows = await fetch_all(connection, statement, params)
    return [row["key"] for row in rows]


# In the order of their ids. Of every entity: looking for the few rows of a rare one would read the whole ledger.
_ENTRIES = sql.SQL("""
SELECT id, key, outcome IN ('waiting', 'undone') AS open,
  entity = %(entity)s AND outcome IN ('promoted', 'flagged', 'waiting', 'undone') AS speaks, row_version
FROM {ledger} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
""")


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a part of the ledger says of an entity's records."""

    last: int
    """The last id looked at."""
    latest: dict[str, int]
    """Key → id of the latest row that says what became of it."""
    open: set[str]
    """Those of the keys that wait, or were taken back: what the enricher had sent stands in the ledger alone."""
    versions: dict[str, datetime | None]
    """Key → the version of the workspace row that was carried last; None where no release kept it."""


async def spoken(connection: Connection, entity: Entity, after: int) -> Chunk | None:
    """What the ledger says of an entity's records after an id, a part of it; None where it ends."""
    params = {"entity": entity.name, "after": after, "limit": CHUNK}
    rows = await fetch_all(connection, _ENTRIES.format(ledger=LEDGER.sql), params)
    if not rows:
        return None
    said = {row["key"]: row for row in rows if row["speaks"]}
    open_ = {key for key, row in said.items() if row["open"]}
    versions = {key: row["row_version"] for key, row in said.items()}
    return Chunk(rows[-1]["id"], {key: row["id"] for key, row in said.items()}, open_, versions)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the ledger says became of a record. Times are UTC without zone."""

    receipt: Receipt
    outcome: Outcome
    row_version: datetime | None
    """The workspace row's ``updated_at`` that was carried; None where no release kept it, or no row was carried."""
    record: Data | None
    errors: Mapping[str, str]
    warnings: Mapping[str, str]
    pushed: bool
    """Whether ``push`` carried it, and it was not judged."""
    at: datetime
    enriched_by: str | None
    enriched_at: datetime | None
    enriched_fields: Sequence[str]
    """Fields whose value came from the enricher."""

    @property
    def sent(self) -> Sent:
        """What was carried."""
        return Sent(self.record, self.row_version, self.enriched_at, self.enriched_fields, self.receipt.id)


@dataclass(frozen=True, slots=True)
class Standing:
    """What Neon knows of a record, beside what its workspace row was told."""

    key: str
    forgotten: bool
    """Neon lacks the ledger row that the workspace row was told of: it was restored to an earlier moment."""
    written: Data
    """What the worker wrote to Neon since then, for the enricher or to tidy it: no change of Neon's own."""
    writes: Mapping[datetime, datetime | None]
    """When it did, and when Neon's row had changed last before that."""
    latest: Spoken | None
    """The latest that the ledger says became of it, whether the row was told or not."""
    carried: Spoken | None
    """The latest promotion among what the row was not told of."""
    master: Data | None
    """The master row; None where there is none."""

    def moved_at(self, at: datetime | None) -> datetime | None:
        """When Neon's row, which says that it changed last at this moment, changed last by no doing of the worker's."""
        writes = dict(self.writes)
        while at in writes:
            at = writes.pop(at)
        return at


def heard_at_least(row: Claimed, standing: Standing) -> Receipt | None:
    """What a row was told of at least, whose own receipt a restored Neon has forgotten: of all that was carried before
    this version of it.
    """
    said = standing.latest
    return None if said is None or said.row_version is None or is_older(row, said.sent) else said.receipt


_STANDINGS = statement("worker.neon", "standings")
# Release 0.1.0 has no codes: its words say the same.
_PUSHED = sql.SQL("coalesce(l.note_code = 'pushed', l.note = {said})").format(
    said=sql.Literal(LEDGER_NOTES[NoteCode.PUSHED])
)
_WROTE = sql.SQL(
    "l.entity = %(entity)s AND l.key = t.key AND l.id > s.since AND l.row_version IS NOT NULL"
    " AND (l.outcome = 'flagged' OR (l.outcome = 'waiting' AND {pushed}))"
).format(pushed=_PUSHED)
_SAID = sql.SQL(
    "l.id, l.delivery_hash AS hash, l.outcome, l.row_version, l.record, l.errors, l.warnings,"
    " coalesce(l.outcome = 'waiting' AND {pushed}, false) AS pushed, l.recorded_at AT TIME ZONE 'UTC' AS at,"
    " l.enriched_by, l.enriched_at, l.enriched_fields"
).format(pushed=_PUSHED)


async def standings(
    connection: Connection, entity: Entity, receipts: Mapping[str, Receipt | None]
) -> dict[str, Standing]:
    """What Neon knows of these records, by key.

    Args:
        connection: to Neon.
        entity: whose records.
        receipts: key → what its workspace row was told of.
    """
    if not receipts:
        return {}
    statement = _STANDINGS.format(
        ledger=LEDGER.sql,
        receipts=RECEIPTS.sql,
        master=entity.master_table.sql,
        key=sql.Identifier(entity.key),
        wrote=_WROTE,
        said=_SAID,
    )
    params = {
        "entity": entity.name,
        "keys": list(receipts),
        "ids": [receipt.id if receipt else None for receipt in receipts.values()],
        "hashes": [receipt.hash if receipt else None for receipt in receipts.values()],
    }
    rows = await fetch_all(connection, statement, params)
    return {
        row["key"]: Standing(
            row["key"], row["forgotten"], row["written"],
            {at: moment(before) for one, before in row["writes"] or () if (at := moment(one))},
            _spoken(row["latest"]), _spoken(row["carried"]), row["master"],
        )
        for row in rows
    }  # fmt: skip


def _spoken(row: dict[str, object] | None) -> Spoken | None:
    if row is None or row["id"] is None:
        return None
    said = dict(row)
    receipt = Receipt(said.pop("id"), said.pop("hash"))  # type: ignore[arg-type]
    for name in ("row_version", "at", "enriched_at"):
        said[name] = moment(said[name])
    outcome = Outcome(str(said.pop("outcome")))
    return Spoken(receipt=receipt, outcome=outcome, **said)  # type: ignore[arg-type]
