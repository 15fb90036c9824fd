"""What an enricher reads where a table refuses a value. SPEC 4: in words, without SQL."""

from __future__ import annotations

import re

import pytest

from worker.neon import words
from worker.neon.demands import _with_value
from worker.neon.wouldbe import ColumnRules, Rules

SQL = re.compile(r"::|\\b(NULL|IS|ANY|ARRAY|CHECK|AND|OR|NOT)\\b|[~()]{2}|~")


def check(pretty: str, *columns: str, comment: str | None = None) -> dict[str, object]:
    return {"name": "theirs", "pretty": pretty, "columns": list(columns), "comment": comment}


@pytest.mark.parametrize(
    ("pretty", "wanted"),
    [
        ("n IS NULL OR n >= 0", "enter a number of 0 or more"),
        ("n >= 0 OR n IS NULL", "enter a number of 0 or more"),
        ("n > 0::numeric", "enter a number of more than 0"),
        ("n >= '-5'::integer AND n < 100", "enter a number of -5 or more and less than 100"),
        ("n = ANY (ARRAY['a'::text, 'it''s'::text])", "enter one of a, it's"),
        ("n::text = ANY (ARRAY['a'::character varying, 'b'::character varying]::text[])", "enter one of a, b"),
        ("(n::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))", "enter one of a, b"),
        ("char_length(n) <= 5", "enter text whose number of characters is 5 or less"),
        ("length(TRIM(BOTH FROM n)) > 0", "enter text whose number of characters is more than 0"),
        ("n IS NOT NULL", "enter a value"),
        ("n <> ''::text", "enter a value"),
        ("n ~ '^[a-z]+$'::text", "it is not in the form that is asked for there"),
        ("n ~ 'a'::text AND lower(n) = n", None),
        ("n >= 0 AND odd(n)", None),
        ("(n >= 0) AND (n <= 9)", "enter a number of 0 or more and 9 or less"),
        ("nn >= 0", None),
    ],
)
def test_a_check_is_told_in_words(pretty, wanted) -> None:
    said = words.of_check(words.MASTER, check(pretty, "n"), ["n"], ["n"])
    assert said == {"n": f"the master table refuses this value: {wanted or 'ask the operator about its rule theirs'}"}
    assert not SQL.search(said["n"])


def test_a_check_over_columns_of_nobody_is_told_of_the_record() -> None:
    said = words.of_check("it", check("a < b", "a", "b", comment=" end \n after start "), ["a", "b"], ["c"])
    assert said == {"record": "it refuses this value: end after start"}


def test_the_name_in_a_domains_expression_is_its_value_and_no_other_text() -> None:
    assert _with_value("VALUE <> 'VALUE' AND \"VALUE\"(VALUE)", "v.x") == "(v.x) <> 'VALUE' AND \"VALUE\"((v.x))"


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("BEGIN NEW.city := 'x'; RETURN NEW; END", True),
        ("BEGIN IF true THEN new.city = 'x'; END IF; RETURN NEW; END", True),
        ("BEGIN SELECT 'x' INTO NEW.city; RETURN NEW; END", True),
        ("BEGIN NEW := other(NEW); RETURN NEW; END", True),
        ("DECLARE r record; BEGIN RETURN r; END", True),
        ("BEGIN IF NEW.city = 'x' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END", False),
        ("BEGIN NEW.city_code := 'x'; NEW.updated_at = now(); RETURN NEW; END", False),
    ],
)
def test_which_columns_a_trigger_gives_another_value(source, changed) -> None:
    rules = Rules(1, {}, [], [{"language": "plpgsql", "source": source, "arguments": ""}])
    assert rules.may_be_changed("city") is changed


@pytest.mark.parametrize(
    ("holds", "limit", "range_"),
    [
        ("int2", -1, ("-32768", "32767")),
        ("numeric", (4 << 16 | 1) + 4, ("-999.9", "999.9")),
        ("numeric", (3 << 16) + 4, ("-999", "999")),
        ("numeric", (2 << 16 | 2) + 4, ("-0.99", "0.99")),
        ("numeric", (2 << 16 | 3) + 4, ("-0.099", "0.099")),
    ],
)
def test_what_a_numbers_type_holds(holds, limit, range_) -> None:
    column = ColumnRules("n", 1, -1, False, False, holds, limit, "N", holds, None, False, ())
    assert column.range_in_words() == range_
