"""The version of the rules: what changes it, and that no verdict changes without it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from worker.domain.company_rules import CompanyRules
from worker.domain.people_rules import PeopleRules
from worker.domain.rules import RecordRules
from worker.entities.company import COMPANY
from worker.entities.people import PEOPLE

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
SOUND: dict[type[RecordRules], dict[str, Any]] = {
    CompanyRules: {"company_name": "Alder Works", "website": "alder.example", "domain": None},
    PeopleRules: {"full_name": "Kim Beech", "first_name": None, "last_name": None, "email": "kim@alder.example"},
}
VERDICTS = {
    "1": "df38d21ee4abdf072327a3bf998d28e0865abffcb9d3b594ec49a279712276ac",
    "2": "f17eeee216a27617584103785e0fc5a6c204f2f20fcff565dcf4ba4bbbe83eb2",
}
"""Revision → what the rules made of all of these values. Add a line with each revision."""


def verdicts(rules: type[RecordRules]) -> list[Any]:
    """What becomes of a record that is sound but for one value, for each of these values."""
    found = []
    for column, values in COLUMNS.items():
        if column not in rules.model_fields:
            continue
        for value in values:
            data = rules.normalise(SOUND[rules] | {column: value})
            verdict = rules.judge(data)
            found.append([column, value, data, dict(verdict.errors), dict(verdict.warnings), verdict.reason_code])
    return found


def test_no_verdict_changes_without_a_new_revision() -> None:
    text = json.dumps([verdicts(rules) for rules in SOUND], sort_keys=True)
    assert {CompanyRules.revision, PeopleRules.revision} == {RecordRules.revision}
    assert VERDICTS.get(RecordRules.revision) == hashlib.sha256(text.encode()).hexdigest(), (
        "a verdict, a message or a normal form has changed: raise RecordRules.revision, and add its line to VERDICTS"
    )


def test_the_version_changes_with_what_the_rules_declare() -> None:
    assert CompanyRules.version() == COMPANY.rules.version() != PEOPLE.rules.version() == PeopleRules.version()
    assert len(CompanyRules.version()) == 12

    def other(**body: Any) -> str:
        made = type("CompanyRules", (CompanyRules,), {"__module__": __name__, "__qualname__": "CompanyRules", **body})
        return str(made.version())

    assert other() == CompanyRules.version(), "where the code lies makes no difference"
    different = [
        {"phone_region": "DE"}, {"revision": "another"}, {"phone_fields": ()}, {"warn_when_missing": {"city": "is missing"}},
        {"city": None, "__annotations__": {"city": int | None}}, {"__qualname__": "Stricter"},
    ]  # fmt: skip
    versions = {other(**body) for body in different}
    assert len(versions) == len(different)
    assert CompanyRules.version() not in versions
