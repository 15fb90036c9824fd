"""The rules, one table of cases each: SPEC 4."""

from __future__ import annotations

from typing import Any

import pytest
from declared import COMPANY, PEOPLE, rules_of
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.model import Data
from worker.domain.normalise import split_name
from worker.domain.steps import Verdict

GOOD_COMPANY: Data = {
    **dict.fromkeys(COMPANY.columns),
    "company_name": "Alder Works",
    "website": "https://alder.example",
    "industry": "Timber",
    "employee_count": 12,
    "phone": "+13042930100",
}
GOOD_PERSON: Data = {
    **dict.fromkeys(PEOPLE.columns),
    "full_name": "Robin Alder",
    "email": "robin@alder.example",
    "title": "Owner",
    "phone": "+13042930100",
    "linkedin_url": "https://www.linkedin.com/in/robin",
}


def company(**fields: Any) -> Verdict:
    return COMPANY.rules.judge(COMPANY.rules.normalise({**GOOD_COMPANY, **fields}))


def person(**fields: Any) -> Verdict:
    return PEOPLE.rules.judge(PEOPLE.rules.normalise({**GOOD_PERSON, **fields}))


def test_a_good_record_passes_without_a_warning() -> None:
    assert company() == Verdict({}, {})
    assert person() == Verdict({}, {})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (None, "EMPTY_COMPANY_NAME"),
        ("", "EMPTY_COMPANY_NAME"),
        ("   ", "EMPTY_COMPANY_NAME"),
        ("\u00a0\u00a0", "EMPTY_COMPANY_NAME"),
        ("\u200b\ufeff", "EMPTY_COMPANY_NAME"),
        ("A", "SHORT_COMPANY_NAME"),
        (" A\u00a0", "SHORT_COMPANY_NAME"),
        ("é", "SHORT_COMPANY_NAME"),
        ("test", "PLACEHOLDER_COMPANY_NAME"),
        ("Example", "PLACEHOLDER_COMPANY_NAME"),
        (" N/A ", "PLACEHOLDER_COMPANY_NAME"),
        ("NONE", "PLACEHOLDER_COMPANY_NAME"),
        ("null", "PLACEHOLDER_COMPANY_NAME"),
        ("3M", None),
        ("株式", None),
        ("Testaments Ltd", None),
        ("No. 1 {braces}", None),
        ("x" * 10_000, None),
        (17, "INVALID_COMPANY_NAME"),
        (["Alder"], "INVALID_COMPANY_NAME"),
    ],
)
def test_company_name(name: Any, code: str | None) -> None:
    verdict = company(company_name=name)
    assert verdict.reason_code == code
    assert set(verdict.errors) == ({"company_name"} if code else set())


@pytest.mark.parametrize(
    ("website", "code"),
    [
        (None, "EMPTY_WEBSITE"),
        (" \u00a0\t", "EMPTY_WEBSITE"),
        ("test", "PLACEHOLDER_WEBSITE"),
        ("N/A", "PLACEHOLDER_WEBSITE"),
        ("none", "PLACEHOLDER_WEBSITE"),
        ("Null", "PLACEHOLDER_WEBSITE"),
        ("test.com", "PLACEHOLDER_WEBSITE"),
        ("HTTP://Example.COM", "PLACEHOLDER_WEBSITE"),
        ("https://www.test.com/", "PLACEHOLDER_WEBSITE"),
        ("alder", "INVALID_WEBSITE"),
        ("https://alder", "INVALID_WEBSITE"),
        ("localhost", "INVALID_WEBSITE"),
        ("not a website", "INVALID_WEBSITE"),
        ("https://alder works.example", "INVALID_WEBSITE"),
        ("-bad-.com", "INVALID_WEBSITE"),
        ("a..b.com", "INVALID_WEBSITE"),
        (".com", "INVALID_WEBSITE"),
        ("alder.example..", "INVALID_WEBSITE"),
        ("https://192.168.0.1", "INVALID_WEBSITE"),
        ("https://[::1]/", "INVALID_WEBSITE"),
        ("ftp://alder.example", "INVALID_WEBSITE"),
        ("javascript:alert(1)", "INVALID_WEBSITE"),
        ("https://user:pw@alder.example", "INVALID_WEBSITE"),
        ("info@alder.example", "INVALID_WEBSITE"),
        ("https://alder.example:0", "INVALID_WEBSITE"),
        ("https://alder.example:99999", "INVALID_WEBSITE"),
        ("https://alder.example/\x07", None),
        ("https://al\x07der.example/", "INVALID_WEBSITE"),
        ("a" * 10_000, "INVALID_WEBSITE"),
        ("https://" + "a." * 5_000 + "example", "INVALID_WEBSITE"),
        (17, "INVALID_WEBSITE"),
        ("https://alder.example:8443/shop?q=ü#top", None),
        ("alder.example", None),
        ("sub.alder.example/path", None),
        ("alder.example.", None),
        ("https://bücher.example", None),
        ("https://xn--bcher-kva.example", None),
        ("https://مثال.إختبار", None),
        ("https://test.com.au", None),
    ],
)
def test_website(website: Any, code: str | None) -> None:
    assert company(website=website).reason_code == code


