"""How values are read and written, whatever the database: JSON and every date there is."""

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
    """Read JSON by pydantic, write it by orjson: each is the fastest at that. Read every date."""
    set_json_loads(_loads, connection)
    set_json_dumps(_dumps, connection)
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, loader)


def _within_the_calendar(name: str) -> type[AnyLoader]:
    """A loader of dates as the worker's transactions write them, ISO, whatever style the session had before: that is
    not what psycopg goes by. What lies outside of Python's years 1 to 9999 is shown as its nearest moment: a year typed
    with five digits is one cell's slip, and no reason to read no row. A table may have its dates with or without a time
    zone: both are told as UTC without one.
    """
    found = psycopg.adapters.get_loader(psycopg.adapters.types[name].oid, psycopg.pq.Format.TEXT)
    plain = cast("type[AnyLoader]", found)

    class Within(Loader):
        def load(self, data: Buffer) -> Any:
            text = bytes(data).decode()
            try:  # four times a record: a context manager here would cost as much as the reading
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
"""What a value is written inside of, and what calls it, with room to spare."""


def _loads(text: str | bytes) -> Any:
    try:
        return pydantic_core.from_json(text)
    except ValueError:  # it goes 200 deep, Postgres some thousand: what nobody could write again is not read either
        try:
            value = nest = json.loads(text)
            for _ in range(_DEEPER):
                nest = [nest]
            json.dumps(nest)
        except RecursionError:
            return TOO_DEEP
        return value


def _dumps(value: Any) -> str | bytes:
    try:
        return orjson.dumps(value)  # in a sixth of the time that pydantic takes
    except TypeError:  # nested too deeply for it, a whole number of more than 64 bits, or no UTF-8
        return json.dumps(value, default=_isoformat)


def _isoformat(value: Any) -> str:
    """What JSON has no form for, and the worker writes: moments."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
