"""Entity files: what may be wrong in one, and that each mistake is told with its line and what would be right. SPEC 12."""

from __future__ import annotations

import json
import os
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from declared import ENTITIES
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.entities import mistakes as mistakes_module
from worker.entities.declaration import Entity
from worker.entities.folder import FOLDER, NoEntityFiles
from worker.entities.loader import entities_of, load_entities, read_file, together
from worker.entities.mistakes import EntityFileError, Mistake
from worker.entities.worker_tables import LEDGER, LOG, OUTBOX, POSITION, RECEIPTS
from worker.neon.demands import Demands
from worker.neon.settlement import settlement
from worker.operate.setup import script

NAMES = ("company", "people")
TEXTS = {name: (FOLDER / f"{name}.toml").read_text() for name in NAMES}
FREE = ("columns", "master.mapping", "master.computed", "master.create")
"""The tables whose keys are names that the file makes up."""


@dataclass(frozen=True)
class Statement:
    """A key of one of the worker's files with its value, read by its lines alone."""

    file: str
    table: str
    """The header above it; empty at the top."""
    table_line: int
    line: int
    last: int
    key: str
    value: Any

    def __str__(self) -> str:
        return f"{self.file}:{self.line}-{self.table}-{self.key}"

    def replaced(self, *lines: str) -> str:
        """The file's text with other lines instead of these."""
        all_lines = TEXTS[self.file].splitlines()
        return "\n".join([*all_lines[: self.line - 1], *lines, *all_lines[self.last :]]) + "\n"

    def with_key(self, key: str) -> str:
        first, *more = TEXTS[self.file].splitlines()[self.line - 1 : self.last]
        return self.replaced(first.replace(self.key, key, 1), *more)

    def with_value(self, value: str) -> str:
        return self.replaced(f"{self.key} = {value}")


@dataclass(frozen=True)
class Header:
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}-{self.text}"


def read_by_lines(file: str) -> Iterator[Statement | Header]:
    table, table_line, lines = "", 1, TEXTS[file].splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith("["):
            table, table_line = line.strip("[]"), number
            yield Header(file, number, line)
        elif line and not line.startswith("#"):
            first = number
            while line.endswith(("[", ",")) or (line.startswith("  ") and line != "]"):
                line = lines[number]
                number += 1
            key, value = next(iter(tomllib.loads("\n".join(lines[first - 1 : number])).items()))
            yield Statement(file, table, table_line, first, number, key, value)


PARTS = [part for file in NAMES for part in read_by_lines(file)]
STATEMENTS = [part for part in PARTS if isinstance(part, Statement)]
HEADERS = [part for part in PARTS if isinstance(part, Header)]
FIXED = [one for one in STATEMENTS if one.table not in FREE]
MADE_UP = [one for one in STATEMENTS if one.table in FREE]


def every(*of: Any) -> Callable[[Any], Any]:
    return pytest.mark.parametrize("at", [one for many in of for one in many], ids=str)


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., list[Mistake]]:
    """The mistakes of a file with this text."""

    def of(text: str | bytes, name: str = "company") -> list[Mistake]:
        path = tmp_path / f"{name}.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        declared, mistakes = read_file(path)
        assert (declared is None) == bool(mistakes)
        for one in mistakes:
            assert one.file == str(path)
            assert str(one).isprintable()
            assert len(one.text) <= 1100
        return mistakes

    return of