def test_an_empty_website_says_what_the_intake_says() -> None:
    assert company(website=" ").errors == {"website": "empty or blank"}


def test_a_message_says_what_to_do_and_stays_short() -> None:
    for website in ("my page", "my page " * 1000, "info@alder.example"):
        message = company(website=website).errors["website"]
        assert ": enter " in message
        assert len(message) < 200


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (" alder.example ", "https://alder.example"),
        ("Alder.Example/Shop", "https://alder.example/Shop"),
        ("HTTP://Alder.EXAMPLE", "http://alder.example"),
        ("alder.example.", "https://alder.example"),
        ("BÜCHER.example", "https://bücher.example"),
        ("n/a", "n/a"),
        ("Not a site", "Not a site"),
        ("", None),
    ],
)
def test_website_is_normalised(typed: str, kept: str | None) -> None:
    assert COMPANY.rules.normalise({"website": typed})["website"] == kept


@pytest.mark.parametrize(
    ("domain", "website", "kept"),
    [
        (None, "https://www.alder.example/shop", "alder.example"),
        ("old.example", "https://alder.example", "alder.example"),
        ("alder.example", "https://shop.alder.example", "alder.example"),
        ("WWW.Alder.example", "https://alder.example", "alder.example"),
        ("https://alder.example/x", "https://alder.example", "alder.example"),
        ("lder.example", "https://alder.example", "alder.example"),
        ("old.example", "n/a", "old.example"),
        ("old.example", None, "old.example"),
        (None, "https://www.com", "www.com"),
    ],
)
def test_domain_follows_the_website(domain: str | None, website: str | None, kept: str | None) -> None:
    assert COMPANY.rules.normalise({"domain": domain, "website": website})["domain"] == kept


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("(304) 293-0100", "+13042930100"),
        ("304.293.0100", "+13042930100"),
        ("+49 30 901820", "+4930901820"),
        ("(304) 555-0142", "+13045550142"),
        ("555-123-4567", "+15551234567"),
        ("304-293-0100 ext. 5", "304-293-0100 ext. 5"),
        ("call me", "call me"),
        ("911", "911"),
        ("1" * 10_000, "1" * 10_000),
        (" ", None),
    ],
)
def test_phones_go_to_e164_where_they_can(typed: str, kept: str | None) -> None:
    assert COMPANY.rules.normalise({"phone": typed})["phone"] == kept
    assert PEOPLE.rules.normalise({"phone": typed})["phone"] == kept


def test_company_warnings() -> None:
    assert set(company(industry=None, employee_count=None, phone=" ").warnings) == {
        "industry", "employee_count", "phone",
    }  # fmt: skip
    assert set(company(employee_count=0).warnings) == {"employee_count"}


def test_people_warnings() -> None:
    assert set(person(title=None, phone=None, linkedin_url="").warnings) == {"title", "phone", "linkedin_url"}


def test_a_negative_count_is_left_to_the_master_table() -> None:
    assert company(employee_count=-5).passed


def test_a_count_that_is_no_number_is_an_error() -> None:
    assert company(employee_count="many").reason_code == "INVALID_EMPLOYEE_COUNT"


