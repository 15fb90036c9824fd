"""Statements in files: ``queries/NAME.sql`` in a package, one in each file. The first comment says what the statement
returns; its placeholders are those of :mod:`psycopg.sql`.
"""

from __future__ import annotations

from importlib.resources import files

from psycopg import sql


def load(package: str, name: str) -> str:
    """The text of a statement, without its first comment.

    Args:
        package: such as ``worker.neon``.
        name: of the file, without ``.sql``.
    """
    lines = files(package).joinpath("queries", f"{name}.sql").read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "".join(lines[first:])


def statement(package: str, name: str) -> sql.SQL:
    """A statement with placeholders to fill: see :func:`load`."""
    return sql.SQL(load(package, name))
