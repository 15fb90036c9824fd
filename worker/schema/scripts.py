"""The SQL that `setup` runs: the files of ``sql/``, with the templates filled in for each entity."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from psycopg import sql

from worker.entities.declaration import Entity, key_sql
from worker.schema.shape import NEON, SUPABASE

# In a wheel the SQL is in the package, in a checkout next to it.
_HERE = Path(__file__).parents[1]
SQL_FOLDER = next((folder for folder in (_HERE / "sql", _HERE.parent / "sql") if folder.is_dir()), _HERE / "sql")

_FOLDERS = {NEON: ("both", "neon"), SUPABASE: ("both", "supabase", "triggers")}

# A part of a file that is a template, with the word that joins the entities' copies.
_EACH = re.compile(
    r"^ *-- each entity, joined by (?P<word>.+)\n(?P<part>(?:.*\n)*?) *-- end of each entity\n", re.MULTILINE
)

MAX_NAME = 63
"""Bytes of a name; Postgres cuts off the rest, and a script that looks for the full name never finds it."""


@dataclass(frozen=True, slots=True)
class Script:
    """One file's SQL; for one entity if the file is a template."""

    name: str
    """The file, and the entity."""
    text: str
    entity: Entity | None = None


def scripts(database: str, entities: Iterable[Entity]) -> list[Script]:
    """The scripts that set up ``Neon`` or ``Supabase`` for these entities, in the order in which they run.

    Raises:
        ValueError: a name would be too long for Postgres.
    """
    named = list(entities)
    return [
        script
        for folder in _FOLDERS[database]
        for path in sorted((SQL_FOLDER / folder).glob("*.sql"))
        for script in _filled(path, named)
    ]


def _filled(path: Path, entities: list[Entity]) -> Iterator[Script]:
    name, text = f"{path.parent.name}/{path.name}", path.read_text(encoding="utf-8")
    if path.stem == "entity":
        for entity in entities:
            yield Script(f"{name} for {entity.name}", fill(text, entity), entity)
    else:
        yield Script(name, _EACH.sub(lambda found: _joined(found["word"], found["part"], entities), text))


def _joined(word: str, part: str, entities: list[Entity]) -> str:
    indent = " " * (len(part) - len(part.lstrip(" ")))
    return f"{indent}{word}\n".join(fill(part, entity) for entity in entities)


def fill(template: str, entity: Entity) -> str:
    """Fill in a template. Its placeholders are psycopg's, ``{name}``; the head of each file lists them.

    Raises:
        KeyError: there is no such placeholder.
        ValueError: a name would be too long for Postgres.
    """
    values = _values(entity)
    for _, name, _, _ in Formatter().parse(template):
        if name and name not in values:
            values[name] = _name_of(entity, name)
    return sql.SQL(template).format(**values).as_string()


def _values(entity: Entity) -> dict[str, sql.Composable]:
    return {
        "name": sql.Literal(entity.name),
        "invalid": entity.invalid_table.sql,
        "invalid_literal": sql.Literal(entity.invalid_table.sql.as_string()),
        "master_literal": sql.Literal(entity.master_table.sql.as_string()),
        "reads": sql.Literal([table.sql.as_string() for table in entity.reads]),
        "key_type": sql.SQL(entity.key_type),
        "invalid_schema_literal": sql.Literal(entity.invalid_table.schema),
        "master": entity.master_table.sql,
        "master_schema_literal": sql.Literal(entity.master_table.schema),
        "workspace": entity.workspace_table.sql,
        "workspace_schema_literal": sql.Literal(entity.workspace_table.schema),
        "workspace_literal": sql.Literal(entity.workspace_table.sql.as_string()),
        "repairs": entity.repairs_table.sql,
        "repairs_literal": sql.Literal(entity.repairs_table.sql.as_string()),
        "status_idx_literal": sql.Literal(_short(f"idx_{entity.name}_enrichment_status")),
        "sync_status_idx_literal": sql.Literal(_short(f"idx_{entity.name}_sync_status")),
        **key_sql(entity),
        "key_literal": sql.Literal(entity.key),
        "label": sql.Identifier(entity.label),
        "columns": _definitions(entity.column_types),
        "column_types": sql.Literal(json.dumps(dict(entity.column_types), ensure_ascii=False)),
        "column_literals": sql.SQL(", ").join(map(sql.Literal, entity.columns)),
        "master_columns": _definitions(entity.master_columns),
        "alike": sql.SQL("\n").join(_alike(entity)),
        "raw_table": sql.Literal(str(entity.raw_table) if entity.raw_table else None),
    }


_MAKE_INDEX = sql.SQL("SELECT pg_temp.enrichment_index({table}, {name}, {definition});")


def _alike(entity: Entity) -> Iterator[sql.Composable]:
    """The statements that make the indexes by which duplicates are found."""
    table = entity.master_table
    for one in entity.alike:
        yield _MAKE_INDEX.format(
            table=sql.Literal(table.sql.as_string()),
            name=sql.Literal(one.index(table.name)),
            definition=sql.Literal(f"({one.indexed('')})"),
        )


def _definitions(columns: Mapping[str, str]) -> sql.Composed:
    """Column definitions as CREATE TABLE takes them."""
    lines = (sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(how)) for name, how in columns.items())
    return sql.SQL(",\n  ").join(lines)


def _name_of(entity: Entity, placeholder: str) -> sql.Composable:
    """The name of a table's index or constraint, made of the table's name."""
    before, dot, suffix = placeholder.partition(".")
    tables = {"invalid.": entity.invalid_table, "workspace.": entity.workspace_table}
    name = _short(f"{tables[before.removesuffix('_literal') + dot].name}_{suffix}")
    return sql.Literal(name) if before.endswith("_literal") else sql.Identifier(name)


def _short(name: str) -> str:
    if len(name.encode()) > MAX_NAME:
        raise ValueError(f"{name} is longer than the {MAX_NAME} bytes of a name in Postgres: shorten the table's name")
    return name