def test_the_reason_is_the_first_error_in_the_order_of_the_rules() -> None:
    verdict = company(website=None, company_name="A")
    assert list(verdict.errors) == ["company_name", "website"]
    assert verdict.reason_code == "SHORT_COMPANY_NAME"
    verdict = person(email=None, full_name="x")
    assert list(verdict.errors) == ["full_name", "email"]
    assert verdict.reason_code == "EMPTY_FULL_NAME"


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ({"full_name": None}, "EMPTY_FULL_NAME"),
        ({"full_name": "\u00a0"}, "EMPTY_FULL_NAME"),
        ({"full_name": "Al"}, "EMPTY_FULL_NAME"),
        ({"full_name": None, "first_name": "Robin"}, "EMPTY_FULL_NAME"),
        ({"full_name": "Bob"}, None),
        ({"full_name": None, "first_name": "A", "last_name": "B"}, None),
        ({"full_name": "TEST"}, "PLACEHOLDER_FULL_NAME"),
        ({"full_name": "Robin Alder", "last_name": "n/a"}, "PLACEHOLDER_FULL_NAME"),
        ({"full_name": None, "first_name": "none", "last_name": "Alder"}, "PLACEHOLDER_FULL_NAME"),
        ({"full_name": "Nonette Testa"}, None),
        ({"full_name": "李小龍"}, None),
        ({"full_name": "x" * 10_000}, None),
    ],
)
def test_full_name(names: Data, code: str | None) -> None:
    assert person(**names).reason_code == code


@pytest.mark.parametrize(
    ("full", "first", "last"),
    [
        ("Robin Alder", "Robin", "Alder"),
        ("Anna van Dam", "Anna van", "Dam"),
        ("Dam, Anna", "Anna", "Dam"),
        ("Anna\u00a0Dam", "Anna", "Dam"),
        ("Cher", "Cher", None),
        (" , ", None, None),
    ],
)
def test_a_full_name_is_split(full: str, first: str | None, last: str | None) -> None:
    assert split_name(full) == (first, last)


def test_missing_parts_of_a_name_come_from_the_whole_and_given_ones_stay() -> None:
    data = {"full_name": "Robin Alder", "first_name": None, "last_name": "Birch"}
    assert PEOPLE.rules.normalise(data) == {"full_name": "Robin Alder", "first_name": "Robin", "last_name": "Birch"}
    data = {"full_name": "", "first_name": "Robin", "last_name": "Birch"}
    assert PEOPLE.rules.normalise(data)["full_name"] == "Robin Birch"


@pytest.mark.parametrize(
    ("email", "code"),
    [
        (None, "EMPTY_EMAIL"),
        (" \ufeff", "EMPTY_EMAIL"),
        ("robin", "INVALID_EMAIL"),
        ("robin@", "INVALID_EMAIL"),
        ("robin@alder", "INVALID_EMAIL"),
        ("a@b@c.example", "INVALID_EMAIL"),
        ("robin alder@alder.example", "INVALID_EMAIL"),
        ("robin@-alder.example", "INVALID_EMAIL"),
        ("a" * 10_000 + "@alder.example", "INVALID_EMAIL"),
        ("Test@Test.com", "PLACEHOLDER_EMAIL"),
        ("example@example.com", "PLACEHOLDER_EMAIL"),
        ("N/A@n/a.com", "PLACEHOLDER_EMAIL"),
        (17, "INVALID_EMAIL"),
        ("robin.o'alder+x@alder.example", None),
        ('"robin alder"@alder.example', None),
        ("robin@bücher.example", None),
        ("robin@alder.invalid", None),
        ("robin@shop.local", None),
    ],
)
def test_email(email: Any, code: str | None) -> None:
    assert person(email=email).reason_code == code


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
# What is inside what is inside: `st.recursive` takes twice as long, and draws a text in one value of twenty-five.
LISTS = st.lists(SCALARS | st.lists(SCALARS, max_size=2), max_size=2)
DICTIONARIES = st.dictionaries(st.text(max_size=5), SCALARS | st.lists(SCALARS, max_size=2), max_size=2)
JSON = st.one_of(SCALARS, SCALARS, SCALARS, LISTS, DICTIONARIES)
TEXT = st.one_of(
    st.none(),
    st.text(),
    st.sampled_from(
        ["www.www.a.example", "A.example.", " n/a", "304 293 0100", "Dam, Anna", "x@Y.example", "Https://É.example"]
    ),
)


@pytest.mark.parametrize("entity", [COMPANY, PEOPLE], ids=lambda entity: entity.name)
@given(data=st.data())
def test_rules_never_raise_whatever_the_values(entity, data: st.DataObject) -> None:
    record = {name: data.draw(JSON) for name in entity.columns}
    verdict = entity.rules.judge(entity.rules.normalise(record))
    assert verdict.passed == (verdict.reason_code is None)


@pytest.mark.parametrize("entity", [COMPANY, PEOPLE], ids=lambda entity: entity.name)
@given(data=st.data())
def test_normalising_twice_is_the_same_as_once_and_keeps_the_columns(entity, data: st.DataObject) -> None:
    record = {name: data.draw(TEXT) for name in entity.columns}
    once = entity.rules.normalise(record)
    assert entity.rules.normalise(once) == once
    assert set(once) == set(record)


