"""The values that an entity file may have: names, types, expressions and patterns, checked as they are read."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, StringConstraints

from worker.entities.names import MAX_NAME, column_name, column_type, expression, table_name
from worker.entities.worker_tables import Table

ColumnName = Annotated[str, AfterValidator(column_name)]
Expression = Annotated[str, StringConstraints(min_length=1), AfterValidator(expression)]


LONGEST_TABLE = MAX_NAME - len("_updated_at_idx")
"""Bytes of a table's name: its indexes are named after it."""


def _table(value: object) -> Table:
    if not isinstance(value, str):
        raise ValueError("is text, in quotes: a schema and a name, such as marketing.company_invalid")  # noqa: TRY004
    table = table_name(value)
    if len(table.name.encode()) > LONGEST_TABLE:
        raise ValueError(
            f"{table} has a name of more than {LONGEST_TABLE} bytes, and its indexes longer ones: shorten it"
        )
    return table


TableName = Annotated[Table, PlainValidator(_table)]


ColumnType = Annotated[str, AfterValidator(column_type)]


def _posix(pattern: str) -> str:
    if "\0" in pattern or not pattern:
        raise ValueError("is no regular expression of PostgreSQL's")
    return pattern


PosixPattern = Annotated[str, AfterValidator(_posix)]
PosixPatterns = Annotated[tuple[PosixPattern, ...], Field(strict=False)]
