"""Where in a TOML text each value stands, which `tomllib` does not tell. Pure."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

Place = tuple[str | int, ...]
"""Keys and indexes that lead to a value of the file."""

MAX_DEPTH = 20
"""Dotted keys go no deeper than this in what an entity file may say."""

_SKIPPED = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRINGS = (r'"""(?:\\.|[^\\])*?"{3,5}', r"'''.*?'{3,5}", r'"(?:\\.|[^"\\\n])*"', r"'[^'\n]*'")
_STRING = re.compile("|".join(_STRINGS), re.DOTALL)
_OTHER = re.compile(r"[^,\]}#\n]+")


@lru_cache(maxsize=8)
def lines_of(text: str) -> Mapping[Place, int]:
    """The line of each table, key and element of a text that `tomllib` has read; its line breaks are LF."""
    return MappingProxyType(_Reader(text).read())


class _Reader:
    """Goes through a text once. As the text is known to be right, it looks for no mistakes."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._ends = [found.start() for found in re.finditer("\n", text)]
        self._lines: dict[Place, int] = {(): 1}
        self._elements: dict[Place, int] = {}
        """Array of tables → how many elements it has so far."""

    def read(self) -> dict[Place, int]:
        table: Place = ()
        while self._next():
            line = self._line()
            if self._took("[["):
                table = self._header(line, of_array=True)
            elif self._took("["):
                table = self._header(line, of_array=False)
            else:
                self._pair(table)
        return self._lines

    def _header(self, line: int, *, of_array: bool) -> Place:
        *above, last = self._key()
        self._next()
        self._took("]]" if of_array else "]")
        place: Place = ()
        for step in above:
            place = self._latest((*place, step))
            self._lines.setdefault(place, line)
        place = (*place, last)
        if not of_array:
            self._lines[place] = line
            return place
        self._lines.setdefault(place, line)
        self._elements[place] = self._elements.get(place, 0) + 1
        place = self._latest(place)
        self._lines[place] = line
        return place

    def _latest(self, place: Place) -> Place:
        return (*place, self._elements[place] - 1) if place in self._elements else place

    def _pair(self, table: Place) -> None:
        line, place = self._line(), table
        for step in self._key():
            place = (*place, step)
            self._lines.setdefault(place, line)
        self._next()
        self._took("=")
        self._next()
        self._value(place)

    def _key(self) -> list[str]:
        steps = []
        while True:
            self._next()
            if bare := _BARE.match(self._text, self._at):
                steps.append(bare[0])
                self._at = bare.end()
            else:
                start = self._at
                self._string()
                steps.append(next(iter(tomllib.loads(f"{self._text[start : self._at]} = 0"))))
            self._next()
            if not self._took("."):
                return steps[:MAX_DEPTH]

    def _value(self, place: Place) -> None:
        if self._took("["):
            number = 0
            while self._next() != "]":
                self._lines[*place, number] = self._line()
                self._value((*place, number))
                number += 1
                self._next()
                self._took(",")
            self._took("]")
        elif self._took("{"):
            while self._next() != "}":
                self._pair(place)
                self._next()
                self._took(",")
            self._took("}")
        elif self._text[self._at] in "\"'":
            self._string()
        else:
            self._past(_OTHER)

    def _string(self) -> None:
        self._past(_STRING)

    def _next(self) -> str:
        """Go past blanks, line breaks and comments; the character that follows, empty at the end."""
        self._past(_SKIPPED)
        return self._text[self._at : self._at + 1]

    def _took(self, token: str) -> bool:
        """Go past a token, if it is the next."""
        if found := self._text.startswith(token, self._at):
            self._at += len(token)
        return found

    def _past(self, pattern: re.Pattern[str]) -> None:
        if found := pattern.match(self._text, self._at):
            self._at = found.end()

    def _line(self) -> int:
        return bisect_left(self._ends, self._at) + 1
