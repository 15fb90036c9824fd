"""Whether the worker's indexes are there and valid, and the statements that build them while others write.

On a large table `setup` builds none in its transaction, as CREATE INDEX stops all who write it: it builds those
afterwards, while others write. Those of a master its owner builds, when it suits.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from worker.domain.findings import Finding, ok, problem, warning
from worker.entities.declaration import Entity
from worker.postgres.connection import Connection
from worker.schema import fixes
from worker.schema.scripts import scripts
from worker.schema.shape import NEON

# What the files say of an index: the table, its name and its definition, as literals of SQL.
_INDEX = re.compile(
    r"^SELECT pg_temp\.enrichment_(?P<unique>unique_)?index\((?P<says>.+?)\);$", re.MULTILINE | re.DOTALL
)

_LOOK = """SELECT w.nr, w.relation AS table, quote_ident(w.name) AS name, w.definition, t.relkind = 'p' AS parted,
  format('%I.%I', n.nspname, w.name) AS full_name, c.oid IS NOT NULL AS taken, x.indisvalid AS valid
FROM (VALUES {says}) w (nr, relation, name, definition)
  JOIN pg_namespace n ON n.nspname = (parse_ident(w.relation))[1]
  JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = (parse_ident(w.relation))[2] AND t.relkind IN ('r', 'p')
  LEFT JOIN pg_class c ON c.relnamespace = t.relnamespace AND c.relname = w.name
  LEFT JOIN pg_index x ON x.indexrelid = c.oid AND x.indrelid = t.oid
ORDER BY w.nr"""


class Said(NamedTuple):
    """An index, as ``sql/`` says it."""

    entity: Entity | None
    unique: bool
    says: str
    """The arguments of the function that makes it."""


def said(database: str, entities: Iterable[Entity]) -> list[Said]:
    """The indexes that `setup` makes in a database."""
    return [
        Said(script.entity, found["unique"] is not None, found["says"])
        for script in scripts(database, entities)
        for found in _INDEX.finditer(script.text)
    ]


async def look(connection: Connection, database: str, entities: Iterable[Entity]) -> list[Finding]:
    """One finding for each group of tables, those that do not exist left out.

    Raises:
        psycopg.Error: the query failed.
    """
    groups: dict[str, list[tuple[Said, dict[str, Any]]]] = {}
    for one, row in await _compare(connection, database, entities):
        groups.setdefault(_subject(database, one.entity, row["table"]), []).append((one, row))
    return [_finding(subject, group) for subject, group in groups.items()]


async def build(connection: Connection, database: str, entities: Iterable[Entity]) -> AsyncIterator[str]:
    """Build what is missing while others write: the indexes of tables that `setup` did not lock for it. Those that find
    duplicates are left to the master's owner.

    Args:
        connection: in autocommit.
        database: ``Neon`` or ``Supabase``.
        entities: all.

    Yields:
        The statement of each index, before it is built.

    Raises:
        psycopg.Error: one could not be built; it may be there, and not valid.
    """
    for one, row in await _compare(connection, database, entities):
        of_master = one.entity is not None and row["table"] == one.entity.master_table.sql.as_string()
        if not (row["taken"] or row["parted"] or of_master):
            statement = _fix(one, row)
            yield statement
            await connection.execute(statement.encode())


async def _compare(
    connection: Connection, database: str, entities: Iterable[Entity]
) -> list[tuple[Said, dict[str, Any]]]:
    wanted = said(database, entities)
    says = ", ".join(f"({nr}, {one.says})" for nr, one in enumerate(wanted))
    # Not a template: an index's expression may have braces of its own.
    cursor = await connection.execute(_LOOK.replace("{says}", says).encode())
    return [(wanted[row["nr"]], row) for row in await cursor.fetchall()]


def _subject(database: str, entity: Entity | None, table: str) -> str:
    if entity is None:
        return f"{database} indexes"
    if database != NEON:
        return f"{entity.name}: workspace indexes"
    return f"{entity.name}: {'duplicates' if table == entity.master_table.sql.as_string() else 'invalid indexes'}"


def _finding(subject: str, group: Sequence[tuple[Said, dict[str, Any]]]) -> Finding:
    lacking = [(one, row) for one, row in group if not row["valid"]]
    tables = ", ".join(dict.fromkeys(_plain(row["table"]) for _, row in lacking or group))
    if not lacking:
        by = (
            "the indexes by which they are found"
            if subject.endswith(": duplicates")
            else "every index, and they are valid"
        )
        return ok(subject, f"{tables} {'have' if ',' in tables else 'has'} {by}")
    names = ", ".join(row["name"] for _, row in lacking)
    hint = f"as the table's owner, when it suits: {'; '.join(_fix(one, row) for one, row in lacking)}"
    if any(one.unique for one, _ in lacking):
        return problem(subject, f"{tables} has no valid index {names}: nothing can be delivered", hint)
    what = "each batch" if subject.endswith(": duplicates") else "what looks for a few rows"
    return warning(subject, f"{tables} has no valid index {names}: {what} reads the whole table", hint)


def _plain(table: str) -> str:
    """A table's name as other findings have it."""
    parts = re.findall(r'"(?:[^"]|"")*"|[^".]+', table)
    return ".".join(part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts)


def _fix(one: Said, row: dict[str, Any]) -> str:
    """What makes an index valid. One that was cancelled, or failed, or still is being built, is there and not valid."""
    if row["valid"] is not None:
        return f"REINDEX INDEX CONCURRENTLY {row['full_name']}"
    if row["parted"]:  # there Postgres knows no CONCURRENTLY
        return fixes.SETUP
    unique = "UNIQUE " if one.unique else ""
    create = f"CREATE {unique}INDEX CONCURRENTLY {row['name']} ON {row['table']} {' '.join(row['definition'].split())}"
    return f"rename {row['full_name']}, which is another, and {create}" if row["taken"] else create
