"""The vocabulary of the rules, each kind by a table of cases: as an error, as a warning, with words of its own. SPEC 4, 12."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from declared import rules_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.domain.function import FunctionFailed
from worker.domain.rule_compiler import Rules
from worker.domain.vocabulary import KINDS, name_of
from worker.entities.loader import load_entities
from worker.entities.mistakes import EntityFileError

TEXT = {"it": "TEXT"}
WIDE = "x" * 10_000
CASES: list[tuple[dict[str, Any], str, str, list[Any], list[Any]]] = [
    # the rule, the column's type, the reason code's beginning, values that pass, values that are refused
    ({"rule": "required"}, "TEXT", "EMPTY", ["x", "0", WIDE], [None, "", " ", "\u00a0\u200b"]),
    ({"rule": "required"}, "INTEGER", "EMPTY", [0, 1, -1, 10**30], [None]),
    ({"rule": "required"}, "BOOLEAN", "EMPTY", [True, False], [None]),
    ({"rule": "required"}, "TEXT[]", "EMPTY", [["x"], [""]], [None, []]),
    ({"rule": "required"}, "NUMERIC", "EMPTY", ["0.00", "1"], [None]),
    ({"rule": "required", "or_zero": True}, "INTEGER", "EMPTY", [1, -1], [None, 0]),
    ({"rule": "required", "or_zero": True}, "REAL", "EMPTY", [0.1, 1e-300], [None, 0.0, -0.0]),
    ({"rule": "required", "or_zero": True}, "NUMERIC", "EMPTY", ["0.01", "-1", "10", "NaN"], [None, "0", "0.00", "-0", "00."]),
    ({"rule": "required", "or_zero": True}, "BOOLEAN", "EMPTY", [True, False], [None]),
    ({"rule": "min_length", "length": 2}, "TEXT", "SHORT", ["xy", "株式", None, "", "  "], ["x", " x ", "é"]),
    ({"rule": "min_length", "length": 2}, "TEXT[]", "SHORT", [["a", "b"], None, []], [["a"]]),
    ({"rule": "max_length", "length": 2}, "TEXT", "LONG", ["xy", " xy ", None, ""], ["xyz", WIDE]),
    ({"rule": "max_length", "length": 2}, "TEXT[]", "LONG", [["a", "b"], None, []], [["a", "b", "c"]]),
    ({"rule": "placeholder"}, "TEXT", "PLACEHOLDER", ["x", "tests", "test.com", None, ""], ["test", "N/A", " None ", "NULL", "example"]),
    ({"rule": "placeholder", "words": "TBD"}, "TEXT", "PLACEHOLDER", ["test", "tbd."], ["TBD", "tbd", " Tbd "]),
    ({"rule": "placeholder", "words": ["straße"]}, "TEXT", "PLACEHOLDER", ["strasse 1"], ["STRASSE", "Straße"]),
    ({"rule": "placeholder"}, "INTEGER", "PLACEHOLDER", [0, 7, None], []),
    ({"rule": "web_address"}, "TEXT", "INVALID", ["alder.example", "http://a.example/x", None, ""], ["alder", "ftp://a.example", "a b.example"]),
    ({"rule": "email"}, "TEXT", "INVALID", ["a@b.example", "a@B.EXAMPLE", None, ""], ["a", "a@b", "a@b@c.example", WIDE]),
    ({"rule": "phone"}, "TEXT", "INVALID", ["(304) 293-0100", "+49 30 901820", None, ""], ["call me", "12", "1" * 300]),
    ({"rule": "phone", "region": "DE"}, "TEXT", "INVALID", ["030 901820", "+1 304 293 0100"], ["12", "030"]),
    ({"rule": "one_of", "values": ["north", "south"]}, "TEXT", "INVALID", ["north", " south ", None, ""], ["North", "east", "northsouth"]),
    ({"rule": "one_of", "values": "x"}, "TEXT", "INVALID", ["x"], ["X", "xx"]),
    ({"rule": "one_of", "values": ["Nord"], "ignore_case": True}, "TEXT", "INVALID", ["NORD", "nord"], ["nor"]),
    ({"rule": "one_of", "values": ["1", "2"]}, "INTEGER", "INVALID", [1, 2, None], [3, 0, 12]),
    ({"rule": "pattern", "pattern": "[0-9]{5}"}, "TEXT", "INVALID", ["01234", " 01234 ", None, ""], ["1234", "012345", "01234\nx", "٠١٢٣٤"]),
    ({"rule": "pattern", "pattern": "[1-9]"}, "INTEGER", "INVALID", [1, 9, None], [0, 10, -1]),
    ({"rule": "contains", "text": ["@", "#"]}, "TEXT", "INVALID", ["a@b", "#", None], ["ab"]),
    ({"rule": "contains", "text": "ss", "ignore_case": True}, "TEXT", "INVALID", ["SS", "ß"], ["s"]),
    ({"rule": "starts_with", "text": "http"}, "TEXT", "INVALID", ["http", "https"], ["HTTP", "xhttp"]),
    ({"rule": "starts_with", "text": ["A-", "B-"], "ignore_case": True}, "TEXT", "INVALID", ["a-1", "B-"], ["c-", "-a-"]),
    ({"rule": "ends_with", "text": ".pdf"}, "TEXT", "INVALID", ["x.pdf"], ["x.PDF", "x.pdf.x"]),
    ({"rule": "ends_with", "text": ".pdf", "ignore_case": True}, "TEXT", "INVALID", ["x.PDF"], ["pdf"]),
    ({"rule": "number_range", "min": 1, "max": 10}, "INTEGER", "OUT_OF_RANGE", [1, 10, None], [0, 11, -5, 10**30]),
    ({"rule": "number_range", "min": 0.1}, "REAL", "OUT_OF_RANGE", [0.1, 1e300, 1], [0.0999, 0, -1.5]),
    ({"rule": "number_range", "max": 0.3}, "DOUBLE PRECISION", "OUT_OF_RANGE", [0.3, -1e300, 0], [0.1 + 0.2, 1]),
    ({"rule": "number_range", "min": 0.1, "max": 100}, "NUMERIC", "OUT_OF_RANGE", ["0.1", "0.10", "100.000", "1E+1", None],
     ["0.09999999999999999999", "100.0000000001", "NaN", "Infinity", "-Infinity", "many", "sNaN"]),
    ({"rule": "number_range", "min": -5, "max": -1}, "SMALLINT", "OUT_OF_RANGE", [-5, -1], [0, -6]),
    ({"rule": "number_range", "min": 2, "max": 2}, "BIGINT", "OUT_OF_RANGE", [2], [1, 3]),
]  # fmt: skip


def ids(case: Any) -> str:
    return f"{case['rule']}" if isinstance(case, dict) else ""


def test_every_kind_of_rule_has_its_cases() -> None:
    tried = {rule["rule"] for rule, *_ in CASES} | {"person_name", "function"}
    assert tried == {name_of(kind) for kind in KINDS}


@pytest.mark.parametrize(("rule", "type_", "code", "good", "bad"), CASES)
def test_a_kind_of_rule_as_an_error(rule, type_: str, code: str, good: list[Any], bad: list[Any]) -> None:
    rules = rules_of({"it": type_}, {"field": "it", **rule})
    for value in good:
        assert rules.judge(rules.normalise({"it": value})).passed, value
    for value in bad:
        verdict = rules.judge(rules.normalise({"it": value}))
        assert verdict.reason_code == f"{code}_IT", value
        assert ": enter" in verdict.errors["it"] or "correct it" in verdict.errors["it"] or "enter a number" in verdict.errors["it"] or (
            rule["rule"] == "pattern"
        ), verdict.errors  # fmt: skip
        assert verdict.warnings == {}


@pytest.mark.parametrize(
    ("rule", "type_", "code", "good", "bad"), [case for case in CASES if case[0]["rule"] != "placeholder"]
)
def test_a_kind_of_rule_as_a_warning(rule, type_: str, code: str, good: list[Any], bad: list[Any]) -> None:
    rules = rules_of({"it": type_}, {"field": "it", "severity": "warning", **rule})
    for value in good:
        assert rules.judge(rules.normalise({"it": value})).warnings == {}, value
    for value in bad:
        verdict = rules.judge(rules.normalise({"it": value}))
        assert (verdict.passed, verdict.reason_code, set(verdict.warnings)) == (True, None, {"it"}), value


@pytest.mark.parametrize(("rule", "type_", "code", "good", "bad"), CASES)
def test_a_rule_with_words_of_its_own(rule, type_: str, code: str, good: list[Any], bad: list[Any]) -> None:
    own = {"field": "it", "message": "{value}? {} %s {other} is wrong", "reason_code": "OF_OURS_2"}
    rules = rules_of({"it": type_}, {**own, **rule})
    for value in bad:
        data = rules.normalise({"it": value})
        verdict = rules.judge(data)
        assert verdict.reason_code == "OF_OURS_2"
        quoted = "" if rule["rule"] in ("required", "min_length", "max_length") else str(data["it"])
        assert verdict.errors["it"] == f"{quoted}? {{}} %s {{other}} is wrong"


@pytest.mark.parametrize(("rule", "type_", "code", "good", "bad"), CASES)
def test_a_rule_over_several_fields_speaks_of_each(
    rule, type_: str, code: str, good: list[Any], bad: list[Any]
) -> None:
    rules = rules_of({"it": type_, "also": type_, "other": type_}, {"field": ["it", "also"], **rule})
    for value in bad:
        verdict = rules.judge(rules.normalise(dict.fromkeys(rules.columns, value)))
        assert list(verdict.errors) == ["it", "also"]
        assert verdict.reason_code == f"{code}_IT"
    if good and bad:
        verdict = rules.judge(rules.normalise({"it": good[0], "also": bad[0], "other": bad[0]}))
        assert list(verdict.errors) == ["also"]
        assert verdict.reason_code == f"{code}_ALSO"


@pytest.mark.parametrize("type_", ["TEXT", "INTEGER", "JSONB"])
def test_no_rule_raises_on_a_value_of_any_type(type_: str) -> None:
    for number, case in enumerate(CASES):
        severity = ("error", "warning")[number % 2]
        rules = rules_of({"it": type_}, {"field": "it", "severity": severity, **case[0]})
        for value in (None, "", "x", 0, 1.5, True, [], [1, None], {}, {"a": [1]}, "1e999999999", float("inf"), 10**400):
            verdict = rules.judge(rules.normalise({"it": value}))
            assert verdict.passed == (verdict.reason_code is None)


@cache
def compiled() -> list[Rules]:
    return [rules_of(TEXT, {"field": "it", **case[0]}) for case in CASES]


@given(
    value=st.one_of(
        st.none(),
        st.text(),
        st.sampled_from([" a.example ", "HTTPS://A.Example", "304 293 0100", "X@Y.Example", " n/a ", "tEsT"]),
    )
)
def test_normalising_is_idempotent_and_changes_no_verdict_the_second_time(value: str | None) -> None:
    for rules in compiled():
        once = rules.normalise({"it": value})
        assert rules.normalise(once) == once
        assert rules.judge(once) == rules.judge(rules.normalise(once))


def test_the_first_rule_that_refuses_speaks_and_an_error_silences_a_warning() -> None:
    rules = rules_of(
        {"it": "TEXT", "also": "TEXT"},
        {"field": "it", "rule": "max_length", "length": 3, "severity": "warning"},
        {"field": "also", "rule": "required"},
        {"field": "it", "rule": "starts_with", "text": "a"},
        {"field": "it", "rule": "ends_with", "text": "z", "reason_code": "NO_Z"},
    )
    assert rules.judge({"it": "bbbb", "also": "x"}).errors == {"it": "does not start with a: correct it"}
    assert rules.judge({"it": "bbbb", "also": "x"}).warnings == {}
    assert rules.judge({"it": "abbb", "also": "x"}).reason_code == "NO_Z"
    assert set(rules.judge({"it": "abbz", "also": "x"}).warnings) == {"it"}
    assert list(rules.judge({"it": "b"}).errors) == ["also", "it"], "in the order of the rules"
    assert rules.judge({"it": "b"}).reason_code == "EMPTY_ALSO"


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ("zip code", "ZIP_CODE"), ("größe", "GR_SSE"), ("e-mail", "E_MAIL"), ("model_config", "MODEL_CONFIG"), ("f0", "F0"), ("ĸ", "_"),
        ("order", "ORDER"), ("x" * 63, "X" * 63),
    ],
)  # fmt: skip
def test_a_column_of_any_name_has_a_reason_code_of_the_form_that_files_may_declare(column: str, code: str) -> None:
    rules = rules_of({column: "TEXT"}, {"field": column, "rule": "required"})
    assert rules.judge({}).reason_code == f"EMPTY_{code}"[:40]
    assert rules.judge({}).errors == {column: "is empty: enter it"}
    assert rules.judge({column: 1}).reason_code == f"INVALID_{code}"[:40]


def test_a_placeholder_of_a_web_address_is_its_host_too() -> None:
    rules = rules_of(
        TEXT, {"field": "it", "rule": "placeholder", "words": "test.com"}, {"field": "it", "rule": "web_address"}
    )
    for value in ("test.com", "HTTP://Test.com/", "https://www.test.com/page"):
        verdict = rules.judge(rules.normalise({"it": value}))
        assert (verdict.reason_code, verdict.errors["it"]) == (
            "PLACEHOLDER_IT", "is a placeholder (test.com): enter the real one",
        )  # fmt: skip
    assert rules.judge(rules.normalise({"it": "test.com.au"})).passed


def test_a_placeholder_of_a_name_is_any_of_its_parts() -> None:
    columns = dict.fromkeys(("full", "given", "family"), "TEXT")
    rules = rules_of(
        columns,
        {"field": "full", "rule": "placeholder", "words": "test"},
        {"field": "full", "rule": "person_name", "first_name": "given", "last_name": "family", "min_length": 4},
    )

    def code(full: Any, given: Any = None, family: Any = None) -> str | None:
        return rules.judge(rules.normalise({"full": full, "given": given, "family": family})).reason_code

    assert code("Ana Birch") is None
    assert code(None, "A", "B") is None
    assert code("Cher") is None
    assert code("Bob") == code(None) == code(None, "Ana") == code(" ") == "EMPTY_FULL"
    assert code("TEST") == code("Ana Birch", "Test") == code("Ana Birch", None, "test") == "PLACEHOLDER_FULL"
    assert code(7, "A", "B") == "INVALID_FULL"
    assert (
        rules.judge({"full": "Ana", "given": "Test", "family": "x"})
        .errors["full"]
        .startswith("given is a placeholder (Test)")
    )


def test_a_placeholder_that_only_warns_counts_as_missing() -> None:
    rules = rules_of(
        {"it": "TEXT"},
        {"field": "it", "rule": "placeholder", "severity": "warning"},
        {"field": "it", "rule": "required", "severity": "warning", "message": "is missing: look for it"},
    )
    assert rules.normalise({"it": "N/A"}) == {"it": None}
    assert rules.judge(rules.normalise({"it": "N/A"})).warnings == {"it": "is missing: look for it"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one entity that asks a function beside it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shop.toml").write_text(
        'plural = "shops"\nkey = "shop_id"\nlabel = "label"\n[tables]\ninvalid = "a.b"\nmaster = "a.c"\nworkspace = "a.d"\n'
        '[columns]\nlabel = "TEXT"\ncity = "TEXT"\n[[rules]]\nfield = ["label", "city"]\nrule = "function"\n'
        f'function = "{module_of(tmp_path)}:fits"\n[master.mapping]\nlabel = "label"\n'
    )
    return tmp_path


def module_of(folder: Path) -> str:
    """A name of its own for each test: Python loads a module once."""
    return f"rules_of_{abs(hash(str(folder)))}"


def written(folder: Path, code: str) -> None:
    (folder / f"{module_of(folder)}.py").write_text(code)


def test_a_function_beside_the_file_judges_value_and_record(folder: Path) -> None:
    written(
        folder,
        "def fits(value, record):\n    return None if value and record.get('city') != 'Nowhere' else '{value} does not fit: enter another'\n",
    )
    rules = load_entities(folder)["shop"].rules
    assert rules.judge({"label": "A", "city": "Rome"}).passed
    verdict = rules.judge({"label": "A", "city": "Nowhere"})
    assert verdict.errors == {
        name: f"{value} does not fit: enter another" for name, value in (("label", "A"), ("city", "Nowhere"))
    }
    assert verdict.reason_code == "INVALID_LABEL"
    assert set(rules.judge({}).errors) == {"label", "city"}, "an empty value is asked about too"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "cannot be loaded (ModuleNotFoundError"),
        ("1 / 0", "cannot be loaded (ZeroDivisionError: division by zero)"),
        ("import os; os.no_such_thing", "cannot be loaded (AttributeError"),
        ("import no_such_module", "cannot be loaded (ModuleNotFoundError: No module named 'no_such_module')"),
        ("raise SystemExit(3)", "cannot be loaded (SystemExit: 3)"),
        ("def fits(", "cannot be loaded (SyntaxError"),
        ("def fit(value, record): ...", "has no function fits"),
        ("fits = 7", "is no function"),
    ],
)
def test_a_function_that_is_not_there_is_a_mistake_with_its_line(folder: Path, code: str | None, said: str) -> None:
    if code:
        written(folder, code)
    with pytest.raises(EntityFileError) as refused:
        load_entities(folder)
    (mistake,) = refused.value.mistakes
    assert mistake.line == 14
    assert said in mistake.text


def test_a_function_that_raises_is_not_hidden(folder: Path) -> None:
    """Not as a refusal either, whatever it raises; and the value is in no message."""
    written(folder, "import builtins\n\ndef fits(value, record):\n    raise getattr(builtins, record['city'])(value)\n")
    rules = load_entities(folder)["shop"].rules
    for error in ("LookupError", "ValueError", "AssertionError"):
        with pytest.raises(FunctionFailed, match=rf":fits raised {error}$"):
            rules.judge({"label": "A", "city": error})


def test_a_function_changes_the_version_of_the_rules_by_its_revision_alone() -> None:
    def version(**more: str) -> str:
        return rules_of(TEXT, {"field": "it", "rule": "function", "function": "json:dumps", **more}).version()

    assert version() == version(revision="1") != version(revision="2")


@pytest.mark.parametrize("severity", ["warning", "error"])
@pytest.mark.parametrize("wrong", [{"rule": "required", "or_zero": 1}, {"rule": "min_length", "length": True}, {"rule": "one_of", "values": [1]},
                                   {"rule": "required", "extra": 1}, {"rule": "required", "message": 1}, {"rule": "no_such"}])  # fmt: skip
def test_a_rule_takes_nothing_but_its_own_parameters(wrong: dict[str, Any], severity: str) -> None:
    with pytest.raises(ValidationError):
        rules_of(TEXT, {"field": "it", "severity": severity, **wrong})