def test_a_third_entitys_rules_need_only_their_fields() -> None:
    shop = rules_of({"label": "TEXT", "floor_area": "INTEGER"}, {"field": "floor_area", "rule": "required"})
    assert shop.normalise({"label": " \u00a0x "}) == {"label": "x"}
    assert shop.judge({"floor_area": 3}).passed
    assert shop.judge({}).reason_code == "EMPTY_FLOOR_AREA"
    verdict = shop.judge({"floor_area": "wide"})
    assert verdict.reason_code == "INVALID_FLOOR_AREA"
    assert set(verdict.errors) == {"floor_area"}


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("(3O4) 555-O1O1", "(3O4) 555-O1O1"), ("3o4-555-0101", "3o4-555-0101"), ("304-555-OIOI", "304-555-OIOI"),
        ("304 555 OOOO", "304 555 OOOO"), ("3A4B5C5D0E", "3A4B5C5D0E"), ("l304 555 0101", "+13045550101"),
        ("1-800-FLOWERS", "+18003569377"), ("1-800-GO-FEDEX", "+18004633339"), ("304-555-CALL", "+13045552255"),
        ("1111111111", "1111111111"), ("0000000000", "0000000000"), ("(104) 555-0101", "(104) 555-0101"),
        ("+1 104 555 0101", "+1 104 555 0101"), ("+1 (304) 555-0101", "+13045550101"),
        ("(304) 555-0101 x12", "(304) 555-0101 x12"), ("304 555 0101 ext. 5", "304 555 0101 ext. 5"),
    ],
)  # fmt: skip
def test_only_what_can_be_dialled_goes_to_e164(typed: str, kept: str) -> None:
    assert PEOPLE.rules.normalise({"phone": typed})["phone"] == kept
    assert COMPANY.rules.normalise({"phone": typed})["phone"] == kept


@pytest.mark.parametrize(
    "phone",
    ["(3O4) 555-O1O1", "1111111111", "+11111111111", "12", "call me", "5" * 300, "+12025550", "+1202555012345",
     "+99912345678"],
)  # fmt: skip
def test_a_phone_that_nobody_can_dial_is_a_warning(phone: str) -> None:
    assert set(company(phone=phone).warnings) == set(person(phone=phone).warnings) == {"phone"}
    assert company(phone=phone).passed
    assert person(phone=phone).passed


@pytest.mark.parametrize("phone", ["+13045550101", "+442079460958", "(304) 555-0101 x12", "1-800-FLOWERS"])
def test_a_phone_with_an_extension_or_a_word_is_none(phone: str) -> None:
    assert not company(phone=phone).warnings
    assert not person(phone=phone).warnings


@pytest.mark.parametrize("word", ["N/A", "n/a", " None ", "NULL", "test", "Example"])
@pytest.mark.parametrize(
    ("rules", "field"),
    [(COMPANY.rules, "phone"), (COMPANY.rules, "industry"), (PEOPLE.rules, "title"), (PEOPLE.rules, "phone"),
     (PEOPLE.rules, "linkedin_url")],
)  # fmt: skip
def test_a_placeholder_in_a_field_that_only_warns_counts_as_missing(rules, field: str, word: str) -> None:
    data = rules.normalise({field: word})
    assert data[field] is None
    assert field in rules.judge(data).warnings


@pytest.mark.parametrize(
    ("typed", "passes"),
    [
        ("my_site.example.com", True), ("https://_dmarc.a_b.example.org/x", True), ("my_site.müller.example", True),
        ("my_site.com", False), ("www.my_site.com", False), ("my.site_.com", False), ("a.b_c", False), ("_.com", False),
    ],
)  # fmt: skip
def test_an_underscore_passes_in_a_label_before_the_domain(typed: str, passes: bool) -> None:
    assert company(website=typed).passed is passes


def test_no_mail_goes_to_a_host_with_an_underscore() -> None:
    assert not person(email="ana@my_site.example.com").passed


def name(full: str | None, first: str | None, last: str | None) -> dict[str, str | None]:
    return {"full_name": full, "first_name": first, "last_name": last}


