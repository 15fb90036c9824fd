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
from worker.entities.file_format import Alike, Duplicates, EntityFile, Key, Mapped, Master, Role, Slot, Tables, Wait
from worker.entities.lines import Place, lines_of

MAX_BYTES = 1_000_000
"""No entity file is longer."""
MAX_TEXT = 1000
"""Characters that are said of one mistake."""


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
        return Mistake(str(self.path), self.line_of(place), _in_one_line(text))

    def line_of(self, place: Place) -> int:
        """The line where a value begins; that of what it stands in, if that is all there is."""
        lines = lines_of(self.text)
        while place not in lines:
            place = place[:-1]
        return lines[place]


def _in_one_line(text: str) -> str:
    """A text that may quote the file, safe for a terminal and a log."""
    text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def read(path: Path) -> tuple[Source | None, EntityFile | None, list[Mistake]]:
    """Read one file: its text, what it says, and its mistakes."""
    text = _text_of(path)
    if isinstance(text, Mistake):
        return None, None, [text]
    source = Source(path, text)
    data = _data_of(source)
    if isinstance(data, Mistake):
        return source, None, [data]
    try:
        file = EntityFile.model_validate(data)
    except ValidationError as refused:
        return source, None, list(_in_words(source, data, refused))
    return source, file, [source.mistake(place, text) for place, text in file.mistakes()]


def _text_of(path: Path) -> str | Mistake:
    name = str(path)
    try:
        if path.exists() and not path.is_file():  # nobody may ever write into a pipe that is read here
            return Mistake(name, None, "is no file: an entity is one text file")
        if path.stat().st_size > MAX_BYTES:
            return Mistake(name, None, f"has more than {MAX_BYTES:,} bytes: is it an entity file?")
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Mistake(name, line, "is not UTF-8: save the file in that encoding")
    except OSError as error:
        return Mistake(name, None, f"cannot be read ({error.strerror})")


def _data_of(source: Source) -> dict[str, Any] | Mistake:
    name = str(source.path)
    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        return _syntax(source, error)
    except ValueError:  # Python reads no longer ones
        digits = re.search(r"[0-9_]{4000,}", source.text)
        line = source.text[: digits.start()].count("\n") + 1 if digits else None
        return Mistake(name, line, "has a number of thousands of digits")
    except RecursionError:
        return Mistake(name, None, "is nested too deeply: is it an entity file?")


def _syntax(source: Source, error: tomllib.TOMLDecodeError) -> Mistake:
    said = str(error)
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", said)
    line = int(found[1]) if found and found[1] else len(source.text.rstrip("\n").split("\n"))
    words = _in_one_line(said[: found.start()] if found else said)
    if words == "Cannot overwrite a value":
        words = "A key is there twice: leave out one of them"
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
        elif error["type"] == "union_tag_invalid":
            place = (*place, "rule")
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
    "less_than_equal": "{name} is {le} or less",
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
        return f"{name}: {str(value)[:60]} is no kind of rule{_near(str(value), [name_of(one) for one in KINDS])}"
    said: str = _WORDS.get(error["type"], "{name}: {said}")
    words = {key: str(one) for key, one in context.items()}
    return said.format_map(
        {**words, "name": name, "value": repr(value)[:60] if isinstance(value, str) else "", "said": str(error["msg"])}
    )


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
        case ("duplicates",):
            model = Duplicates
        case ("duplicates", "by", int()):
            model = Alike
        case ("rules", int()):
            kind = (_value(data, place) or {}).get("rule")
            model = next((one for one in KINDS if name_of(one) == kind), None)
    return list(model.model_fields) if model else []
