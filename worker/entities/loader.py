"""Read entity files, check them, and make the entities of them. Every mistake is told with file and line."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from worker.domain.model import Requirement
from worker.domain.rule_compiler import Rules
from worker.entities.declaration import Entity
from worker.entities.duplicates import likenesses
from worker.entities.file_format import EntityFile, Wait
from worker.entities.folder import FOLDER, entity_files
from worker.entities.mistakes import EntityFileError, Mistake, Source, read
from worker.entities.names import in_sql, literal, plain_type
from worker.entities.slots import quoted, slot_requirements, slot_sql
from worker.entities.worker_tables import (
    ENTITIES,
    FAILURES,
    LEDGER,
    LOG,
    NEEDS_ATTENTION,
    OUTBOX,
    PAUSED,
    POSITION,
    PULLS,
    RECEIPTS,
    Table,
)


@dataclass(frozen=True, slots=True)
class Declared:
    """A file that was read."""

    name: str
    source: Source
    file: EntityFile


@cache
def load_entities(folder: Path | None = None) -> dict[str, Entity]:
    """The entities of a folder by name, those that others wait for first. The files are read once.

    Args:
        folder: of the entity files; by default the ones that come with the worker.

    Raises:
        NoEntityFiles: there are none.
        EntityFileError: a file is wrong.
    """
    paths = entity_files(folder or FOLDER)
    declared, mistakes = {}, []
    for path in paths:
        one, found = read_file(path)
        mistakes += found
        if one:
            declared[one.name] = one
    mistakes += together(declared.values(), {path.stem for path in paths})
    if mistakes:
        raise EntityFileError(mistakes)
    return entities_of(declared)


def read_file(path: Path) -> tuple[Declared | None, list[Mistake]]:
    """Read one file by itself: its mistakes, and what it declares if there are none."""
    name = path.stem
    if path.parent != FOLDER:
        # A rule may name a function of a module beside the file.
        sys.path[:] = [*dict.fromkeys((*sys.path, str(path.parent.resolve())))]
    source, file, mistakes = read(path)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        mistakes.append(
            Mistake(str(path), None, "names no entity: use lower-case letters, digits and underscores: shop.toml")
        )
    if len(name) > 40:
        mistakes.append(Mistake(str(path), None, "has a name of more than 40 characters: shorten it"))
    if source is None or file is None or mistakes:
        return None, mistakes
    return Declared(name, source, file), []


def together(declared: Iterable[Declared], known: Collection[str] = ()) -> list[Mistake]:
    """The mistakes that only several files make: two with one table, one that waits for an entity that there is not.

    Args:
        declared: the files.
        known: names of files with mistakes of their own, which are told by themselves.
    """
    mistakes, files = [], list(declared)
    names = {*known, *(one.name for one in files)}
    own = LEDGER, RECEIPTS, PULLS, ENTITIES, LOG, POSITION, OUTBOX, PAUSED, FAILURES, NEEDS_ATTENTION
    taken: dict[Table, str] = dict.fromkeys(own, "the worker itself")
    for one in files:
        taken[Table(one.file.tables.workspace.schema, f"{one.name}_repairs")] = f"imports of {one.file.plural}"
    for one in files:
        for what in ("invalid", "master", "workspace"):
            table = getattr(one.file.tables, what)
            if table in taken:
                text = f"{table} is a table of {taken[table]} already: every entity has tables of its own"
                mistakes.append(one.source.mistake(("tables", what), text))
            elif table.schema.startswith("pg_") or table.schema == "information_schema":
                text = f"the schema {table.schema} is Postgres' own: no table can be made there"
                mistakes.append(one.source.mistake(("tables", what), text))
            taken.setdefault(table, one.name)
        for number, wait in enumerate(one.file.waits):
            if wait.entity and wait.entity not in names:
                text = f"there is no entity {wait.entity}; known: {', '.join(sorted(names))}"
                mistakes.append(one.source.mistake(("waits", number, "entity"), text))
    return mistakes + _cycles(files)


def _cycles(files: list[Declared]) -> list[Mistake]:
    names = {one.name for one in files}
    waits = {one.name: one.file.awaited & names for one in files}
    reached = {name: _reached(name, waits) for name in waits}
    mistakes = []
    for one in files:
        circle = sorted(name for name in reached[one.name] if one.name in reached.get(name, ()))
        if not circle:
            continue
        number = next(number for number, wait in enumerate(one.file.waits) if wait.entity in circle)
        said = (
            f"{', '.join(circle)} wait for each other: none"
            if len(circle) > 1
            else f"{one.name} waits for itself: none"
        )
        mistakes.append(one.source.mistake(("waits", number, "entity"), f"{said} could ever go on"))
    return mistakes


def _reached(name: str, waits: Mapping[str, set[str]]) -> set[str]:
    """What an entity waits for, and what that waits for, to the end."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        new = waits.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def entities_of(declared: Mapping[str, Declared]) -> dict[str, Entity]:
    """Make the entities of files without mistakes, those that others wait for first."""
    waits = {name: one.file.awaited for name, one in declared.items()}
    order: list[str] = []
    while len(order) < len(declared):
        order += [name for name in declared if name not in order and waits[name] <= set(order)]
    entities: dict[str, Entity] = {}
    for name in reversed(order):  # a record releases others: those are made first
        releases = tuple(entities[other] for other in order if name in waits[other])
        entities[name] = _entity(declared[name], declared, releases)
    return {name: entities[name] for name in order}


