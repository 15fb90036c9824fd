"""How values are read and written in both databases: JSON, and every possible date."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import orjson
import psycopg
import pydantic_core
from psycopg.abc import Buffer
from psycopg.abc import Loader as AnyLoader
from psycopg.adapt import Loader
from psycopg.types.json import set_json_dumps, set_json_loads

from worker.domain.model import utc
from worker.postgres.pipeline import Connection


def adapt(connection: Connection) -> None:
    """Read JSON with pydantic and write it with orjson, the fastest at each. Read every date."""
    set_json_loads(_loads, connection)
    set_json_dumps(_dumps, connection)
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


def _loads(text: str | bytes) -> Any:
    try:
        return pydantic_core.from_json(text)
    except ValueError:  # it reads 200 levels, Postgres thousands: what could not be written again is not read
        try:
            value = nested = json.loads(text)
            for _ in range(_DEEPER):
                nested = [nested]
            json.dumps(nested)
        except RecursionError:
            return TOO_DEEP
        return value


def _dumps(value: Any) -> str | bytes:
    try:
        return orjson.dumps(value)  # takes a sixth of pydantic's time
    except TypeError:  # nested too deeply, an integer of more than 64 bits, or not UTF-8
        return json.dumps(value, default=_isoformat)


def _isoformat(value: Any) -> str:
    """Values without a JSON form that the worker writes: times."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
