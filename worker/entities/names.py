"""Names and types as an entity file may write them. Pure.

Every name is quoted where SQL is made of it; what is refused here is more likely a mistake than a name.
"""

from __future__ import annotations

import difflib
import re

from worker.entities.worker_tables import Table

MAX_NAME = 63
"""Bytes of a name in Postgres."""
_NAME = re.compile(r"\w[\w .&/#+-]*")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_PART = r'(?:"(?:[^"]|"")+"|[^".]+)'
_TABLE = re.compile(rf"({_PART})\.({_PART})")

TYPES = (
    "TEXT", "VARCHAR", "CHARACTER VARYING", "SMALLINT", "INTEGER", "BIGINT", "NUMERIC", "REAL", "DOUBLE PRECISION",
    "BOOLEAN", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITHOUT TIME ZONE",
    "TIME WITH TIME ZONE", "TIME WITHOUT TIME ZONE",
    "INTERVAL", "UUID", "JSON", "JSONB", "CITEXT", "INET", "CHAR", "CHARACTER", "DECIMAL", "INT", "BOOL",
)  # fmt: skip
KEY_TYPES = ("TEXT", "SMALLINT", "INTEGER", "BIGINT")
_TYPE = re.compile(
    r"(?P<name>[^()\[\]]+?)\s*(?:\(\s*\d+\s*(?:,\s*\d+\s*)?\)(?:\s*with(?:out)?\s+time\s+zone)?)?\s*(?:\[\])*",
    re.IGNORECASE,
)
_WITH_LENGTH = (
    "VARCHAR",
    "CHARACTER VARYING",
    "NUMERIC",
    "DECIMAL",
    "CHAR",
    "CHARACTER",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "INTERVAL",
)
_OWN_TYPE = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_OTHER_QUOTE = re.compile(r"\$\w*\$|(?<!\w)E'", re.IGNORECASE)
"""Where a text in SQL ends otherwise than at its next quote."""
_SAME_TYPES = {"INT": "INTEGER", "BOOL": "BOOLEAN", "DECIMAL": "NUMERIC", "CHARACTER VARYING": "VARCHAR"}


def column_name(name: str) -> str:
    """Check a column's name.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(name) or name != name.strip():
        raise ValueError(f"{name[:80]!r} is no name of a column: use letters, digits and underscores")
    if len(name.encode()) > MAX_NAME:
        raise ValueError(f"{name[:80]!r} is longer than the {MAX_NAME} bytes of a name in Postgres")
    return name


def table_name(text: str) -> Table:
    """Read the name of a table as SQL writes it: ``marketing.company_invalid``, ``"Marketing Data"."Firms"``.

    Raises:
        ValueError: it is none.
    """
    found = _TABLE.fullmatch(text)
    if not found:
        raise ValueError(f"{text[:80]!r} is no table: write its schema and its name, such as marketing.company_invalid")
    schema, name = (_unquoted(part) for part in found.groups())
    return Table(schema, name)


def _unquoted(part: str) -> str:
    if part.startswith('"'):
        return column_name(part[1:-1].replace('""', '"'))
    if not _PLAIN.fullmatch(part):
        raise ValueError(
            f"{part[:80]!r} is no name without quotes: lower-case letters, digits and underscores; in SQL's quotes it"
            f""" would be '"schema"."{part[:40]}"'"""
        )
    return column_name(part)


def column_type(text: str) -> str:
    """Check the SQL type of a column; return it in capitals, with one name for each type.

    Raises:
        ValueError: it is none.
    """
    found = _TYPE.fullmatch(text.strip())
    if found and text.strip().endswith("]") and found["name"].strip().upper() in ("NUMERIC", "DECIMAL"):
        raise ValueError(f"{text[:80]!r} would lose digits on its way: carry it as TEXT[], or as columns of NUMERIC")
    name = " ".join(found["name"].upper().split()) if found else ""
    if found and name in TYPES and ("(" not in text or name in _WITH_LENGTH):
        return _SAME_TYPES.get(name, name) + re.sub(r"\s+", " ", text.strip()[found.end("name") :].strip()).upper()
    if _OWN_TYPE.fullmatch(text):
        return text
    near = difflib.get_close_matches(name, TYPES, 1)
    hint = f"did you mean {near[0]}?" if near else "it is one such as TEXT, INTEGER, NUMERIC(12, 2), BOOLEAN, DATE."
    raise ValueError(f"{text[:80]!r} is no type; {hint} A type of your own is written with its schema: public.mood")


def plain_type(type_: str) -> str:
    """A type without its length: ``NUMERIC`` for ``NUMERIC(8, 2)``; an array keeps its brackets."""
    return re.sub(r"\s*\([\d\s,]*\)", "", type_)


def expression(text: str) -> str:
    """Check that a text may be one expression or definition in SQL: its quotes and parentheses are closed, and no
    statement and no comment begins in it. Whether Postgres takes it is for Postgres to say.

    Raises:
        ValueError: it is not.
    """
    depth, quote = 0, ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                break
        elif character == ";" or text.startswith(("--", "/*"), at) or _OTHER_QUOTE.match(text, at):
            raise ValueError(
                "is no single expression in SQL: a statement, a comment, a dollar quote or an E'…' begins in it"
            )
    if quote or depth:
        raise ValueError("is no expression in SQL: a quote or a parenthesis is not closed")
    if not text.strip() or "\0" in text:
        raise ValueError("is empty: enter an expression in SQL")
    return text


def in_sql(column: str) -> str:
    """A column's name as SQL writes it behind a table's alias; quoted only where it must be."""
    return column if _PLAIN.fullmatch(column) else '"' + column.replace('"', '""') + '"'


def fields_in(expression: str) -> list[str]:
    """The columns of ``r``, the record, that an expression speaks of, in order."""
    found = re.findall(r"""\br\.(?:(\w+)|"((?:[^"]|"")+)")""", expression)
    return [plain or quoted.replace('""', '"') for plain, quoted in found]


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
