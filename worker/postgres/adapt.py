"""How values are read and written in both databases: JSON, and every possible date."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import orjson
import psycopg
import pydantic_core
from psycopg.abc import Buffer
from psycopg.abc import Loader as AnyLoader
from psycopg.adapt import Loader
from psycopg.types.json import set_json_dumps, set_json_loads

from worker.domain.model import utc
from worker.postgres.binary import Texts, TextsDumper
from worker.postgres.pipeline import Connection


def adapt(connection: Connection, *, exact: bool = False) -> None:
    """Read JSON with pydantic and write it with orjson, the fastest at each. Read every date.

    Args:
        connection: a new one.
        exact: keep every digit of the numbers in JSON: those that a float would not hold become Decimal.
    """
    set_json_loads(_loads_exactly if exact else _loads, connection)
    set_json_dumps(_dumps, connection)
    connection.adapters.register_dumper(Texts, TextsDumper)
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, loader)


def _within_the_calendar(name: str) -> type[AnyLoader]:
    """A loader of dates in ISO style, which the worker's transactions set; psycopg would go by the session's first
    style. A date outside Python's years 1 to 9999 becomes the nearest possible one: a year typed with five digits is a
    mistake in one cell, and must not prevent reading the row. A table may have its dates with or without a time zone:
    both become UTC without one.
    """
    found = psycopg.adapters.get_loader(psycopg.adapters.types[name].oid, psycopg.pq.Format.TEXT)
    plain = cast("type[AnyLoader]", found)

    class Within(Loader):
        def load(self, data: Buffer) -> Any:
            text = bytes(data).decode()
            try:  # four times a record: a context manager would cost as much as the parsing
                moment = datetime.fromisoformat(text)
                return moment if moment.tzinfo is None else utc(moment)
            except (ValueError, OverflowError):
                pass
            with suppress(psycopg.Error, NotImplementedError, OverflowError):
                return utc(plain(self.oid, self.connection).load(data))
            return _FIRST if text.startswith("-") or text.endswith("BC") else _LAST

    return Within


_FIRST, _LAST = utc(datetime.min.replace(tzinfo=UTC)), utc(datetime.max.replace(tzinfo=UTC))
_LOADERS = {
    "timestamp": _within_the_calendar("timestamp"),
    "timestamptz": _within_the_calendar("timestamptz"),
}


TOO_DEEP = "(nested too deeply to be read)"
_DEEPER = 100
"""Levels for what surrounds a value when it is written, and for the calls, with room to spare."""


_EXACT = re.compile(rb"[0-9][0-9.]{15}|[0-9][eE][-+0-9]|[.][0-9]*0(?![0-9])")
"""Where this is found, a float may not keep every digit of a number as it is written; or it is a text."""
_NUMBER = "\0number "
"""Begins the text that stands for a number until all is written: no text in Postgres has a NUL."""
_MARKED = re.compile(r'"\\u0000number ([^"]*)"')


def _loads(text: str | bytes) -> Any:
    try:
        return pydantic_core.from_json(text)
    except ValueError:  # it reads 200 levels, Postgres thousands: what could not be written again is not read
        return _loads_deep(text)


def _loads_exactly(text: str | bytes) -> Any:
    data = text.encode() if isinstance(text, str) else bytes(text)
    return _loads_deep(data, _float_or_decimal) if _EXACT.search(data) else _loads(data)


def _loads_deep(text: str | bytes, number: Callable[[str], Any] = float) -> Any:
    try:
        value = nested = json.loads(text, parse_float=number)
        for _ in range(_DEEPER):
            nested = [nested]
        json.dumps(nested, default=_plain)
    except RecursionError:
        return TOO_DEEP
    return value


def _float_or_decimal(text: str) -> float | Decimal:
    """The number; a Decimal where a float would not keep every digit as it is written."""
    number = float(text)
    return number if repr(number) == text else Decimal(text)


def _dumps(value: Any) -> str | bytes:
    try:
        return orjson.dumps(value, default=_fragment)  # takes a sixth of pydantic's time
    except TypeError:  # nested too deeply, an integer of more than 64 bits, or not UTF-8
        return _MARKED.sub(r"\1", json.dumps(value, default=_plain))


def _fragment(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _plain(value: Any) -> str:
    """Values without a JSON form that the worker writes: times, and numbers of more digits than a float has."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{_NUMBER}{value}"
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
