"""``history KEY``: the life of one record across both databases, as a timeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from worker.domain.model import same_as, utc, utc_now
from worker.entities.declaration import Entity, key_sql
from worker.entities.worker_tables import LEDGER
from worker.postgres.transaction import fetch_first, read
from worker.supabase import outbox
from worker.sync.databases import Databases


@dataclass
class Event:
    """Something that happened to a record. The time is UTC, without zone."""

    at: datetime | None
    what: str
    details: list[str] = field(default_factory=list)
    run_id: str | None = None


@dataclass
class History:
    """A record's history, and its current state."""

    entity: str
    key: str
    events: list[Event]
    now: str


async def history(databases: Databases, key: str, entity: str | None = None) -> list[History]:
    """The history of the record with this key, of an entity or of all; several entities may have one with the same key.

    Raises:
        psycopg.Error: a database did not answer.
    """
    among = [one for one in databases.entities.values() if entity in (None, one.name)]
    return [found for one in among if (found := await _history(databases, one, key))]


async def _history(databases: Databases, entity: Entity, key: str) -> History | None:
    if not entity.is_key(key):
        return None
    named, params = key_sql(entity), {"key": key, "entity": entity.name}
    whole = sql.SQL("SELECT to_jsonb(t.*) AS row FROM {table} t WHERE {key} = %(key)s{key_cast}")
    ledger = sql.SQL(
        "SELECT *, recorded_at AT TIME ZONE 'UTC' AS at FROM {} WHERE entity = %(entity)s AND key = %(key)s ORDER BY id"
    )
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        invalids, masters, entries = await read(
            neon,
            (whole.format(table=entity.invalid_table.sql, **named), params),
            (whole.format(table=entity.master_table.sql, **named), params),
            (ledger.format(LEDGER.sql), params),
        )
        invalid, master = next(iter(invalids), None), next(iter(masters), None)
        work = await fetch_first(supabase, whole.format(table=entity.workspace_table.sql, **named), params)
        unposted = await outbox.waiting_with(supabase, key) if databases.announces else 0
    if not (invalid or master or entries or work):
        return None
    work_row, invalid_row = _shown(work), _shown(invalid)
    events = _events(work_row, invalid_row, entries, bool(master))
    if (work and not work_row) or (invalid and not invalid_row):
        events.insert(0, Event(None, "stands in a row with a value that is nested too deeply to be shown"))
    now = _now(entity, work_row, bool(invalid), bool(master))
    if unposted:
        now += f"; {unposted} of its events wait to be posted to N8N_WEBHOOK_URL"
    return History(entity.name, key, events, now)


def _shown(found: dict[str, Any] | None) -> dict[str, Any] | None:
    return found["row"] if found and isinstance(found["row"], dict) else None


def _events(
    work: dict[str, Any] | None, invalid: dict[str, Any] | None, entries: list[dict[str, Any]], master: bool
) -> list[Event]:
    events: list[Event] = []
    if master and not any(entry["outcome"] == "promoted" for entry in entries):
        gone = "retention removed its ledger rows, with the backup that undo needs, or somebody else promoted it"
        events.append(Event(None, "promoted, and not on record", [gone]))
    origin = (entries[0]["invalid_before"] if entries else None) or invalid
    if origin:
        why = [f"{origin['reason_code']}: {_plain(origin['validation_errors'])}"]
        batch = f" (batch {origin['batch_id']})" if origin.get("batch_id") else ""
        events.append(Event(_time(origin.get("created_at")), f"failed the initial validation{batch}", why))
    if work and work["pulled_from_neon_at"]:
        events.append(Event(_time(work["pulled_from_neon_at"]), "pulled to the workspace"))
    events += [_event(entry) for entry in entries]
    return sorted(events, key=lambda event: (event.at is not None, event.at or utc_now()))


_WHAT = {
    "promoted": "promoted to the master table",
    "flagged": "given back to the enricher",
    "waiting": "waits",
    "withdrawn": "withdrawn from the workspace",
    "merged": "Neon's change merged into the workspace row",
    "undone": "promotion taken back",
}


def _event(entry: dict[str, Any]) -> Event:
    what = _WHAT.get(entry["outcome"], entry["outcome"])
    if entry["outcome"] == "promoted" and entry["master_before"]:
        what += ", where it stood already: updated"
    if entry["enriched_by"]:
        what += f", as repaired by {entry['enriched_by']}"
    before, record = entry["invalid_before"] or {}, entry["record"] or {}
    details = [
        f"{name}: {_value(before.get(name))} → {_value(record.get(name))} (enricher)"
        for name in entry["enriched_fields"]
    ]
    mine = entry["enriched_fields"]
    others = [n for n in record if n in before and same_as(before[n], record[n]) != record[n] and n not in mine]
    details += [f"{name}: {_value(before[name])} → {_value(record[name])} (normalised)" for name in others]
    details += [
        f"conflict in {c['field']}: enricher {_value(c['enricher'])}, Neon {_value(c['neon'])}; {c['winner']}'s kept"
        for c in entry["conflicts"]
    ]
    details += [f"error in {name}: {say}" for name, say in entry["errors"].items()]
    details += [f"warning in {name}: {say}" for name, say in entry["warnings"].items()]
    if entry["note"]:
        details.append(entry["note"])
    if entry["rules_version"] and entry["outcome"] in ("promoted", "flagged"):
        details.append(f"by the rules of version {entry['rules_version']}")
    return Event(entry["at"], what, details, entry["run_id"])


def _now(entity: Entity, work: dict[str, Any] | None, invalid: bool, master: bool) -> str:
    where = [str(table) for table, neon in ((entity.invalid_table, invalid), (entity.master_table, master)) if neon]
    says = f"in {' and '.join(where)}" if where else "in neither of Neon's tables"
    if work is None:
        return f"{says}; not in the workspace"
    note = f": {work['sync_note']}" if work["sync_note"] else ""
    return f"{says}; the workspace row is {work['enrichment_status']}{note}"


def _time(text: str | None) -> datetime | None:
    return utc(datetime.fromisoformat(text)) if text else None


def _value(value: Any) -> str:
    return "empty" if value is None else repr(value) if isinstance(value, str) else str(value)


def _plain(errors: Any) -> str:
    if isinstance(errors, dict):
        return "; ".join(f"{name}: {say}" for name, say in errors.items()) or "no reasons given"
    if isinstance(errors, list):
        return "; ".join(map(str, errors)) or "no reasons given"
    return str(errors)
