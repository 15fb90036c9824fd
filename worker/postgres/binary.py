"""Texts in PostgreSQL's binary formats, carried from one server to another without a look at them: COPY's, in which a
field has no escapes (https://www.postgresql.org/docs/current/sql-copy.html), and that of an array of texts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Self

from psycopg.adapt import Dumper
from psycopg.pq import Format

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_TRAILER = b"\xff\xff"
_LENGTH = struct.Struct("!i")
_ONE_DIMENSION, _NO_NULLS, _TEXT, _TEXT_ARRAY, _FROM_ONE = 1, 0, 25, 1009, 1
_HEAD = struct.Struct("!5i")


class Texts:
    """A parameter: an array of texts, none of them NULL."""

    __slots__ = ("data",)

    def __init__(self, fields: Iterable[bytes]) -> None:
        """Put fields together, as :func:`fields_of` cuts them."""
        elements = list(fields)
        self.data = _HEAD.pack(_ONE_DIMENSION, _NO_NULLS, _TEXT, len(elements), _FROM_ONE) + b"".join(elements)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The array of these texts: psycopg would look at each of them for its type."""
        pack = _LENGTH.pack
        return cls([pack(len(data)) + data for data in map(str.encode, texts)])


class TextsDumper(Dumper):
    """Sends :class:`Texts` as they are."""

    format = Format.BINARY
    oid = _TEXT_ARRAY

    def dump(self, obj: Texts) -> bytes:
        """The array in binary format."""
        return obj.data


def row_of(message: bytes) -> bytes:
    """The row in a message of COPY in binary format; empty if it has none, but the header or the trailer."""
    if message.startswith(_SIGNATURE):
        begins = len(_SIGNATURE) + 4  # flags
        message = message[begins + 4 + _LENGTH.unpack_from(message, begins)[0] :]
    return b"" if message == _TRAILER else message


def fields_of(row: bytes) -> list[bytes]:
    """The fields of a row, none of them NULL, each with its length before it, as an array in binary format has them."""
    fields, at = [], 2  # after the number of fields
    while at < len(row):
        end = at + 4 + _LENGTH.unpack_from(row, at)[0]
        fields.append(row[at:end])
        at = end
    return fields


def text_of(field: bytes) -> str:
    """The text of a field that :func:`fields_of` has cut."""
    return field[4:].decode()
