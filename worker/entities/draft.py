"""Write a draft of an entity file from what the catalogue says of an invalid and a master table. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from worker.entities.names import KEY_TYPES, column_name, column_type, in_sql, plain_type
from worker.entities.slots import quoted
from worker.entities.worker_tables import RESERVED_COLUMNS, Table


class NoDraft(Exception):
    """No entity file can be made of these tables. The text is one line with what would help."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of an existing table."""

    name: str
    type: str
    needed: bool = False
    """Whether it is NOT NULL and has no default."""
    writable: bool = True
    unique: bool = False


_COMPUTED = {
    "source_system": "'enrichment'", "source_record_id": "r.id::text", "import_batch_id": "r.batch_id",
    "validated_at": "now()", "validated_by": "d.enriched_by",
}  # fmt: skip
"""Master columns by these names are filled as those of the entities that come with the worker."""


def draft(name: str, invalid: Table, master: Table, its: Iterable[TableColumn], masters: Iterable[TableColumn]) -> str:
    """An entity file in TOML, with comments that say what to decide.

    Args:
        name: of the entity.
        invalid: the invalid table.
        master: the master table.
        its: the invalid table's columns.
        masters: the master table's columns.

    Raises:
        NoDraft: there is no key in both tables, or nothing to carry.
    """
    of_invalid, of_master = {one.name: one for one in its}, {one.name: one for one in masters}
    key = _key(invalid, master, of_invalid, of_master)
    columns, left = _columns(of_invalid, key)
    if not columns:
        raise NoDraft(f"{invalid} has no data column: nothing could be repaired")
    texts = [column for column, type_ in columns.items() if plain_type(type_) in ("TEXT", "VARCHAR")]
    if not texts:
        raise NoDraft(f"{invalid} has no text column: none names a record in a list")
    label = next((column for column in texts if "name" in column), texts[0])
    mapping, guessed, computed, unfilled = _master(of_master, key, columns)
    if not mapping:
        raise NoDraft(
            f"{master} and {invalid} have no data column of one name: write the file by hand, after company.toml"
        )
    lines = [
        f"# {name}: drafted from {invalid} and {master}. Decide where a comment says so; docs/entities.md explains",
        "# each key, and `enrichment-worker entities check FILE` finds mistakes.",
        f"plural = {_text(name + 's')}          # decide: how several are called",
        _pair("key", key.name) if (type_ := _key_type(key) or "TEXT") == "TEXT"
        else f"key = {{ column = {_text(key.name)}, type = {_text(type_)} }}",
        f"{_pair('label', label)}          # decide: the column that names a record in a list",
        "",
        "[tables]",
        _pair("invalid", quoted(invalid)),
        _pair("master", quoted(master)),
        f"{_pair('workspace', f'public.{name}_needs_enrichment')}          # `setup` makes it",
        "",
        "# The data columns, which enrichers see and repair. Decide: leave out what is not theirs.",
        "[columns]",
        *(_pair(column, type_) for column, type_ in columns.items()),
        *(f"# {_key_text(column)}: {why}" for column, why in left.items()),
        "",
        "# Decide: what else each must satisfy. The first rule that refuses a record gives its reason_code.",
    ]  # fmt: skip
    lines += _rules(columns, mapping, of_master)
    lines += ["", "# Master column = data column.", "[master.mapping]"]
    lines += [
        _pair(column, source) + ("          # decide: guessed from the names" if column in guessed else "")
        for column, source in mapping.items()
    ]
    lines += ["", "# Master column = SQL over r, the record, and d, the delivery.", "[master.computed]"]
    lines += [_pair(column, how) for column, how in computed.items()]
    lines += [
        f"{_pair(column, 'NULL')}          # decide: it is NOT NULL; until SQL or [slot] fills it, all are refused"
        if _is_name(column)
        else f"# {_key_text(column)} = …          # decide: it is NOT NULL, and a file cannot name it"
        for column in unfilled
    ]
    kept = [column for column in computed if column.startswith("source_") or column == "import_batch_id"]
    lines += ["", "# A record that is in the master already keeps them.", "[master]", f"kept = {json.dumps(kept)}", ""]
    return "\n".join(lines)


