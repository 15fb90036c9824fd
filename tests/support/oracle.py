"""What must hold of both databases at any quiet moment, whatever happened before."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from declared import COMPANY
from psycopg import sql
from records import Connection

from worker.entities.declaration import Entity, data_of

# One row for each key that any table knows. A promotion stands that was not undone.
_NEON = """
WITH standing AS (
  SELECT p.key, p.invalid_before ->> 'id' AS came_as FROM marketing.enrichment_ledger p
  WHERE p.entity = %(entity)s AND p.outcome = 'promoted' AND NOT EXISTS (
    SELECT FROM marketing.enrichment_ledger u WHERE u.entity = p.entity AND u.key = p.key AND u.outcome = 'undone'
      AND u.delivery_hash = md5('undo|' || p.id)))
SELECT keys.key, i.{key} IS NOT NULL AS invalid, m.{key} IS NOT NULL AS master, i.still_invalid, i.validation_errors,
  i.id AS came_as, {data_i} AS data, to_jsonb(m) AS master_row, md5(({data_i})::text) AS hash,
  s.standing, s.most, l.promoted, l.flagged, l.hashes, l.last, l.carried
FROM (SELECT {key} AS key FROM {invalid} UNION SELECT {key} FROM {master}
      UNION SELECT key FROM marketing.enrichment_ledger WHERE entity = %(entity)s) keys
LEFT JOIN {invalid} i ON i.{key} = keys.key
LEFT JOIN {master} m ON m.{key} = keys.key
LEFT JOIN LATERAL (
  SELECT coalesce(sum(times), 0)::int AS standing, coalesce(max(times), 0)::int AS most
  FROM (SELECT count(*) AS times FROM standing WHERE standing.key = keys.key GROUP BY came_as) t) s ON true
LEFT JOIN LATERAL (
  SELECT count(*) FILTER (WHERE outcome = 'promoted') AS promoted, count(*) FILTER (WHERE outcome = 'flagged') AS flagged,
    count(DISTINCT delivery_hash) FILTER (WHERE outcome IN ('promoted', 'flagged')) AS hashes,
    (array_agg(outcome ORDER BY id DESC) FILTER (WHERE outcome IN ('promoted', 'flagged')))[1] AS last,
    (array_agg(outcome ORDER BY id DESC) FILTER (WHERE outcome IN ('promoted', 'flagged', 'waiting')))[1] AS carried
  FROM marketing.enrichment_ledger WHERE entity = %(entity)s AND key = keys.key) l ON true
"""
_WORKSPACE = """
SELECT w.*, {key} AS key, {data_w} AS data, md5(neon_snapshot::text) AS digest,
  enrichment_status = 'complete' AND pushed_to_neon_at IS NULL AS queued FROM {workspace} w
"""
NOT_CARRIED = "Edits after promotion are not carried"
GONE = ("left", "gone", "lost")
GONE_IN_WORDS = ("This record left Neon's invalid table", "This record is no longer in the invalid table")
"""Release 0.1.0 has no codes."""


@dataclass(frozen=True)
class Known:
    """What somebody did to the databases that the worker cannot be blamed for."""

    absent: Collection[str] = ()
    """Records that Neon does not have: somebody deleted them, or it was restored to a moment before them."""
    both: Collection[str] = ()
    """Records that may be in the invalid and the master table: the intake brought them again."""
    forgotten: Collection[str] = ()
    """Records of which Neon was made to forget that they were flagged, and whose rows keep the enricher's values."""
    pruned: Collection[str] = ()
    """Records whose ledger rows retention may have removed."""
    theirs: Collection[str] = field(default=())
    """Records that somebody else put into the master table."""
    unfit: Collection[str] = ()
    """Records with values or reasons that the customer's own constraints keep out of one of the two tables."""


def neon_of(neon: Connection, entity: Entity) -> dict[str, dict[str, Any]]:
    """What Neon holds of each record."""
    statement = sql.SQL(_NEON).format(
        key=sql.Identifier(entity.key), invalid=entity.invalid_table.sql, master=entity.master_table.sql,
        data_i=data_of(entity, "i"),
    )  # fmt: skip
    return {row["key"]: row for row in neon.execute(statement, {"entity": entity.name}).fetchall()}


def workspace_of(supabase: Connection, entity: Entity) -> dict[str, dict[str, Any]]:
    """The workspace rows."""
    statement = sql.SQL(_WORKSPACE).format(
        key=sql.Identifier(entity.key), workspace=entity.workspace_table.sql, data_w=data_of(entity, "w")
    )
    return {row["key"]: row for row in supabase.execute(statement).fetchall()}