def loaded(folder: Path) -> dict[str, Entity]:
    """As `load_entities`, which remembers what it has read."""
    return load_entities.__wrapped__(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def misspelt(word: str) -> str:
    return word[:-1] + ("q" if word[-1] != "q" else "x")


def test_the_walk_has_found_every_key() -> None:
    for file in NAMES:
        found = {(one.table.split(".")[0] or one.key) for one in STATEMENTS if one.file == file}
        assert found == set(tomllib.loads(TEXTS[file]))
    assert len(STATEMENTS) > 150


@every(FIXED)
def test_a_misspelt_key_is_told_with_its_line_and_the_right_one(told, at: Statement) -> None:
    wrong = misspelt(at.key)
    mistakes = told(at.with_key(wrong), at.file)
    if at.key == "rule":  # of which kind it is says which keys it has
        assert any(one.line == at.table_line and "rule = " in one.text for one in mistakes)
        return
    assert any(one.line == at.line and wrong in one.text and f"did you mean {at.key}?" in one.text for one in mistakes)


@every(HEADERS)
def test_a_misspelt_table_is_told_with_its_line_and_the_right_one(told, at: Header) -> None:
    name = at.text.strip("[]").split(".")[-1]
    lines = TEXTS[at.file].splitlines()
    lines[at.line - 1] = at.text.replace(name, misspelt(name))
    mistakes = told("\n".join(lines), at.file)
    assert any(
        one.line == at.line
        and misspelt(name) in one.text
        # Two letters are too few to be recognised.
        and (len(name) < 3 or f"did you mean {name}?" in one.text)
        for one in mistakes
    )


LITERALS = {
    "17": int, "1.5": float, "true": bool, '["x"]': list, "{}": dict, "1979-05-27": None, "07:32:00": None, '"x"': str,
    "[17]": None,
}  # fmt: skip
ALSO = {
    "field": (list, str), "words": (list, str), "key": (dict,), "min_length": (), "length": (),
}  # fmt: skip


@every(STATEMENTS)
def test_a_value_of_another_type_is_told_with_its_line(told, at: Statement) -> None:
    fitting = (type(at.value), *ALSO.get(at.key, ()))
    wrong = [text for text, type_ in LITERALS.items() if type_ not in fitting]
    if at.table == "master.mapping":
        wrong = [text for text in wrong if text not in ('"x"', "{}")]
    assert len(wrong) >= 5
    for text in wrong:
        mistakes = told(at.with_value(text), at.file)
        assert any(one.line == at.line and at.key in one.text for one in mistakes), (text, mistakes)


REQUIRED = {
    "": {"plural", "key", "label"},
    "tables": {"invalid", "master", "workspace"},
    "rules": {"field", "rule", "length", "first_name", "last_name"},
    "waits": {"field", "note", "entity"},
    "slot": {"master_column", "table", "key", "owner", "owner_is", "title", "named_by"},
    "slot.roles": {"name", "titles"},
    "duplicates": {"by"},
    "duplicates.by": {"field", "form"},
}


@every(FIXED)
def test_a_key_that_is_left_out_is_told_where_it_is_needed(told, at: Statement) -> None:
    mistakes = told(at.replaced(), at.file)
    if at.key in REQUIRED.get(at.table, ()):
        assert any(one.line == at.table_line and at.key in one.text for one in mistakes), mistakes
    else:
        assert mistakes == []


def mentions(at: Statement) -> set[int]:
    """The lines that speak of a column."""
    where = {
        "": ("label",),
        "rules": ("field", "first_name", "last_name", "domain"),
        "waits": ("field",),
        "slot": ("owner", "title"),
        "duplicates.by": ("field",),
    }
    found = set()
    for one in STATEMENTS:
        if one.file != at.file or one is at:
            continue
        value = one.value.get("column") if isinstance(one.value, dict) else one.value
        if (one.key in where.get(one.table, ()) or one.table == "master.mapping") and at.key in (
            value if isinstance(value, list) else [value]
        ):
            found.add(one.line)
    return found


def needed_by(at: Statement, name: str) -> set[int]:
    """The lines where it is told that there is no longer such a column, but one by another name, or none if empty."""
    file = [one for one in STATEMENTS if one.file == at.file]
    create = next(one.table_line for one in file if one.table == "master.create")
    filled = {one.key for one in file if one.table in ("master.mapping", "master.computed")}
    filled |= {one.value for one in file if (one.table, one.key) in (("", "key"), ("slot", "master_column"))}
    match at.table:
        case "columns":
            return mentions(at)
        case "master.create":
            return {create} if at.key in filled else set()
    kept = {one.line for one in file if one.key == "kept" and at.key in one.value}
    # What the master does not hold cannot be compared with it.
    compared = {one.line for one in file if (one.table, one.key, one.value) == ("duplicates.by", "field", at.value)}
    return ({create} if name else set()) | kept | (set() if name else compared)


@every(MADE_UP)
@pytest.mark.parametrize("renamed", [False, True], ids=["left out", "misspelt"])
def test_a_column_that_is_left_out_or_misspelt_is_told_wherever_it_is_needed(told, at: Statement, renamed) -> None:
    name = misspelt(at.key) if renamed else ""
    mistakes = told(at.with_key(name) if renamed else at.replaced(), at.file)
    moved = 0 if renamed else 1
    expected = {line - (moved if line > at.line else 0) for line in needed_by(at, name)}
    assert {one.line for one in mistakes} == expected
    for one in mistakes:
        assert at.key in one.text or (name and name in one.text) or str(at.value) in one.text


@every(STATEMENTS)
def test_a_key_that_is_there_twice_is_told_with_its_line(told, at: Statement) -> None:
    own = TEXTS[at.file].splitlines()[at.line - 1 : at.last]
    (mistake,) = told(at.replaced(*own, *own), at.file)
    assert at.last < mistake.line <= at.last + len(own)
    assert "twice" in mistake.text


def test_a_table_that_is_there_twice_is_told_with_its_line(told) -> None:
    text = TEXTS["company"] + '[tables]\nraw = "a.b"\n'
    (mistake,) = told(text)
    assert mistake.line == len(text.splitlines()) - 1
    assert "tables" in mistake.text


EVIL = (
    'x"; DROP TABLE y; --', "x'; DROP TABLE y; --", "x) y", "x;", "x\0", "x\ny", '"', "'", "%s", "100%", "%(keys)s", "{}",
    "x{0}", "$1", "x:y", "", " ", " x", "x ", "x*", "\u202ex", "x" * 64, "é" * 32, "x\u2028y", "\\",
)  # fmt: skip
NAMES_OF_COLUMNS = ("key", "label", "owner", "title", "master_column", "since", "first_name", "last_name", "domain")


def evil_texts() -> Iterator[tuple[str, Statement, str]]:
    # One key of each table whose keys are names: they are all alike.
    alike = {(one.file, one.table if one.table in FREE else one.line): one for one in STATEMENTS}
    for at in alike.values():
        if at.file == "people" and at.table not in ("slot", "waits", "rules"):
            continue  # as in the other file
        for evil in EVIL:
            quoted = json.dumps(evil)
            if at.table in FREE:
                value = at.value if isinstance(at.value, str) else "phone"
                yield evil, at, at.replaced(f"{quoted} = {json.dumps(value)}")
            if at.table == "master.mapping":
                yield evil, at, at.with_value(quoted)
                yield evil, at, at.with_value(f"{{ column = {quoted} }}")
            if at.table == "tables" or (at.table, at.key) == ("slot", "table"):
                for table in (f"marketing.{evil}", f"{evil}.x", f'"{evil}".x', f'marketing."{evil}"'):
                    yield evil, at, at.with_value(json.dumps(table))
            if (at.key in NAMES_OF_COLUMNS and at.table not in FREE) or (at.table, at.key) == ("waits", "field"):
                yield evil, at, at.with_value(quoted)
            if at.key in ("kept", "named_by", "field") and at.table != "waits":
                yield evil, at, at.with_value(f"[{quoted}]")
            if (at.table, at.key) == ("", "key"):
                yield evil, at, at.with_value(f"{{ column = {quoted} }}")


def test_no_identifier_may_be_sql(told) -> None:
    tried = 0
    for tried, (evil, at, text) in enumerate(evil_texts(), 1):  # noqa: B007 - it is counted
        mistakes = told(text, at.file)
        assert any(one.line == at.line for one in mistakes), (evil, at, mistakes)
    assert tried > 500


@pytest.mark.parametrize("text", ["x", "a.b.c", ".x", "x.", "Marketing.x", "marketing.X", '"a"b.c', "a..b", "a b.c"])
def test_a_table_has_a_schema_and_a_name_as_sql_writes_them(told, text: str) -> None:
    at = next(one for one in STATEMENTS if one.key == "raw")
    (mistake,) = told(at.with_value(json.dumps(text)), at.file)
    assert (mistake.line, "tables.raw" in mistake.text) == (at.line, True)


@pytest.mark.parametrize(
    "text",
    [
        "now(); DROP TABLE x", "now() -- x", "now() /* x", "(now()", "now())", "'x", '"x', "", "  ", "x\0", "$$x$$", "$a$'$a$; DROP TABLE x; --'",
        "E'\\' || '; DROP TABLE x; --'", "e'x'",
    ],
)  # fmt: skip
def test_a_computed_column_is_one_closed_expression(told, text: str) -> None:
    at = next(one for one in STATEMENTS if one.key == "validated_at")
    mistakes = told(at.with_value(json.dumps(text)), at.file)
    assert [one.line for one in mistakes] == [at.line]
    assert "validated_at" in mistakes[0].text


@pytest.mark.parametrize(
    "text",
    [
        "now()",
        "'it''s; -- no comment'",
        'r."Zip; Code"',
        "coalesce(r.a, 'x(')",
        "r.a || '$$'",
        "CASE'x' WHEN 'x' THEN 1 END",
    ],
)
def test_what_stands_between_quotes_may_look_like_anything(told, text: str) -> None:
    at = next(one for one in STATEMENTS if one.key == "validated_at")
    assert told(at.with_value(json.dumps(text)), at.file) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("severity", '"warnings"', "'error' or 'warning'"),
        ("rule", '"requird"', "did you mean required?"),
        ("rule", '"no_such_thing"', "person_name, one_of"),
        ("region", '"XX"', "ISO 3166"),
        ("industry", '"TXT"', "did you mean TEXT?"),
        ("employee_count", '"NUMBER"', "did you mean NUMERIC?"),
        ("industry", '"TEXT; DROP TABLE x"', "is no type"),
        ("industry", '"Mood"', "public.mood"),
        ("length", "0", "1 or more"),
        ("length", "0x" + "f" * 5000, "or less"),
        ("length", "1" * 5000, "digits"),
        ("words", "[]", "is empty"),
        ("words", '[""]', "is empty"),
        ("message", '""', "is empty"),
        ("message", f'"{"x" * 501}"', "longer than 500"),
        ("key", '{ column = "x", type = "UUID" }', "TEXT, SMALLINT, INTEGER or BIGINT, not UUID"),
        ("key", '{ column = "x", typ = "TEXT" }', "did you mean type?"),
        ("key", '{ type = "TEXT" }', "key.column is missing"),
        ("label", '"employee_count"', "a label is a TEXT column"),
        ("work_phone_e164", '{ column = "phone", form = "E164" }', "'as_is' or 'e164'"),
        ("work_phone_e164", '{ column = "phone", from = "e164" }', "did you mean form?"),
        ("titles", "['']", "no regular expression"),
        ("note", '"Waiting: {company}"', "{company} stands for nothing: use {key}"),
        ("note", '"Waiting: {key"', "brace"),
        ("plural", f'"{"x" * 61}"', "longer than 60"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_told_with_what_would_be_right(told, key: str, value: str, said: str) -> None:
    at = next(one for one in STATEMENTS if one.key == key)
    mistakes = told(at.with_value(value), at.file)
    assert any(one.line == at.line and said in one.text for one in mistakes), mistakes


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('{ rule = "pattern", pattern = "(" }', "no regular expression"),
        ('{ rule = "pattern", pattern = "a{99999999999}" }', "no regular expression"),
        (f'{{ rule = "pattern", pattern = "{"(" * 3000 + ")" * 3000}" }}', "no regular expression"),
        ('{ rule = "number_range" }', "a min, a max, or both"),
        ('{ rule = "number_range", min = 2, max = 1 }', "exchange"),
        ('{ rule = "number_range", min = nan }', "is a number"),
        ('{ rule = "number_range", min = inf }', "is a number"),
        ('{ rule = "number_range", min = "1" }', "is a number"),
        ('{ rule = "number_range", min = true }', "is a number"),
        ('{ rule = "number_range", min = 9999999999999999999 }', "digits"),
        ('{ rule = "placeholder", severity = "warning", message = "x" }', "leave message"),
        ('{ rule = "min_length", length = 2 }', "min_length is for"),
        ('{ rule = "email" }', "email is for"),
        ('{ rule = "phone" }', "phone is for"),
        ('{ rule = "web_address" }', "web_address is for"),
        ('{ rule = "contains", text = "x" }', "contains is for"),
        ('{ rule = "one_of" }', "values is missing"),
        ('{ rule = "one_of", values = [] }', "values is empty"),
        ('{ rule = "required", reason_code = "empty" }', "no reason code"),
        (f'{{ rule = "required", reason_code = "{"X" * 41}" }}', "40"),
        ('{ rule = "function" }', "function is missing"),
        ('{ rule = "function", function = "json" }', "package.module:function"),
        ('{ rule = "function", function = "no_such_module:f" }', "cannot be loaded"),
        ('{ rule = "function", function = "json:no_such" }', "has no function no_such"),
        ('{ rule = "function", function = "json:__name__" }', "is no function"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_told_with_what_would_be_right(told, rule: str, said: str) -> None:
    pairs = "\n".join(re.findall(r"\w+ = (?:\[.*?\]|\"[^\"]*\"|[^,}]*[^,} ])", rule))
    text = TEXTS["company"].replace("[master]", f'[[rules]]\nfield = "employee_count"\n{pairs}\n\n[master]', 1)
    first = TEXTS["company"].splitlines().index("[master]") + 1
    mistakes = told(text)
    assert len(mistakes) == 1, mistakes
    assert said in mistakes[0].text
    assert first <= mistakes[0].line <= first + 2 + pairs.count("\n")


def test_what_is_said_twice_of_one_master_column_is_told(told) -> None:
    def wrong(file: str, table: str, line: str) -> Mistake:
        text = TEXTS[file].replace(f"[{table}]\n", f"[{table}]\n{line}\n", 1)
        (mistake,) = told(text, file)
        assert mistake.line == text.splitlines().index(line) + 1
        return mistake

    assert "mapped and computed" in wrong("company", "master.computed", "company_name = \"'x'\"").text
    assert "is the key" in wrong("company", "master.computed", "company_unique_id = \"'x'\"").text
    assert "is the key" in wrong("company", "master.mapping", 'company_unique_id = "city"').text
    assert "takes the slot" in wrong("people", "master.computed", "company_slot_unique_id = \"'x'\"").text
    assert "takes the slot" in wrong("people", "master.mapping", 'company_slot_unique_id = "city"').text


@pytest.mark.parametrize("name", ["id", "enrichment_status", "batch_id", "neon_snapshot", "reason_code"])
def test_a_column_that_every_table_has_is_no_data_column_and_no_key(told, name: str) -> None:
    column = next(one for one in STATEMENTS if one.table == "columns" and one.key == "city")
    (mistake,) = [one for one in told(column.with_key(name)) if one.line == column.line]
    assert name in mistake.text
    key = next(one for one in STATEMENTS if one.key == "key")
    assert any(one.line == key.line and name in one.text for one in told(key.with_value(f'"{name}"')))


@pytest.mark.parametrize(
    ("encode", "line"),
    [
        (lambda text: text.encode("utf-16"), 1),
        (lambda text: text.encode("utf-16-le"), None),
        (lambda text: text.replace("# names", "# näms").encode("latin-1"), 4),
        (lambda text: text.encode() + b"\xff", len(TEXTS["company"].splitlines()) + 1),
    ],
    ids=["UTF-16", "UTF-16 without its mark", "Latin-1", "a byte at the end"],
)
def test_a_file_of_another_encoding_is_refused_with_its_line(told, encode: Any, line: int | None) -> None:
    (mistake,) = told(encode(TEXTS["company"]))
    assert line is None or (mistake.line == line and "UTF-8" in mistake.text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
    ],
    ids=["BOM", "CRLF", "both", "no line break at the end"],
)
def test_what_editors_add_changes_nothing(tmp_path, folder, change: Callable[[str], str]) -> None:
    for name, text in TEXTS.items():
        (folder / f"{name}.toml").write_bytes(change(text).encode())
    for name, entity in loaded(folder).items():
        assert same(entity) == same(ENTITIES[name])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1), ("\n\n", 1), ("# nothing\n", 1), ("\0", 1), (b"\x7fELF\x02\x01\x01\0\0\0", 1), (b"PK\x03\x04\x14", 1), ("[", 1), ("a", 1),
        ("a = 1\nb = ", 2), ("a = 1\nb = [\n1,\n", 3), ('x = """\n\n', 1), ("\n\nx = 1 2", 3), ("{}", 1), ("a.b.c = 1\na.b = 2", 2),
        ("x = 2021-13-45", 1), ('x = "\\q"', 1), ("\u2028", 1), ("a = 1\rb = 2", 1),
    ],
)  # fmt: skip
def test_what_is_no_entity_file_is_refused(told, text: str | bytes, line: int) -> None:
    mistakes = told(text)
    assert mistakes[0].line == line, mistakes


