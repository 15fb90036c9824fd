"""Statements that lie in files of their own: ``queries/NAME.sql`` in a package, one a file. Its first comment says
what it gives, and its placeholders are those of :mod:`psycopg.sql`.
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
    """A statement, to be composed: see :func:`load`."""
    return sql.SQL(load(package, name))