def _key(
    invalid: Table, master: Table, of_invalid: Mapping[str, TableColumn], of_master: Mapping[str, TableColumn]
) -> TableColumn:
    """The column that is unique in both tables; not ``id``, if there is another."""
    found = [
        one
        for one in of_invalid.values()
        if one.unique and of_master.get(one.name, one).unique and one.name in of_master and _key_type(one)
    ]
    found = [one for one in found if one.name not in RESERVED_COLUMNS]
    if not found:
        raise NoDraft(
            f"{invalid} and {master} have no key in common: a column of one name, {', '.join(KEY_TYPES)}, unique in"
            " both"
        )
    return found[0]


def _key_type(column: TableColumn) -> str | None:
    """The type of the key that it may be; a text with a length is a text."""
    type_ = _type(column) or ""
    return "TEXT" if plain_type(type_) == "VARCHAR" else type_ if type_ in KEY_TYPES else None


def _type(column: TableColumn) -> str | None:
    try:
        return column_type(column.type)
    except ValueError:
        return None


def _columns(of_invalid: Mapping[str, TableColumn], key: TableColumn) -> tuple[dict[str, str], dict[str, str]]:
    """The data columns with their types, and what is left out, and why."""
    columns: dict[str, str] = {}
    left: dict[str, str] = {}
    for one in of_invalid.values():
        if one.name == key.name or one.name in RESERVED_COLUMNS:
            continue
        try:
            columns[column_name(one.name)] = column_type(one.type)
        except ValueError as error:
            left[one.name] = f"left out, as {' '.join(str(error).split())}"
        else:
            if not one.writable:
                left[one.name] = f"left out, as it is generated ({columns.pop(one.name)})"
    return columns, left


def _master(
    of_master: Mapping[str, TableColumn], key: TableColumn, columns: Mapping[str, str]
) -> tuple[dict[str, str], set[str], dict[str, str], list[str]]:
    """What the master is filled from: data columns, which of these are a guess, SQL, and the columns that need a value
    and have none yet.
    """
    writable = [one for one in of_master.values() if one.writable and one.name != key.name]
    guessed: set[str] = set()
    same = {one.name: one for one in writable if one.name in columns}
    mapping = {name: name for name, one in same.items() if _takes(one, columns[name])}
    computed = {one.name: _COMPUTED[one.name] for one in writable if one.name in _COMPUTED and one.name not in mapping}
    computed |= {name: f"r.{in_sql(name)}::{one.type}" for name, one in same.items() if name not in mapping}
    unfilled = []
    for one in writable:
        if one.name in mapping or one.name in computed:
            continue
        free = [column for column in columns if column not in mapping.values() and columns[column] == _type(one)]
        near = [column for column in free if column in one.name] or difflib.get_close_matches(one.name, free, 1, 0.8)
        if near and _is_name(one.name):
            mapping[one.name] = max(near, key=len)
            guessed.add(one.name)
        elif one.needed:
            unfilled.append(one.name)
    return mapping, guessed, computed, unfilled


def _takes(column: TableColumn, type_: str) -> bool:
    """Whether an INSERT may write a value of this type there without a cast: text goes into nothing else by itself."""
    text = "TEXT", "VARCHAR", "CHAR", "CHARACTER", "CITEXT"
    own = plain_type(_type(column) or column.type.upper())
    return own in text or own == plain_type(type_) or plain_type(type_) not in text


def _is_name(column: str) -> bool:
    try:
        return bool(column_name(column))
    except ValueError:
        return False


def _rules(
    columns: Mapping[str, str], mapping: Mapping[str, str], of_master: Mapping[str, TableColumn]
) -> Iterable[str]:
    needed = dict.fromkeys(source for column, source in mapping.items() if of_master[column].needed)
    for column in needed:
        yield from ("", "[[rules]]", _pair("field", column), 'rule = "required"')
    for column, type_ in columns.items():
        if plain_type(type_) not in ("TEXT", "VARCHAR"):
            continue
        kind = next((kind for word, kind in _LIKELY.items() if word in column), None)
        if kind:
            yield from (
                "",
                "[[rules]]",
                _pair("field", column),
                f'rule = "{kind}"',
                'severity = "warning"          # decide: warning or error',
            )


_LIKELY = {"email": "email", "phone": "phone", "website": "web_address", "_url": "web_address"}


def _pair(key: str, value: str) -> str:
    return f"{_key_text(key)} = {_text(value)}"


def _key_text(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