def test_lines_are_counted_as_editors_count_them(told) -> None:
    at = next(one for one in FIXED if one.key == "severity")
    text = "# \u2028 \u2029 \x85 \n" + at.with_key("severty")
    assert [one.line for one in told(text)] == [at.line + 1]


def test_an_element_of_a_list_over_several_lines_is_told_with_its_own_line(told) -> None:
    text = TEXTS["people"].replace(r"'\mexecutive director\M', '", "17, '")
    (mistake,) = told(text, "people")
    assert "titles" in mistake.text
    assert "17," in text.splitlines()[mistake.line - 1]


def test_tables_may_be_written_in_any_form_and_mistakes_have_their_lines(told) -> None:
    start, rest = TEXTS["company"].split("[tables]\n")[0], TEXTS["company"].split("[columns]\n")[1]
    columns, rest = rest.split("\n\n", 1)
    master = rest[rest.index("[master]") :]
    text = (
        f'{start}tables = {{ invalid = "marketing.a", "master" = "marketing.b", \'workspace\' = "Public.c" }}\n'
        + "".join(f"columns.{line}\n" for line in columns.splitlines())
        + 'rules = [\n  { rule = "required", field = "city" }, # "]"\n\n  { rule = "requird", field = """\ncity""" },\n'
        + '  { field = "town", rule = "required" },\n]\n'
        + master
    )
    lines = text.splitlines()
    found = {one.line: one.text for one in told(text)}
    assert set(found) == {
        lines.index(next(one for one in lines if part in one)) + 1 for part in ("Public.c", "requird")
    }
    found = {one.line for one in told(text.replace("Public.c", "public.c").replace("requird", "required"))}
    assert found == {lines.index(next(one for one in lines if "town" in one)) + 1}


