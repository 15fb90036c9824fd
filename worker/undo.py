"""``undo``: take promotions back, from the ledger's before-images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from worker import catalogue, outbox
from worker.bridge import Bridge
from worker.database import COMMIT, Connection, Step, begin, send
from worker.entities import ENTITIES, Entity, data_of
from worker.faults import Kind, in_one_line, kind_of
from worker.model import new_run_id
from worker.neon import LEDGER
from worker.progress import NOBODY, Progress

ROLLBACK: Step = (sql.SQL("ROLLBACK"), None)


@dataclass
class Undone:
    """What was taken back, or would be, and what was refused and why; by key."""

    run_id: str = field(default_factory=partial(new_run_id, "undo"))
    undone: dict[str, str] = field(default_factory=dict)
    """Key → what became of the master row."""
    refused: dict[str, str] = field(default_factory=dict)


async def keys_of_run(bridge: Bridge, run_id: str) -> list[str]:
    """The keys that a run promoted, none where there is no such run."""
    statement = sql.SQL("SELECT key FROM {} WHERE run_id = %(run)s AND outcome = 'promoted' ORDER BY id DESC").format(
        LEDGER
    )
    async with bridge.neon.connection() as there:
        results = await send(there, *begin(read_only=True), (statement, {"run": run_id}), COMMIT)
        return [row["key"] for row in results[2].fetchall()]


async def undo(
    bridge: Bridge,
    keys: Sequence[str],
    done: Undone,
    *,
    run_id: str | None = None,
    dry_run: bool = False,
    progress: Progress = NOBODY,
) -> None:
    """Take the last promotion of each record back: master row and invalid row as they were, workspace row
    ``pending`` with what the enricher had typed. Each record in one Neon transaction.

    Args:
        bridge: both databases.
        keys: which records.
        done: what was taken back and refused; after a fault, call again with the same.
        run_id: only where this run promoted them.
        dry_run: write nothing.
        progress: told of every record.

    Raises:
        psycopg.Error: what was taken back stays so; call again for the rest.
    """
    todo = [key for key in dict.fromkeys(keys) if key not in done.undone and key not in done.refused]
    if progress.shown:
        progress.expect(len(todo))
    async with bridge.neon.connection() as there, bridge.supabase.connection() as here:
        for key in todo:
            progress.advance(1)
            entity, entry = await _last_promotion(there, key, run_id)
            if entity is None or entry is None:
                done.refused[key] = await _why_not_on_record(there, key, run_id)
                continue
            try:
                said = await _take_back(there, entity, entry, done.run_id, dry_run=dry_run)
            except psycopg.Error as error:
                if kind_of(error) is not Kind.REFUSED:
                    raise
                await send(there, ROLLBACK)
                said = f"the database refuses: {in_one_line(error)}"
                done.refused[key] = said
                continue
            taken_back = said in _TAKEN_BACK
            # A row is told also where somebody had died before he could.
            if not dry_run and (taken_back or (entry["undone_in"] and not entry["promoted_again"])):
                said += await _tell(bridge, here, entity, entry, done.run_id if taken_back else None)
            (done.undone if taken_back else done.refused)[key] = said


async def _tell(bridge: Bridge, here: Connection, entity: Entity, entry: dict[str, Any], run_id: str | None) -> str:
    """Reopen the workspace row, and announce that the promotion was taken back; says so where no row is there.

    Where this does not come about, the next full pull does it: the record is invalid again.
    """
    key = entry["key"]
    look = sql.SQL("SELECT 1 AS there FROM {} WHERE {} = %(key)s").format(
        entity.workspace_table.sql, sql.Identifier(entity.key)
    )
    results = await send(here, *begin(), _reopen(entity, entry), (look, {"key": key}))
    gone = results[3].fetchone() is None
    # The run that took it back may have died before it told: who tells the row announces it.
    run_id = run_id or (entry["undone_in"] if results[2].rowcount else None)
    announced = outbox.outcomes(entity, run_id, [(key, "undone", None)]) if run_id and bridge.announces else []
    await send(here, *announced, COMMIT)
    return "; its workspace row is gone, `enrichment-worker pull --full` brings it back" if gone else ""


_TAKEN_BACK = ("the master row is removed", "the master row is as it was")


async def _why_not_on_record(there: Connection, key: str, run_id: str | None) -> str:
    statement = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT 1 AS there FROM {} WHERE {} = %(key)s").format(
            entity.master_table.sql, sql.Identifier(entity.key)
        )
        for entity in ENTITIES.values()
    )
    results = await send(there, *begin(read_only=True), (statement, {"key": key}), COMMIT)
    if results[2].fetchone() and not run_id:
        return (
            "it is in the master table, but the ledger has no backup of it: retention removed that, or somebody"
            " else promoted it"
        )
    return "no promotion is on record" + (f" in {run_id}" if run_id else "")


async def _last_promotion(
    there: Connection, key: str, run_id: str | None
) -> tuple[Entity | None, dict[str, Any] | None]:
    statement = sql.SQL(
        "SELECT l.*, later.undone_in, later.promoted_again FROM {ledger} l CROSS JOIN LATERAL ("
        "   SELECT min(u.run_id) FILTER (WHERE u.outcome = 'undone') AS undone_in,"
        "     coalesce(bool_or(u.outcome = 'promoted'), false) AS promoted_again"
        "   FROM {ledger} u WHERE u.entity = l.entity AND u.key = l.key AND u.id > l.id) later"
        " WHERE l.entity = ANY(%(entities)s) AND l.key = %(key)s AND l.outcome = 'promoted'"
        " AND (%(run)s::text IS NULL OR l.run_id = %(run)s) ORDER BY l.id DESC LIMIT 1"
    ).format(ledger=LEDGER)
    params = {"entities": list(ENTITIES), "key": key, "run": run_id}
    results = await send(there, *begin(read_only=True), (statement, params), COMMIT)
    row = results[2].fetchone()
    return (ENTITIES[row["entity"]], row) if row else (None, None)


async def _take_back(there: Connection, entity: Entity, entry: dict[str, Any], run_id: str, *, dry_run: bool) -> str:
    key, names = entry["key"], {"key": sql.Identifier(entity.key)}
    if entry["undone_in"]:
        # By this very run, where a connection broke that should have said so.
        return _TAKEN_BACK[bool(entry["master_before"])] if entry["undone_in"] == run_id else "it was taken back before"
    lock = sql.SQL("" if dry_run else " FOR UPDATE")
    master = sql.SQL("SELECT to_jsonb(m) AS row FROM {table} m WHERE {key} = %(key)s").format(
        table=entity.master_table.sql, **names
    )
    invalid = sql.SQL("SELECT 1 AS there FROM {table} WHERE {key} = %(key)s").format(
        table=entity.invalid_table.sql, **names
    )
    results = await send(there, *begin(read_only=dry_run), (master + lock, {"key": key}), (invalid, {"key": key}))
    now, again = results[2].fetchone(), results[3].fetchone()
    said = _objection(entry, now and now["row"], bool(again))
    if said or dry_run:
        await send(there, COMMIT)
        return said or _TAKEN_BACK[bool(entry["master_before"])]
    steps = await _restore(there, entity, entry, run_id)
    await send(there, *steps, COMMIT)
    return _TAKEN_BACK[bool(entry["master_before"])]


def _objection(entry: dict[str, Any], now: dict[str, Any] | None, again: bool) -> str:
    if now is None:
        return "it is not in the master table any more"
    if again:
        return "it is in the invalid table again"
    after = entry["master_after"]
    changed = [name for name in now if now[name] != after.get(name)] + [name for name in after if name not in now]
    if changed:
        shown = "; ".join(f"{name} was {after.get(name)!r} and is {now.get(name)!r}" for name in changed[:5])
        return f"its master row has changed since: {shown}"
    return ""


async def _restore(there: Connection, entity: Entity, entry: dict[str, Any], run_id: str) -> list[Step]:
    key = sql.Identifier(entity.key)
    # From the ledger itself: a number that had passed through Python would have lost its last digits.
    params = {"key": entry["key"], "id": entry["id"]}
    if entry["master_before"]:
        columns = [c.name for c in await catalogue.columns(there, entity.master_table) if c.writable]
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        back = sql.SQL(
            "UPDATE {table} m SET ({columns}) = (SELECT {columns} FROM jsonb_populate_record("
            "NULL::{table}, (SELECT master_before FROM {ledger} WHERE id = %(id)s))) WHERE m.{key} = %(key)s"
        ).format(table=entity.master_table.sql, columns=listed, key=key, ledger=LEDGER)
    else:
        back = sql.SQL("DELETE FROM {} WHERE {} = %(key)s").format(entity.master_table.sql, key)
    columns = [c.name for c in await catalogue.columns(there, entity.invalid_table) if c.writable]
    # A record that the stages had pushed would be judged, and promoted, by the next pull.
    values = sql.SQL(", ").join(
        sql.SQL("CASE WHEN r.enrichment_status = 'complete' AND r.still_invalid IS NOT TRUE THEN 'pending'"
                " ELSE r.enrichment_status END")
        if name == "enrichment_status" else sql.Identifier("r", name)
        for name in columns
    )  # fmt: skip
    again = sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM {ledger} l"
        " CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, l.invalid_before) r WHERE l.id = %(id)s"
    ).format(
        table=entity.invalid_table.sql,
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=values,
        ledger=LEDGER,
    )
    book = sql.SQL(
        "INSERT INTO {ledger} (run_id, entity, key, outcome, delivery_hash, invalid_before, master_before,"
        " master_after, record, note, enriched_by, enriched_at)"
        " SELECT %(run)s, entity, key, 'undone', md5('undo|' || id), NULL, master_after, master_before, record,"
        " 'took back ' || run_id, enriched_by, enriched_at FROM {ledger} WHERE id = %(id)s"
    ).format(ledger=LEDGER)
    return [(back, params), (again, params), (book, {"run": run_id, "id": entry["id"]})]


def _reopen(entity: Entity, entry: dict[str, Any]) -> Step:
    """The workspace row as pending, with the data the enricher had typed as edits against Neon's."""
    statement = sql.SQL(
        "UPDATE {workspace} w SET enrichment_status = 'pending', pushed_to_neon_at = NULL, promoted_at = NULL,"
        " waiting_for = NULL, validation_errors = '{{}}', validation_warnings = '{{}}', neon_snapshot = s.data,"
        " last_sync_hash = md5(s.data::text), original_validation_errors = s.errors, reason_code = s.reason_code,"
        " sync_note = 'The promotion was taken back: check the record, and set complete again.'"
        " FROM (SELECT {data} AS data, r.validation_errors AS errors, r.reason_code"
        "   FROM jsonb_to_record(%(invalid)s) AS r ({typed}, validation_errors jsonb, reason_code text)) s"
        # Or it stands in the queue as it was promoted: a worker died before it could tell, and the next one would.
        " WHERE w.{key} = %(key)s AND (w.promoted_at IS NOT NULL OR w.enrichment_status = 'complete'"
        "   AND md5(concat_ws('|', w.{key}, w.updated_at::text, ({data_w})::text)) = %(delivery)s)"
    )
    typed = sql.SQL(", ").join(sql.SQL("{} jsonb").format(sql.Identifier(column)) for column in entity.columns)
    return (
        statement.format(
            workspace=entity.workspace_table.sql,
            data=data_of(entity, "r"),
            data_w=data_of(entity, "w"),
            typed=typed,
            key=sql.Identifier(entity.key),
        ),
        {"key": entry["key"], "invalid": Jsonb(entry["invalid_before"]), "delivery": entry["delivery_hash"]},
    )