@pytest.mark.parametrize(
    ("typed", "edited", "becomes"),
    [
        (name("Vincent van Gogh", "Vincent", None), (), name("Vincent van Gogh", "Vincent", "van Gogh")),
        (name("Vincent van Gogh", None, "van Gogh"), (), name("Vincent van Gogh", "Vincent", "van Gogh")),
        (name("Vincent van Gogh", "Vincent", "Gogh"), ("full_name",), name("Vincent van Gogh", "Vincent", "van Gogh")),
        (name("Ana Smith", "Bob", "Jones"), ("full_name",), name("Ana Smith", "Ana", "Smith")),
        (name("Smith, Ana", "Bob", "Jones"), ("full_name",), name("Smith, Ana", "Ana", "Smith")),
        (name("Bob Jones", "Bob", "Smith"), ("last_name",), name("Bob Smith", "Bob", "Smith")),
        (name("Bob Jones", "Robert", "Jones"), ("first_name",), name("Robert Jones", "Robert", "Jones")),
        (name("Bob Jones", "Robert", None), ("first_name",), name("Robert Jones", "Robert", "Jones")),
        (name("Bob Jones", "Bob", None), ("last_name",), name("Bob", "Bob", None)),
        (name("Bob Jones", "Ana", "Smith"), ("first_name", "last_name"), name("Ana Smith", "Ana", "Smith")),
        (name(None, "Ana", "Smith"), ("full_name",), name("Ana Smith", "Ana", "Smith")),
        (name("Ana B", "Eve", "C"), ("full_name", "first_name", "last_name"), name("Ana B", "Eve", "C")),
        (name("Ana B", "Eve", "C"), ("email",), name("Ana B", "Eve", "C")),
        (name("Smith", None, "Smith"), ("last_name",), name("Smith", None, "Smith")),
        (name("Smith", "Anna", None), ("first_name",), name("Anna Smith", "Anna", "Smith")),
        (name("Anna", "Anna", None), ("first_name",), name("Anna", "Anna", None)),
        (name("n/a", "Anna", "Smith"), ("full_name",), name("n/a", "Anna", "Smith")),
        (name("X", "Anna", "Smith"), ("full_name",), name("X", "Anna", "Smith")),
        (name("Strauss Müller", "Strauß", None), (), name("Strauss Müller", "Strauß", "Müller")),
        (name("Anna Strauss", None, "Strauß"), (), name("Anna Strauss", "Anna", "Strauß")),
    ],
)  # fmt: skip
def test_of_a_name_and_its_parts_what_was_edited_counts(typed, edited, becomes) -> None:
    followed = PEOPLE.rules.normalise(PEOPLE.rules.follow(typed, frozenset(edited)))
    assert followed == becomes
    assert PEOPLE.rules.normalise(PEOPLE.rules.follow(followed, frozenset(edited))) == becomes, "twice is as once"


def test_the_first_rule_that_refuses_a_record_gives_its_reason_code_whatever_the_columns() -> None:
    rules = rules_of(
        {"a": "TEXT", "b": "TEXT", "c": "INTEGER"},
        {"field": "a", "rule": "required"},
        {"field": "a", "rule": "required", "severity": "warning"},
        {"field": "b", "rule": "required"},
        {"field": "a", "rule": "min_length", "length": 2},
    )
    assert rules.judge({"a": "x", "b": None}).reason_code == "EMPTY_B"
    assert rules.judge({"a": None, "b": None}).reason_code == "EMPTY_A"
    assert rules.judge({"a": "x", "b": "y", "c": "z"}).reason_code == "SHORT_A"
    assert rules.judge({"a": "xy", "b": "y", "c": "z"}).reason_code == "INVALID_C"


def test_a_placeholder_that_is_an_error_and_one_that_counts_as_missing_have_words_of_their_own() -> None:
    rules = rules_of(
        {"a": "TEXT"},
        {"field": "a", "rule": "placeholder", "words": ["bad"], "reason_code": "BAD"},
        {"field": "a", "rule": "placeholder", "words": ["worse"], "reason_code": "WORSE"},
        {"field": "a", "rule": "placeholder", "words": ["soft"], "severity": "warning"},
    )
    for typed, kept, code in (("bad", "bad", "BAD"), ("worse", "worse", "WORSE"), ("soft", None, None)):
        data = rules.normalise({"a": typed})
        assert (data["a"], rules.judge(data).reason_code) == (kept, code)


def test_two_rules_of_a_column_with_one_code_stand_at_their_own_places() -> None:
    rules = rules_of(
        {"x": "TEXT", "y": "TEXT"},
        {"field": "x", "rule": "starts_with", "text": "a"},
        {"field": "y", "rule": "required"},
        {"field": "x", "rule": "ends_with", "text": "z"},
    )
    assert rules.judge({"x": "ab", "y": None}).reason_code == "EMPTY_Y"
    assert rules.judge({"x": "bb", "y": None}).reason_code == "INVALID_X"
