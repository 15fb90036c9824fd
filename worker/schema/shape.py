"""The tables that the worker requires: a new column gets a line here, and in the SQL that adds it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from worker.entities.declaration import Entity
from worker.entities.names import fields_in
from worker.entities.worker_tables import (
    FAILURES,
    LEDGER,
    LOG,
    OUTBOX,
    PAUSED,
    POSITION,
    PULLS,
    RECEIPTS,
    SLOTS,
    Table,
)
from worker.neon.invalid import PULLED, pulled_columns

POSITION_COLUMNS = (
    "position", "last_id", "last_result", "pulls", "ledger_id", "restored", "open_transactions", "counted_run_id",
    "unfinished_run_id", "failures_id", "failures_run_id",
)  # fmt: skip
LEDGER_COLUMNS = ("delivery_hash", "row_version", "note_code", "reason_code")
NEON, SUPABASE = "Neon", "Supabase"
OUTBOX_CHECK = "events to N8N_WEBHOOK_URL"
"""The name of the outbox in ``doctor``'s findings."""
PAUSES = "pauses"
"""The name of what is paused in ``doctor``'s findings."""


class Kind(StrEnum):
    """What a column holds. Each kind covers several types of Postgres."""

    KEY = "key"
    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    """An id: any integer type."""
    TIME = "time"
    """UTC: with a time zone or without."""
    JSON = "json"
    BOOLEAN = "boolean"
    ANY = "any"


KEY_LENGTH = 21
"""Characters of a Barton ID."""


@dataclass(frozen=True)
class Wanted:
    """A required column."""

    name: str
    kind: Kind = Kind.TEXT
    added: bool = True
    """Whether `setup` adds it if it is missing."""
    empty: bool = False
    """Whether it is NULL in a new row, and the worker sets it to NULL again."""
    least: int = 0
    """How many characters it must hold."""
    whole: bool = False
    """Whether values must be stored exactly: not padded, cut or rounded."""
    loose: bool = False
    """Whether a type that fits only some values is enough: a refused value concerns only its record."""
    read: bool = False
    """Whether the worker only reads it."""
    default: str | None = None
    """The default for a new type, if the column had one."""
    made_as: str | None = None
    """The type of a new column; None for the usual type of its kind."""


@dataclass(frozen=True)
class Shape:
    """A required table."""

    database: str
    subject: str
    """Its name in ``doctor``'s findings."""
    table: Table
    columns: Sequence[Wanted]
    key: str | None = None
    """The key column, unique over all rows."""
    upserted: bool = False
    """Whether ON CONFLICT uses the key."""
    filled: Collection[str] | None = None
    """The columns that the worker's INSERT fills; None if it inserts nothing."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Column → Neon's column that it is filled from, which may be NULL."""
    source: Table | None = None
    """The table of those columns."""
    numbered: bool = False
    """Whether the table assigns the ``id`` of its rows."""
    own: bool = False
    """Whether it is the worker's own table, which `setup` repairs."""
    foreign: bool = False
    """Whether it is somebody else's, which `setup` does not make."""


def _data(entity: Entity, column: str) -> Kind:
    """The kind of a data column, as the entity declares it; for other types, any type that fits the values."""
    return {"TEXT": Kind.TEXT, "INTEGER": Kind.INTEGER}.get(entity.column_types[column].upper(), Kind.ANY)


def _key(entity: Entity, *, read: bool = False) -> Wanted:
    if entity.key_type == "TEXT":
        return Wanted(entity.key, Kind.KEY, added=False, read=read, least=KEY_LENGTH)
    return Wanted(entity.key, Kind.NUMBER, added=False, read=read, made_as=entity.key_type)


def _invalid(entity: Entity) -> Shape:
    columns = (
        _key(entity, read=True),
        Wanted("id", Kind.NUMBER, added=False, read=True),
        *(Wanted(name, _data(entity, name), added=False, loose=True, made_as=type_)
          for name, type_ in entity.column_types.items()),
        Wanted("reason_code", least=40), Wanted("validation_errors", Kind.JSON),
        Wanted("validation_warnings", Kind.JSON), Wanted("batch_id", loose=True, read=True),
        Wanted("created_at", Kind.TIME, read=True), Wanted("updated_at", Kind.TIME),
        Wanted("enrichment_status", least=8), Wanted("enriched_at", Kind.TIME),
        Wanted("enriched_by"), Wanted("still_invalid", Kind.BOOLEAN),
    )  # fmt: skip
    known = {one.name for one in columns}
    parts = [*entity.computed.values(), *(one.unmet for one in entity.requirements)]
    others = sorted({name for text in parts for name in fields_in(text)} - known)
    columns = (*columns, *(Wanted(name, Kind.ANY, added=False, read=True) for name in others))
    return Shape(NEON, f"{entity.name}: Neon's tables", entity.invalid_table, columns, key=entity.key)


