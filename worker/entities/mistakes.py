"""The mistakes of an entity file, each with its file, line and what would be right."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from worker.domain.vocabulary import KINDS, name_of
from worker.entities.file_format import EntityFile, Key, Mapped, Master, Role, Slot, Tables, Wait

MAX_BYTES = 1_000_000
"""No entity file is longer."""
Place = tuple[str | int, ...]
"""Keys and indexes that lead to a value of the file."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in a file."""

    file: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


class EntityFileError(Exception):
    """Entity files with mistakes: one line for each."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        """Create the error."""
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a file: where in it something stands."""

    path: Path
    text: str = field(repr=False)

    def mistake(self, place: Place, text: str) -> Mistake:
        """A mistake at a place."""
        return Mistake(str(self.path), self.line_of(place), text)

    def line_of(self, place: Place) -> int | None:
        """The line where a value begins; that of what it stands in, if that is all there is.

        `tomllib` tells no lines. A value begins in the line after the longest part of the file without it that can be
        read.
        """
        while place and not _holds(self._read_lines(None), place):
            place = place[:-1]
        if not place:
            return None
        lines = self.text.splitlines(keepends=True)
        low, high = 0, len(lines)
        while high - low > 1:
            middle = (low + high) // 2
            at = next((n for n in (*range(middle, low, -1), *range(middle + 1, high)) if self._read_lines(n)), None)
            if at is None:
                break
            if _holds(self._read_lines(at), place):
                high = at
            else:
                low = at
        return low + 1

    def _read_lines(self, count: int | None) -> dict[str, Any] | None:
        try:
            # An empty file is read, and has no key: something else than None stands for it.
            return {"": None} | tomllib.loads("".join(self.text.splitlines(keepends=True)[:count]))
        except (tomllib.TOMLDecodeError, RecursionError):
            return None


def _holds(data: Any, place: Place) -> bool:
    for step in place:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def read(path: Path) -> tuple[Source | None, EntityFile | None, list[Mistake]]:
    """Read one file: its text, what it says, and its mistakes."""
    name = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            return None, None, [Mistake(name, None, f"has more than {MAX_BYTES:,} bytes: is it an entity file?")]
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        return None, None, [Mistake(name, line, "is not UTF-8: save the file in that encoding")]
    except OSError as error:
        return None, None, [Mistake(name, None, f"cannot be read ({error.strerror})")]
    source = Source(path, text.replace("\r\n", "\n"))
    try:
        data = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        return source, None, [_syntax(source, error)]
    except RecursionError:
        return source, None, [Mistake(name, None, "is nested too deeply: is it an entity file?")]
    try:
        file = EntityFile.model_validate(data)
    except ValidationError as refused:
        return source, None, list(_in_words(source, data, refused))
    return source, file, [source.mistake(place, text) for place, text in file.mistakes()]


def _syntax(source: Source, error: tomllib.TOMLDecodeError) -> Mistake:
    said = str(error)
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", said)
    line = int(found[1]) if found and found[1] else len(source.text.splitlines()) or 1
    words = said[: found.start()] if found else said
    return Mistake(str(source.path), line, f"is no TOML here: {words[:1].lower()}{words[1:]}")


def _in_words(source: Source, data: Mapping[str, Any], refused: ValidationError) -> Iterator[Mistake]:
    for error in refused.errors(include_url=False):
        place: Place = tuple(step for step in error["loc"] if step != "[key]")
        context = error.get("ctx") or {}
        # A rule's place has its kind in it, which is no key of the file.
        if place[:1] == ("rules",) and len(place) > 2:
            place = (*place[:2], *place[3:])
        if error["type"] == "mistake":
            place = (*place, *context["at"])
        yield source.mistake(place, _words(data, place, error, context))


_WORDS: Mapping[str, str] = {
    "missing": "{name} is missing",
    "union_tag_not_found": '{name}: a rule says of which kind it is, such as rule = "required"',
    "string_type": "{name} is text, in quotes",
    "int_type": "{name} is a whole number",
    "int_from_float": "{name} is a whole number",
    "float_type": "{name} is a number",
    "bool_type": "{name} is true or false",
    "tuple_type": "{name} is a list, in square brackets",
    "dict_type": "{name} is a table of keys and values",
    "model_type": "{name} is a table of keys and values",
    "model_attributes_type": "{name} is a table of keys and values",
    "literal_error": "{name} is {expected}",
    "too_short": "{name} is empty",
    "string_too_short": "{name} is empty",
    "string_too_long": "{name} is longer than {max_length} characters",
    "string_pattern_mismatch": "{name}: {value} is no reason code: capitals, digits and underscores, at most 40",
    "greater_than_equal": "{name} is {ge} or more",
    "mistake": "{name}: {text}",
    "value_error": "{name}: {error}",
}
"""Pydantic's type of error → what is said of it."""


def _words(data: Mapping[str, Any], place: Place, error: Any, context: Mapping[str, Any]) -> str:
    name = ".".join(str(step) for step in place if not isinstance(step, int)) or "the file"
    value = _value(data, place)
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such key{_near(str(place[-1]), _keys_at(data, place[:-1]))}"
    if error["type"] == "union_tag_invalid":
        kind = str(value.get("rule")) if isinstance(value, dict) else str(value)
        return f"{kind[:60]} is no kind of rule{_near(kind, [name_of(one) for one in KINDS])}"
    said: str = _WORDS.get(error["type"], "{name}: {said}")
    words = {key: str(one) for key, one in context.items()}
    return said.format_map({**words, "name": name, "value": repr(value)[:60], "said": str(error["msg"])})


def _value(data: Any, place: Place) -> Any:
    for step in place:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _near(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, 1)
    return f"; did you mean {near[0]}?" if near else f"; there is {', '.join(words)}" if words else ""


def _keys_at(data: Mapping[str, Any], place: Place) -> list[str]:
    model: type[BaseModel] | None = None
    match place:
        case ():
            model = EntityFile
        case ("tables",):
            model = Tables
        case ("key",):
            model = Key
        case ("master",):
            model = Master
        case ("master", "mapping", _):
            model = Mapped
        case ("slot",):
            model = Slot
        case ("slot", "roles", int()):
            model = Role
        case ("waits", int()):
            model = Wait
        case ("rules", int()):
            kind = (_value(data, place) or {}).get("rule")
            model = next((one for one in KINDS if name_of(one) == kind), None)
    return list(model.model_fields) if model else []