@pytest.mark.parametrize("depth", [10, 100, 300, 400, 490, 1000, 3000])
@pytest.mark.parametrize("form", ["x = {0}{1}", "[tables]\ninvalid = {0}{1}", "[[rules]]\nfield = {0}{1}", "[{2}]"])
def test_deep_nesting_is_refused_and_ends_nothing(told, depth: int, form: str) -> None:
    assert told(form.format("[" * depth, "]" * depth, ".".join("x" * depth)))
    assert told(form.format("{x = " * depth, "1" + "}" * depth, ".".join("x" * depth)))


def test_a_huge_file_is_refused_unread(told, tmp_path) -> None:
    (mistake,) = told("x" * 1_000_001)
    assert "1,000,000 bytes" in mistake.text
    with (tmp_path / "sparse.toml").open("wb") as file:
        file.truncate(1 << 40)
    assert "1,000,000 bytes" in read_file(tmp_path / "sparse.toml")[1][0].text


def test_thousands_of_mistakes_read_the_file_once(told, monkeypatch) -> None:
    reads = []
    real = tomllib.loads

    def counted(text: str) -> dict[str, Any]:
        reads.append(len(text))
        return real(text)

    monkeypatch.setattr(mistakes_module.tomllib, "loads", counted)
    mistakes = told("".join(f"key_{number} = 1\n" for number in range(5000)) + TEXTS["company"])
    assert [one.line for one in mistakes] == list(range(1, 5001))
    assert len(reads) == 1


