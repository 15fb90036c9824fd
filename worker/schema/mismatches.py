"""The mismatches of a table: the one place that compares the catalogue with what the worker needs.

Names are not enough: a table with the right name may lack a unique key, or have a column of another type, and would
fail later at some record. `setup`, `doctor`, `run` and the stages use this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker.entities.names import in_sql
from worker.neon.catalogue import Column, Found
from worker.postgres.errors import SchemaProblem
from worker.schema import fixes
from worker.schema.probes import Duplicates
from worker.schema.shape import Kind, Shape, Wanted

_WORDS = {
    Kind.KEY: "text without padding, for keys of {least} characters", Kind.TEXT: "text", Kind.INTEGER: "whole numbers",
    Kind.NUMBER: "an integer", Kind.TIME: "a timestamp", Kind.JSON: "jsonb", Kind.BOOLEAN: "boolean",
}  # fmt: skip


_KEYS: Mapping[str | None, tuple[str, ...]] = {
    "SMALLINT": ("int2",), "INTEGER": ("int2", "int4"), "BIGINT": ("int2", "int4", "int8"),
}  # fmt: skip
"""A numeric key as declared → the types whose every value it holds."""
SEQUENCE = "a sequence ahead of its rows"


@dataclass(frozen=True)
class Mismatch:
    """One way in which a table is not as the worker needs it."""

    shape: Shape
    problem: SchemaProblem
    by_setup: str = ""
    """What `setup` adds; empty if the owner must fix it."""
    harmless: bool = False
    """Whether everything except a pull works nevertheless."""
    hides: bool = False
    """Whether the cause is row level security, which hides rows."""


def compare(
    shape: Shape, found: Found, sources: Found | None = None, duplicates: Duplicates | None = None
) -> list[Mismatch]:
    """The mismatches of a table, each with its fix. Pure.

    Args:
        shape: the required table.
        found: the actual table.
        sources: the actual table that its rows come from, if that is known.
        duplicates: the rows that prevent a fix of its key, if that is known.
    """
    where = f"{shape.database}'s {shape.table}"
    if not found.kind and shape.foreign:
        text = f"{shape.database} has no table {shape.table}, which {shape.subject.partition(':')[0]} looks up"
        hint = "make it, or give its own name in the entity file (reads, waits, slot): `setup` makes no table of others"
        return [Mismatch(shape, SchemaProblem(text, hint))]
    if not found.kind:
        return [_by_setup(shape, f"table {shape.table}")]
    if found.kind not in ("r", "p"):
        what = fixes.KINDS.get(found.kind, "no table")
        return [Mismatch(shape, SchemaProblem(f"{where} is {what}, and has to be a table", fixes.aside(found)))]
    if no_way := _no_way(shape, found):
        return [Mismatch(shape, SchemaProblem(f"{where} cannot be adopted: {'; '.join(no_way)}", fixes.aside(found)))]
    mismatches = [_by_setup(shape, one.name) for one in shape.columns if one.added and one.name not in found.columns]
    problems = [
        problem
        for one in shape.columns
        for problem in (
            _column(shape, found, one, found.columns[one.name]) if one.name in found.columns else _missing(found, one)
        )
    ]
    problems += [*_unique(shape, found, duplicates), *_unfilled(shape, found, sources)]
    return mismatches + [Mismatch(shape, SchemaProblem(f"{where}{problem.text}", problem.hint)) for problem in problems]


def _by_setup(shape: Shape, what: str) -> Mismatch:
    text = f"{shape.database} has no {what}" if " " in what else f"{shape.database}'s {shape.table} lacks {what}"
    return Mismatch(shape, SchemaProblem(text, fixes.SETUP), by_setup=what)


def _no_way(shape: Shape, found: Found) -> list[str]:
    """Why no statement can make this table right."""
    if shape.key is None:
        return []
    if shape.key in found.columns:
        if found.kind == "p" and not set(found.parted_by) <= {shape.key}:
            return [f"it is partitioned by {', '.join(found.parted_by)}, so that {shape.key} cannot be unique in it"]
        return []
    others = [
        f"{one.name} is of type {column.type}"
        for one in shape.columns
        if (column := found.columns.get(one.name)) and not _fits(one, column)
    ]
    needed = [name for name in _needed(shape, found) if name not in {one.name for one in shape.columns}]
    if needed:
        others.append(f"nobody fills {', '.join(needed)}, which {'is' if len(needed) == 1 else 'are'} NOT NULL")
    return [f"it has no {shape.key}", *others]


def _missing(found: Found, wanted: Wanted) -> Iterator[SchemaProblem]:
    if wanted.added:
        return
    type_ = "BIGSERIAL" if wanted.kind is Kind.NUMBER else wanted.made_as or fixes.TYPES.get(wanted.kind, "TEXT")
    text = f" lacks {wanted.name}: if it has another name now, give it back its own, else add it"
    yield SchemaProblem(text, fixes.alter(found, f"ADD COLUMN {in_sql(wanted.name)} {type_}"))


def _column(shape: Shape, found: Found, wanted: Wanted, column: Column) -> Iterator[SchemaProblem]:
    name = f".{column.name}"
    if not wanted.read and (column.generated or (column.identity == "a" and wanted.name != "id")):
        how = "generated" if column.generated else "GENERATED ALWAYS AS IDENTITY"
        fix = (
            fixes.plain(found, column, wanted.kind, required=column.name == shape.key)
            if column.generated or not _fits(wanted, column)
            else fixes.by_default(found, column)
        )
        yield SchemaProblem(f"{name} is {how}, and the worker has to write it", fix)
        return
    if not _fits(wanted, column):
        needs = _WORDS[wanted.kind].format(least=wanted.least) + (
            f" of at least {wanted.least} characters"
            if wanted.least and wanted.kind is Kind.TEXT
            else ", to the microsecond"
            if wanted.whole and wanted.kind is Kind.TIME
            else ""
        )
        held = fixes.held_by(column)
        free = f", which {', '.join(held)} must make room for and be made again after" if held else ""
        yield SchemaProblem(
            f"{name} is of type {column.type}, and has to be {needs}{free}",
            fixes.retype(found, column, wanted.kind, wanted.default),
        )
    elif wanted.name == "id" and shape.numbered and not column.default:
        yield SchemaProblem(f"{name} has no default: nobody numbers new rows", fixes.numbered(found, column))
    if wanted.empty and column.default:
        yield SchemaProblem(
            f"{name} has a default, and has to be empty until the worker says otherwise",
            fixes.alter(found, f"ALTER COLUMN {column.quoted} DROP DEFAULT"),
        )
    if wanted.empty and column.not_null:
        yield SchemaProblem(f"{name} is NOT NULL, and the worker empties it", fixes.nullable(found, column))


def _fits(wanted: Wanted, column: Column) -> bool:
    base, modifier = column.base, column.modifier
    if wanted.kind in (Kind.KEY, Kind.TEXT):
        return _fits_text(wanted, column)
    partly = not wanted.whole
    if wanted.kind is Kind.NUMBER and wanted.made_as:
        return base in _KEYS[wanted.made_as]
    fitting: Mapping[Kind, bool] = {
        Kind.INTEGER: base in ("int4", "int8", *(["int2"] if partly else []), *([] if _scale(column) else ["numeric"])),
        Kind.NUMBER: base in ("int4", "int8") or (base == "int2" and (wanted.name == "id" or not wanted.added)),
        Kind.TIME: base in ("timestamp", "timestamptz") and (partly or modifier in (-1, 6)),
        Kind.JSON: base == "jsonb",
        Kind.BOOLEAN: base == "bool",
    }
    return fitting.get(wanted.kind, True)


def _scale(column: Column) -> int:
    """Digits after the point: https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/numeric.c"""
    return (column.modifier - 4) & 0x7FF if column.modifier >= 0 else 0


def _fits_text(wanted: Wanted, column: Column) -> bool:
    length = column.modifier - 4 if column.modifier >= 0 else None
    match column.base:
        case "text":
            return True
        case "citext":
            return wanted.kind is Kind.TEXT
        case "varchar":
            return length is None or length >= wanted.least
        case "bpchar":  # padded, unless it is always full
            return wanted.loose or (wanted.name == "last_sync_hash" and length == wanted.least)
        case _:
            return wanted.loose and column.category == "E"


def _unique(shape: Shape, found: Found, duplicates: Duplicates | None) -> Iterator[SchemaProblem]:
    if shape.key is None:
        return
    column = found.columns[shape.key]
    by = [one for one in found.unique if one.columns == (shape.key,)]
    slow = [one for one in by if not one.immediate]
    if not by:
        first = (
            f"; it has {duplicates.rows} rows with the key {duplicates.key}, which have to become one first"
            if duplicates and duplicates.rows
            else ""
        )
        yield SchemaProblem(f".{shape.key} is not unique by itself in all rows{first}", fixes.unique(found, column))
    elif shape.upserted and slow:
        text = f".{shape.key} is unique by a DEFERRABLE constraint, which ON CONFLICT cannot go by"
        yield SchemaProblem(text, fixes.unique(found, column, slow))
    if not column.not_null:
        first = (
            f"; {duplicates.none} {'row has' if duplicates.none == 1 else 'rows have'} none, and must go first"
            if duplicates and duplicates.none
            else ""
        )
        yield SchemaProblem(
            f".{shape.key} may be empty, and a row without key belongs to no record{first}",
            fixes.alter(found, f"ALTER COLUMN {column.quoted} SET NOT NULL"),
        )


def _needed(shape: Shape, found: Found) -> list[str]:
    if shape.filled is None:
        return []
    return [
        one.name
        for one in found.columns.values()
        if one.needed and one.name not in shape.filled and not found.may_be_filled(one.name)
    ]


def _unfilled(shape: Shape, found: Found, sources: Found | None) -> Iterator[SchemaProblem]:
    known = {one.name for one in shape.columns if one.empty or (one.name == "id" and shape.numbered)}
    for name in _needed(shape, found):
        if name not in known:
            text = f".{name} is NOT NULL without default, and the worker does not fill it"
            yield SchemaProblem(text, fixes.nullable(found, found.columns[name]))
    for name, source in shape.sources.items():
        if sources is None:
            break
        column, its = found.columns.get(name), sources.columns.get(source)
        if column and column.not_null and (its is None or not its.not_null) and column.writable:
            text = f".{name} is NOT NULL, and may be empty in Neon's {shape.source}"
            yield SchemaProblem(text, fixes.nullable(found, column))


def hidden(shape: Shape, found: Found) -> Mismatch:
    """A table whose rows row level security hides from the role."""
    text = f"{shape.database}'s {shape.table} hides rows from this role by row-level security: its work would go unseen"
    return Mismatch(shape, SchemaProblem(text, fixes.policy(found)), hides=True)
