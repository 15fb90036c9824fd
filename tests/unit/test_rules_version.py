"""The version of the rules: what changes it, and that no verdict changes without it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from declared import COMPANY, PEOPLE, rules_of

from worker.domain.rule_compiler import REVISION, Rules

NAMES = (
    None, "", " ", "A", "Ab", "Abc", "Alder Works", "test", "TEST", "n/a", "N/A", "none", "null", "example", " Alder ",
    "Kim", "Kim Beech", "Beech, Kim", "Dr. Kim van Beech", "Cher", "Kim  Beech", "Żółć", "test company", 7,
)  # fmt: skip
WEBSITES = (
    None, "", "alder.example", "www.alder.example", "https://alder.example/", "HTTP://Alder.Example/Path?q=1#x",
    "test.com", "www.test.com", "https://www.test.com/", "example.com", "n/a", "none", "two words", "kim@alder.example",
    "https://user@alder.example", "bücher.example", "http://localhost", "1.2.3.4", "https://alder.example:8080",
    "ftp://alder.example", "alder", "alder.example.", "https://", "x" * 3000 + ".example", "alder\u200b.example",
)  # fmt: skip
EMAILS = (
    None, "", "kim@alder.example", "KIM@ALDER.EXAMPLE", "kim", "kim@", "@alder.example", "kim@alder", "test@test.com",
    "Test@Test.com", "n/a@n/a.com", "example@example.com", "kim beech@alder.example", "kim@bücher.example",
    "kim+1@alder.example", "kim@@alder.example", "kim@alder..example", "k" * 70 + "@alder.example",
)  # fmt: skip
PHONES = (
    None,
    "",
    "(304) 555-0101",
    "+13045550101",
    "304.555.0101 ext. 7",
    "+49 30 901820",
    "123",
    "call me",
    "0" * 300,
)
COUNTS = (None, 0, 5, -5, "5", 2.5, True, 10**12)
COLUMNS: dict[str, tuple[Any, ...]] = {
    "company_name": NAMES, "full_name": NAMES, "first_name": NAMES, "last_name": NAMES, "website": WEBSITES,
    "domain": WEBSITES, "email": EMAILS, "phone": PHONES, "employee_count": COUNTS, "linkedin_url": WEBSITES,
    "industry": NAMES, "city": NAMES, "title": NAMES, "state": NAMES,
}  # fmt: skip
SOUND: dict[Rules, dict[str, Any]] = {
    COMPANY.rules: {"company_name": "Alder Works", "website": "alder.example", "domain": None},
    PEOPLE.rules: {"full_name": "Kim Beech", "first_name": None, "last_name": None, "email": "kim@alder.example"},
}
VERDICTS = {
    "1": "df38d21ee4abdf072327a3bf998d28e0865abffcb9d3b594ec49a279712276ac",
    "2": "f17eeee216a27617584103785e0fc5a6c204f2f20fcff565dcf4ba4bbbe83eb2",
}
"""Revision → what the rules made of all of these values. Add a line with each revision."""


def verdicts(rules: Rules) -> list[Any]:
    """What becomes of a record that is sound but for one value, for each of these values."""
    found = []
    for column, values in COLUMNS.items():
        if column not in rules.columns:
            continue
        for value in values:
            data = rules.normalise(SOUND[rules] | {column: value})
            verdict = rules.judge(data)
            found.append([column, value, data, dict(verdict.errors), dict(verdict.warnings), verdict.reason_code])
    return found


def test_no_verdict_changes_without_a_new_revision() -> None:
    text = json.dumps([verdicts(rules) for rules in SOUND], sort_keys=True)
    assert VERDICTS.get(REVISION) == hashlib.sha256(text.encode()).hexdigest(), (
        "a verdict, a message or a normal form has changed. By code: raise REVISION, and add its line to VERDICTS. By"
        " company.toml or people.toml only: replace the hash"
    )


def test_the_version_changes_with_what_a_file_says_and_with_nothing_else() -> None:
    columns = {"name": "TEXT", "phone": "TEXT", "size": "INTEGER"}
    rules: list[dict[str, Any]] = [
        {"field": "name", "rule": "required", "message": "is empty"}, {"field": "phone", "rule": "phone", "region": "US"},
        {"field": "name", "rule": "placeholder", "words": ["test", "none"]},
    ]  # fmt: skip

    def version(columns: dict[str, str] = columns, **changes: dict[str, Any]) -> str:
        changed = [rule | changes.get(f"rule{number}", {}) for number, rule in enumerate(rules)]
        return rules_of(columns, *changed).version()

    assert len(version()) == 12
    backwards = [dict(reversed(rule.items())) for rule in rules]
    assert rules_of(dict(reversed(columns.items())), *backwards).version() == version(), (
        "the order of keys decides nothing"
    )
    assert version(rule0={"severity": "error"}) == version(), "nor does what is said that holds anyway"
    different = [
        version({**columns, "city": "TEXT"}), version({**columns, "size": "TEXT"}), version(rule0={"message": "is not there"}),
        version(rule0={"reason_code": "NONE"}), version(rule0={"severity": "warning"}), version(rule0={"or_zero": True}),
        version(rule1={"region": "DE"}), version(rule1={"field": "name"}), version(rule2={"words": ["test"]}),
        rules_of(columns, *reversed(rules)).version(), rules_of(columns, *rules[:2]).version(),
    ]  # fmt: skip
    assert len({version(), *different}) == len(different) + 1
    assert COMPANY.rules.version() != PEOPLE.rules.version()