@pytest.mark.parametrize("key", ["\\n", "\\u001b[31m", "x" * 5000, "\\u202e", "\\u0000"])
def test_a_mistake_is_one_line_that_is_safe_for_a_terminal(told, key: str) -> None:
    assert told(f'"{key}" = 1\n' + TEXTS["company"])[0].line == 1
    at = next(one for one in FIXED if one.key == "field")
    assert told(at.with_value(f'"{key}"'))
    at = next(one for one in FIXED if one.key == "rule")
    assert told(at.with_value(f'"{key}"'))


def test_a_folder_a_pipe_and_what_cannot_be_read_are_refused_by_name(tmp_path, folder) -> None:
    (folder / "shop.toml").mkdir()
    os.mkfifo(folder / "pipe.toml")
    (folder / "self.toml").symlink_to(folder / "self.toml")
    (folder / "gone.toml").symlink_to(folder / "nothing")
    (folder / "closed.toml").write_text("x")
    (folder / "closed.toml").chmod(0)
    with pytest.raises(EntityFileError) as refused:
        loaded(folder)
    found = {Path(one.file).name for one in refused.value.mistakes}
    assert found == {"shop.toml", "pipe.toml", "self.toml", "gone.toml", "closed.toml"}
    assert len(str(refused.value).splitlines()) == len(refused.value.mistakes)