def check(
    neon: Connection, supabase: Connection, entity: Entity = COMPANY, known: Known | None = None
) -> dict[str, Any]:
    """Compare both databases record by record, and return what was seen.

    Holds of a moment when no worker is in the middle of a delivery and nothing is queued.

    Args:
        neon: the one side.
        supabase: the other.
        entity: whose records.
        known: what else was done.
    """
    known = known or Known()
    there, here = neon_of(neon, entity), workspace_of(supabase, entity)
    for key, row in there.items():
        _one_fate(key, row, known)
    for key, row in here.items():
        assert row["digest"] == row["last_sync_hash"], f"{key}: the hash is not the snapshot's"
        neons = there.get(key)
        if neons is None or not (neons["invalid"] or neons["master"]):
            _without_record(key, row, known)
        else:
            _the_truth(entity, key, row, neons, known)
    return {"records": len(there), "rows": len(here), "promoted": sum(row["master"] for row in there.values())}


def _one_fate(key: str, row: dict[str, Any], known: Known) -> None:
    if not row["invalid"] and not row["master"]:
        assert key in known.absent, f"{key} is in neither table"
    elif row["invalid"] and row["master"]:
        assert key in known.both or key in known.theirs, f"{key} is in both"
    # Each time that it came into the invalid table, it left it once.
    assert row["most"] <= 1, f"{key} was promoted {row['most']} times as one and the same record"
    if key not in known.both:
        assert row["standing"] <= 1, f"{key} was promoted {row['standing']} times"
    if key not in known.theirs and key not in known.pruned:
        assert (row["standing"] > 0) == row["master"], f"{key}: {row['standing']} promotions, master {row['master']}"
    # Every outcome has its own delivery, and no delivery two.
    assert row["hashes"] == row["promoted"] + row["flagged"], f"{key}: a delivery took effect twice"


def _without_record(key: str, row: dict[str, Any], known: Known) -> None:
    """A row whose record Neon does not have: it stays because somebody typed there, and says so."""
    assert key in known.absent, f"{key} has a row and no record"
    assert row["promoted_at"] is None, f"{key} is told promoted, and Neon does not have it"
    assert says_gone(row), f"{key} does not say that its record is gone: {row['sync_note']}"
    assert not row["queued"] or row["sync_code"] == "lost", f"{key} is still queued"
    if row["queued"]:
        assert row["waiting_for"], f"{key} is lost, and does not wait for its record"


def says_gone(row: dict[str, Any]) -> bool:
    """Whether a row says that its record is gone."""
    return row["sync_code"] in GONE or (row["sync_note"] or "").startswith(GONE_IN_WORDS)


def left_again(row: dict[str, Any], neons: dict[str, Any]) -> bool:
    """Whether a record came back after its promotion, was carried once more, and left by another way; and its row says
    that it is gone.
    """
    promoted = neons["master"] and not neons["invalid"]
    return bool(promoted and neons["carried"] not in (None, "promoted") and says_gone(row))


def _the_truth(entity: Entity, key: str, row: dict[str, Any], neons: dict[str, Any], known: Known) -> None:
    """The row tells what became of its record."""
    status = row["enrichment_status"]
    waits = row["queued"] and row["waiting_for"] and row["sync_code"] != "lost"
    assert not row["queued"] or waits, f"{key} is still queued"
    if left_again(row, neons):
        assert (row["promoted_at"], row["queued"]) == (None, False), f"{key} is gone, and promoted or queued: {row}"
        return
    promoted = neons["master"] and not neons["invalid"]
    if key not in known.theirs:
        assert (row["promoted_at"] is not None) == promoted, f"{key}: promoted_at and the master disagree: {row}"
    if status == "complete":
        assert promoted or waits, f"{key} is complete, and neither promoted nor waiting: {row}"
    if neons["invalid"] and not waits:
        assert row["last_sync_hash"] == neons["hash"], f"{key}: snapshot and invalid row differ"
    if status == "failed" and key not in known.theirs and key not in known.forgotten:
        assert neons["invalid"], f"{key} is failed and not in invalid"
        assert neons["last"] == "flagged" or key in known.pruned, f"{key} is failed without a ledger row: {row}"
        same = row["validation_errors"] == neons["validation_errors"]
        assert same or key in known.unfit, f"{key}: the reasons differ"
    if row["promoted_at"] and promoted:
        assert row["validation_errors"] == {}, f"{key} is promoted with errors"
        carried, master = row["neon_snapshot"], neons["master_row"]
        for name, source in entity.mapping.items():
            if carried[source] is not None:
                assert master[name] == carried[source], f"{key}: the master's {name} is {master[name]!r}: {carried}"
        # An edit after promotion stays in the cell, and a row that was set to complete says so.
        if status == "complete" and NOT_CARRIED not in row["sync_note"] and key not in known.unfit:
            changed = {name for name, value in row["data"].items() if value != carried[name]}
            assert not changed, f"{key}: {changed} of a promoted row are not the master's, and it does not say so"