def _entity(one: Declared, declared: Mapping[str, Declared], releases: tuple[Entity, ...]) -> Entity:
    file = one.file
    singular, key = file.singular or one.name, file.key.column
    mapping = {name: it.column for name, it in file.master.mapping.items() if it.form == "as_is"}
    dialled = {name: it.column for name, it in file.master.mapping.items() if it.form == "e164"}
    computed = {name: _dialled(column) for name, column in dialled.items()} | file.master.computed
    kept = file.master.kept
    requirements = [_requirement(file, wait, declared) for wait in file.waits]
    reads: dict[Table, dict[str, str]] = {table: {} for table in file.tables.reads}
    for wait in file.waits:
        if wait.entity:
            other = declared[wait.entity].file
            reads[other.tables.master] = {other.key.column: other.key.type}
    if slot := file.slot:
        computed[slot.master_column] = slot_sql(slot)
        kept = (slot.master_column, *kept)
        texts = {slot.key, slot.owner, *slot.named_by}
        reads[slot.table] = (
            dict.fromkeys(sorted(texts), "TEXT")
            | {slot.owner: file.columns[slot.owner]}
            | ({slot.since: ""} if slot.since else {})
        )
        new = f"NOT EXISTS (SELECT FROM {quoted(file.tables.master)} p WHERE p.{in_sql(key)} = r.{in_sql(key)})"
        formats = [_has_form(wait) for wait in file.waits if wait.field == slot.owner and wait.format]
        requirements += slot_requirements(slot, singular, file.plural, new, " AND ".join(formats) or "true")
    return Entity(
        name=one.name,
        singular=singular,
        plural=file.plural,
        key=key,
        key_type=file.key.type,
        invalid_table=file.tables.invalid,
        master_table=file.tables.master,
        workspace_table=file.tables.workspace,
        column_types=file.columns,
        label=file.label,
        master_columns=file.master.create or _created(file, mapping, computed),
        mapping=mapping,
        computed=computed,
        kept=kept,
        dialled=tuple(dialled.values()),
        rules=Rules({name: plain_type(type_) for name, type_ in file.columns.items()}, file.rules, _held(file)),
        requirements=tuple(requirements),
        alike=likenesses(one.name, file.duplicates, mapping),
        holds=bool(file.duplicates and file.duplicates.policy == "hold"),
        releases=releases,
        reads=reads,
        patterns=_patterns(file),
        raw_table=file.tables.raw,
        file=one.source.path,
    )


def _held(file: EntityFile) -> object:
    """What of the duplicates decides a verdict: a warning does not."""
    held = file.duplicates if file.duplicates and file.duplicates.policy == "hold" else None
    return held and held.model_dump(mode="json")


def _patterns(file: EntityFile) -> tuple[str, ...]:
    patterns = [wait.format for wait in file.waits if wait.format]
    for role in file.slot.roles if file.slot else ():
        patterns += [*role.titles, *role.slots]
    return tuple(dict.fromkeys(patterns))


def _dialled(column: str) -> str:
    """A phone in E.164; one that is left as typed is not carried."""
    return rf"CASE WHEN r.{in_sql(column)} ~ '^\+[1-9][0-9]{{6,14}}$' THEN r.{in_sql(column)} END"


def _created(file: EntityFile, mapping: Mapping[str, str], computed: Mapping[str, str]) -> dict[str, str]:
    """The columns of a master table that the file says nothing of."""
    columns = {file.key.column: f"{file.key.type} PRIMARY KEY"}
    columns |= {name: file.columns[column] for name, column in mapping.items()}
    return columns | dict.fromkeys(computed, "TEXT")


def _has_form(wait: Wait) -> str:
    return f"r.{in_sql(wait.field)}::text ~ {literal(wait.format or '')}"


_NUMBERS = {"SMALLINT", "INTEGER", "BIGINT", "NUMERIC"}


def _requirement(file: EntityFile, wait: Wait, declared: Mapping[str, Declared]) -> Requirement:
    field = f"r.{in_sql(wait.field)}"
    waits_for = f"{field}::text"
    if wait.unmet:
        # What it waits for has a name in any case: by that, a row is known to wait.
        unmet, waits_for = f"({wait.unmet})", f"coalesce({waits_for}, {literal(wait.field)})"
    else:
        other = declared[wait.entity or ""].file
        key = f"m.{in_sql(other.key.column)}"
        types = {plain_type(file.columns[wait.field]), other.key.type}
        # As text, keys of different types can be compared, but no index helps.
        equal = f"{key} = {field}" if len(types) == 1 or types <= _NUMBERS else f"{key}::text = {field}::text"
        if "NUMERIC" in types:  # 2.00 waits for 2
            waits_for = f"trim_scale({field})::text"
        unmet = f"{field} IS NOT NULL AND NOT EXISTS (SELECT FROM {quoted(other.tables.master)} m WHERE {equal})"
    possible = f"{_has_form(wait)} AND " if wait.format else ""
    return Requirement(waits_for=waits_for, unmet=possible + unmet, note=wait.note)