def _master(entity: Entity) -> Shape:
    columns = (_key(entity),)
    filled = {entity.key, *entity.mapping, *entity.computed}
    subject = f"{entity.name}: Neon's tables"
    return Shape(NEON, subject, entity.master_table, columns, key=entity.key, upserted=True, filled=filled)


def _workspace(entity: Entity) -> Shape:
    columns = (
        _key(entity),
        Wanted("id", Kind.NUMBER), Wanted("neon_id", Kind.NUMBER), Wanted("source_batch_id"),
        *(Wanted(name, _data(entity, name), whole=True) for name in entity.columns),
        Wanted("original_validation_errors", Kind.JSON), Wanted("original_validation_warnings", Kind.JSON),
        Wanted("reason_code", least=40), Wanted("enrichment_status", least=11, default="'pending'"),
        Wanted("enrichment_notes"), Wanted("enriched_by"), Wanted("enriched_at", Kind.TIME),
        Wanted("pulled_from_neon_at", Kind.TIME), Wanted("pushed_to_neon_at", Kind.TIME, empty=True),
        Wanted("last_sync_hash", least=32), Wanted("created_at", Kind.TIME),
        # It distinguishes the versions of a row.
        Wanted("updated_at", Kind.TIME, whole=True),
        Wanted("neon_snapshot", Kind.JSON, empty=True), Wanted("validation_errors", Kind.JSON),
        Wanted("validation_warnings", Kind.JSON), Wanted("sync_note", least=2000, empty=True),
        Wanted("promoted_at", Kind.TIME, empty=True), Wanted("waiting_for", least=KEY_LENGTH, empty=True),
        Wanted("sync_code", least=20, empty=True), Wanted("receipt_id", Kind.NUMBER, empty=True),
        Wanted("receipt_hash", least=52, empty=True), Wanted("queued_versions", least=900, empty=True),
        Wanted("times_returned", Kind.INTEGER), Wanted("returned_at", Kind.ANY, empty=True),
    )  # fmt: skip
    sources = {
        **{name: name for name in entity.columns},
        **{name: how.removeprefix("i.") for name, how in PULLED.items() if how.startswith("i.")},
    }
    return Shape(
        SUPABASE, f"{entity.name}: workspace", entity.workspace_table, columns, key=entity.key, upserted=True,
        filled=set(pulled_columns(entity)), sources=sources, source=entity.invalid_table, numbered=True,
    )  # fmt: skip


def _read(entity: Entity, table: Table) -> Shape:
    columns = [
        Wanted(name, Kind.TEXT if type_ == "TEXT" else Kind.ANY, added=False, loose=True, read=True)
        for name, type_ in entity.reads[table].items()
    ]
    return Shape(NEON, f"{entity.name}: Neon's tables", table, columns, foreign=table != SLOTS)


def _plain(
    database: str, subject: str, table: Table, names: Iterable[str], *, key: str | None = None, numbered: bool = False
) -> Shape:
    """One of the worker's own tables."""
    wanted = [Wanted(name, Kind.ANY) for name in names]
    return Shape(database, subject, table, wanted, key=key, upserted=key is not None, numbered=numbered, own=True)


def shapes(entities: Iterable[Entity], *, announces: bool = False) -> list[Shape]:
    """All required tables.

    Args:
        entities: whose tables.
        announces: whether the outbox is used, too.
    """
    named = list(entities)
    made = {entity.master_table for entity in named} | {entity.invalid_table for entity in named}
    wanted = [shape for entity in named for shape in (_invalid(entity), _master(entity), _workspace(entity))]
    for entity in named:
        wanted += [_read(entity, table) for table in entity.reads if table not in made]
    log = (
        Wanted("validation_run_id", least=35), Wanted("source_table"), Wanted("target_table"),
        Wanted("total_records", Kind.INTEGER), Wanted("passed_records", Kind.INTEGER),
        Wanted("failed_records", Kind.INTEGER), Wanted("executed_by"), Wanted("executed_at", Kind.TIME),
        Wanted("notes"),
    )  # fmt: skip
    return [
        *wanted,
        _plain(NEON, "ledger and log", LEDGER, LEDGER_COLUMNS, numbered=True),
        _plain(NEON, "ledger and log", RECEIPTS, ("pulls", "confirmed", "pruned_id", "pulled_at"), key="entity"),
        _plain(NEON, "ledger and log", PULLS, ("entity", "slot", "number", "run_id")),
        Shape(
            NEON, "ledger and log", LOG, [Wanted(**{**vars(one), "added": False}) for one in log],
            key="validation_run_id", upserted=True, filled={one.name for one in log},
        ),
        _plain(SUPABASE, "pull's position", POSITION, POSITION_COLUMNS, key="entity"),
        _plain(SUPABASE, PAUSES, PAUSED, ("entity", "paused_at"), key="entity"),
        _plain(SUPABASE, "failures by week", FAILURES, ("entity", "week", "reason_code", "field", "records", "recent")),
        *([_plain(SUPABASE, OUTBOX_CHECK, OUTBOX, ("entity", "event"), numbered=True)] if announces else []),
    ]  # fmt: skip