@pytest.mark.parametrize(
    "name", ["Company", "1st", "my-shop", "my shop", "größe", "_x", "x.y", "", "x" * 41, "shop;", "shop\n"]
)
def test_a_file_whose_name_is_no_name_of_an_entity_is_refused(tmp_path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text(TEXTS["company"])
    declared, mistakes = read_file(path)
    assert declared is None
    assert len(mistakes) == 1
    assert mistakes[0].line is None


@pytest.mark.parametrize("name", ["x", "shop", "shop_2", "x" * 40])
def test_a_file_whose_name_is_one_is_read(told, name: str) -> None:
    assert told(TEXTS["company"], name) == []


def test_other_files_in_the_folder_are_left_alone(folder) -> None:
    (folder / ".#company.toml").write_text("an editor's")
    (folder / "company.toml~").write_text("an editor's")
    (folder / "rules.py").write_text("raise SystemExit")
    (folder / "old").mkdir()
    assert sorted(loaded(folder)) == ["company", "people"]


def test_a_folder_that_is_missing_empty_or_no_folder_is_told(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("missing", "empty", "file"):
        with pytest.raises(NoEntityFiles, match="WORKER_ENTITIES") as told:
            loaded(tmp_path / name)
        assert str(tmp_path / name) in str(told.value)
        assert "\n" not in str(told.value)


SHOP = """\
plural = "shops"
key = "shop_id"
label = "label"
[tables]
invalid = "retail.shop_invalid"
master = "retail.shop_master"
workspace = "public.shop_needs_enrichment"
[columns]
label = "TEXT"
[master.mapping]
label = "label"
"""


@pytest.mark.parametrize("which", ["invalid", "master", "workspace"])
@pytest.mark.parametrize(
    "taken",
    [*map(str, (LEDGER, RECEIPTS, LOG, POSITION, OUTBOX)), "marketing.company_invalid", "marketing.people_master",
     "public.people_needs_enrichment", '"marketing"."company_master"'],
)  # fmt: skip
def test_a_table_that_another_entity_or_the_worker_has_is_refused(folder, which: str, taken: str) -> None:
    (line,) = (one for one in SHOP.splitlines() if one.startswith(f"{which} = "))
    (folder / "shop.toml").write_text(SHOP.replace(line, f"{which} = {json.dumps(taken)}"))
    with pytest.raises(EntityFileError) as refused:
        loaded(folder)
    (mistake,) = refused.value.mistakes
    assert mistake.file.endswith("shop.toml")
    assert mistake.line == SHOP.splitlines().index(line) + 1
    assert taken.replace('"', "") in mistake.text
    assert any(name in mistake.text for name in ("company", "people", "the worker itself"))


def test_one_table_twice_in_a_file_is_refused(folder) -> None:
    (folder / "shop.toml").write_text(SHOP.replace("retail.shop_master", "retail.shop_invalid"))
    with pytest.raises(EntityFileError, match=r"shop\.toml:6: retail\.shop_invalid is a table of shop already"):
        loaded(folder)


def waiting(*names: str) -> str:
    return SHOP + "".join(
        f'[[waits]]\nfield = "label"\nentity = "{name}"\nnote = "Waiting: {{key}} is not there yet."\n'
        for name in names
    )


def shops(folder: Path, **waits: tuple[str, ...]) -> None:
    for name, others in waits.items():
        (folder / f"{name}.toml").write_text(waiting(*others).replace("shop_", f"{name}_"))


def test_a_wait_for_an_entity_that_there_is_not_is_told(folder) -> None:
    shops(folder, shop=("company", "compnay"))
    with pytest.raises(EntityFileError) as refused:
        loaded(folder)
    (mistake,) = refused.value.mistakes
    assert mistake.line == SHOP.count("\n") + 7
    assert "compnay" in mistake.text
    assert "company, people, shop" in mistake.text


@pytest.mark.parametrize(
    ("waits", "told_of"),
    [
        ({"a": ("a",)}, {"a"}),
        ({"a": ("b",), "b": ("a",)}, {"a", "b"}),
        ({"a": ("b",), "b": ("c",), "c": ("a",)}, {"a", "b", "c"}),
        ({"a": ("b",), "b": ("company", "c"), "c": ("b",)}, {"b", "c"}),
        ({"a": ("b", "c"), "b": ("a",), "c": ("d",), "d": ("c",)}, {"a", "b", "c", "d"}),
    ],
)
def test_entities_that_wait_for_each_other_are_told_each_with_its_line(folder, waits, told_of) -> None:
    shops(folder, **waits)
    with pytest.raises(EntityFileError) as refused:
        loaded(folder)
    assert {Path(one.file).stem for one in refused.value.mistakes} == told_of
    for one in refused.value.mistakes:
        assert one.line is not None
        assert Path(one.file).read_text().splitlines()[one.line - 1].startswith("entity = ")
        assert "wait" in one.text


def test_an_entity_comes_after_all_that_it_waits_for(folder) -> None:
    shops(folder, a=("b", "people"), b=("c",), c=("company",), d=())
    order = list(loaded(folder))
    for before, after in (("b", "a"), ("people", "a"), ("c", "b"), ("company", "c"), ("company", "people")):
        assert order.index(before) < order.index(after)
    assert len(order) == 6


def same(entity: Entity) -> tuple[Any, ...]:
    """All that an entity makes: the version of its rules and every statement that is composed of it."""
    columns = [
        SimpleNamespace(name=name, type="text", not_null=True, category="S") for name in sorted(entity.master_columns)
    ]
    statements = settlement(entity, columns, Demands())
    composed = [str(getattr(statements, name)) for name in statements.__dataclass_fields__ if name != "entity"]
    return entity.rules.version(), composed, script("Neon", [entity]), script("Supabase", [entity])


def sections(text: str) -> list[list[str]]:
    """Header and statements of each table; a statement may have several lines."""
    found: list[list[str]] = [[""]]
    for line in text.splitlines():
        if line.startswith("["):
            found.append([line])
        elif line and not line.startswith("#"):
            if line[0] in " ]":
                found[-1][-1] += "\n" + line
            else:
                found[-1].append(line)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NAMES)
def test_comments_and_the_order_of_tables_and_keys_change_nothing(folder, name: str, seed: int) -> None:
    shuffle = random.Random(seed).shuffle
    top, *rest = sections(TEXTS[name])
    for header, *statements in (top, *rest):
        if header.strip("[]") not in FREE:
            shuffle(statements)
    # An array's tables follow each other in their order, and a table's own come after it.
    groups: dict[str, list[list[str]]] = {}
    for section in rest:
        groups.setdefault(section[0].strip("[]").partition(".roles")[0], []).append(section)
    blocks = list(groups.values())
    shuffle(blocks)
    noisy = [
        f"  # {seed} [not a table]\n\n{line}"
        for section in [top, *(s for block in blocks for s in block)]
        for line in section
    ]
    (folder / f"{name}.toml").write_text("\n".join(noisy) + "\n# the end")
    assert same(loaded(folder)[name]) == same(ENTITIES[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_columns_changes_no_verdict(folder, name: str) -> None:
    text = TEXTS[name]
    for section in sections(text):
        if section[0].strip("[]") in FREE:
            text = text.replace("\n".join(section), "\n".join([section[0], *reversed(section[1:])]))
    assert text != TEXTS[name]
    (folder / f"{name}.toml").write_text(text)
    changed = loaded(folder)[name]
    assert changed.columns == tuple(reversed(ENTITIES[name].columns))
    assert changed.rules.version() == ENTITIES[name].rules.version()


VALUES = st.one_of(
    st.sampled_from([
        "17", "-1", "0", "1.5", "inf", "nan", "0x" + "f" * 5000, "9" * 5000, "1e999", "true", '""', '"x"', "'''x\ny'''", "[]", "[[]]",
        "[{}]", "{}", "{ a = 1 }", '{ column = "city" }', "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", '"\\u0000"', '"\\n"', '["x", 1]',
        '"city"', '"TEXT"', '"TEXT[][]"', '"a.b"', '"required"', '"function"', '"os:getcwd"', "[" * 300 + "]" * 300, '"company"', '"{value}"',
    ]),
    st.text(max_size=20).map(json.dumps),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["delete", "duplicate", "swap", "bytes", "value", "key", "insert", "cut"]),
        st.integers(0, 10**6), st.integers(0, 10**6), VALUES, st.binary(max_size=8),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def edited(text: bytes, edits: list[tuple[str, int, int, str, bytes]]) -> bytes:
    for what, one, other, value, noise in edits:
        lines = text.split(b"\n")
        first, second = one % len(lines), other % len(lines)
        line = lines[first]
        written = value.encode(errors="surrogatepass")
        match what:
            case "delete":
                del lines[first]
            case "duplicate":
                lines.insert(second, line)
            case "swap":
                lines[first], lines[second] = lines[second], line
            case "value":
                lines[first] = line.partition(b"=")[0] + b"= " + written
            case "key":
                lines[first] = written + b" =" + line.partition(b"=")[2]
            case "insert":
                lines.insert(first, b"x = " + written)
        text = b"\n".join(lines)
        at = one % (len(text) + 1)
        if what == "bytes":
            text = text[:at] + noise + text[at + other % 4 :]
        elif what == "cut":
            text = text[:at]
    return text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("entities")


def outcome(folder: Path) -> tuple[dict[str, Entity], list[Mistake]]:
    """The entities of a folder, or its mistakes."""
    try:
        return loaded(folder), []
    except EntityFileError as refused:
        return {}, refused.mistakes


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150)
@given(edits=EDITS)
def test_a_file_is_loaded_or_refused_with_lines_and_nothing_else(shared, name: str, edits) -> None:
    for one in NAMES:
        text = TEXTS[one].encode()
        (shared / f"{one}.toml").write_bytes(edited(text, edits) if one == name else text)
    entities, mistakes = outcome(shared)
    assert entities or mistakes
    for one in mistakes:
        assert str(one).isprintable()
        count = Path(one.file).read_bytes().count(b"\n") + 1
        assert one.line is None or 1 <= one.line <= count
    for entity in entities.values():
        same(entity)
        entity.rules.judge(entity.rules.normalise(dict.fromkeys(entity.columns, "x")))


def test_what_one_file_says_is_made_without_the_others(folder) -> None:
    declared, _ = read_file(folder / "company.toml")
    assert declared
    assert together([declared]) == []
    assert list(entities_of({"company": declared})) == ["company"]
