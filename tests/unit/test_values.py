"""Awkward values: what the table in test_rules.py leaves open. SPEC 4."""

from __future__ import annotations

import re
from itertools import product
from random import Random
from typing import Any

import pytest
from declared import COMPANY, PEOPLE, rules_of
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain import normalise
from worker.domain.normalise import host_name, split_name, trim
from worker.domain.rule_compiler import Rules

FIRM = {"company_name": "Alder Works", "website": "https://alder.example"}
PERSON = {"full_name": "Robin Alder", "email": "robin@alder.example"}


def judged(rules: Rules, **fields: Any) -> Any:
    base = FIRM if rules is COMPANY.rules else PERSON
    return rules.judge(rules.normalise({**base, **fields}))


@pytest.mark.parametrize("word", ["test", "TEST", "n/a", "N/A", "none", "Null", "test.com", "Example.COM",
                                  "http://n/a", "https://none/", "https://WWW.TEST.COM/contact", "ｔｅｓｔ.com"])  # fmt: skip
def test_a_placeholder_website_is_named_as_one(word: str) -> None:
    assert judged(COMPANY.rules, website=word).reason_code == "PLACEHOLDER_WEBSITE"


@pytest.mark.parametrize("website", ["alder.example:65535", "alder.example:1/x", "https://alder.example/@me",
                                     "alder.example?mail=a@b.example", "r3---sn-a.alder.example", "test.com.au",
                                     "https://faß.example", "https://shop.example.com"])  # fmt: skip
def test_an_unusual_web_address_passes(website: str) -> None:
    assert judged(COMPANY.rules, website=website).passed


@pytest.mark.parametrize("website", ["alder.example:65536", "https://alder.example:", "127.0.0.1", "0x7f.0x1",
                                     "https:\\\\alder.example", "https://https://alder.example", "http//alder.example",
                                     "a.example,b.example", "mailto:info@alder.example", "xn--zz--.example",
                                     "a_b.example", "x" * 64 + ".example", "alder.c", "https://alder\u200b.example"])  # fmt: skip
def test_what_is_no_web_address_is_refused(website: str) -> None:
    assert judged(COMPANY.rules, website=website).reason_code == "INVALID_WEBSITE"


HOSTS = ["alder.example", "Alder.example", "www.alder.example", "xn--fa-hia.example", "a.b-c.d.example", "-a.example",
         "a..example", "a" * 63 + ".example", ".".join(["a" * 63] * 4) + ".example", "alder.example.", "alder", "1.2.3.4"]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_plain_web_address_is_read_as_any_other(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = normalise._web_address.__wrapped__
    ways = [
        f"{scheme}{host}{port}{rest}"
        for scheme in ("", "http://", "https://", "HTTPS://", "ftp://")
        for port in ("", ":80", ":0", ":99999")
        for rest in ("", "/", "/a/B?c=d@e#f", "?a=b", "/a b", "/\u200b", "/é")
    ]
    at_once = {way: read(way) for way in ways}
    monkeypatch.setattr(normalise, "_PLAIN_URL", re.compile("(?!)"))
    assert at_once == {way: read(way) for way in ways}
    assert host != "alder.example" or sum(address is not None for address in at_once.values()) > 20


def test_a_long_website_says_that_it_is_too_long() -> None:
    assert (
        "longer than 2048" in judged(COMPANY.rules, website="https://alder.example/" + "x" * 10_000).errors["website"]
    )


def test_braces_in_a_value_are_no_template() -> None:
    assert judged(COMPANY.rules, website="{a} {0}").reason_code == "INVALID_WEBSITE"


@pytest.mark.parametrize("domain", [5, ["a"], True])
def test_a_domain_of_the_wrong_type_is_an_error_and_not_replaced(domain: Any) -> None:
    verdict = judged(COMPANY.rules, domain=domain)
    assert (verdict.reason_code, set(verdict.errors)) == ("INVALID_DOMAIN", {"domain"})


def test_a_placeholder_website_does_not_replace_the_domain() -> None:
    assert COMPANY.rules.normalise({"website": "test.com", "domain": "alder.example"})["domain"] == "alder.example"


@pytest.mark.parametrize(("domain", "website", "kept"), [
    ("bücher.example", "https://xn--bcher-kva.example", "bücher.example"),
    ("info@alder.example", "https://alder.example", "alder.example"),
    ("shop.alder.example", "https://alder.example", "alder.example"),
    (None, "www.www.alder.example", "alder.example"),
])  # fmt: skip
def test_the_domain_fits_or_follows_the_website(domain: str | None, website: str, kept: str) -> None:
    assert COMPANY.rules.normalise({"domain": domain, "website": website})["domain"] == kept


def test_columns_the_record_does_not_have_are_not_added() -> None:
    assert COMPANY.rules.normalise({"website": "alder.example"}) == {"website": "https://alder.example"}
    assert PEOPLE.rules.normalise({"full_name": "Robin Alder"}) == {"full_name": "Robin Alder"}


def test_the_given_record_is_not_changed() -> None:
    given_record = {"website": " alder.example ", "domain": None}
    COMPANY.rules.normalise(given_record)
    assert given_record == {"website": " alder.example ", "domain": None}


@pytest.mark.parametrize("phone", ["304-293-0100 x12", "01 42 68 53 00", "293-0100"])
def test_a_phone_that_e164_would_falsify_stays_as_typed(phone: str) -> None:
    assert COMPANY.rules.normalise({"phone": phone})["phone"] == phone


def test_the_phone_region_is_the_rules_to_set() -> None:
    french = rules_of({"phone": "TEXT"}, {"field": "phone", "rule": "phone", "region": "FR"})
    assert french.normalise({"phone": "01 42 68 53 00"})["phone"] == "+33142685300"


@pytest.mark.parametrize("count", ["12", 12.0, True, [12]])
def test_a_count_is_a_json_whole_number_and_its_error_is_no_warning_too(count: Any) -> None:
    verdict = judged(COMPANY.rules, employee_count=count)
    assert verdict.reason_code == "INVALID_EMPLOYEE_COUNT"
    assert "employee_count" not in verdict.warnings


@pytest.mark.parametrize(("rules", "field", "code"), [
    (COMPANY.rules, "website", "INVALID_WEBSITE"), (PEOPLE.rules, "email", "INVALID_EMAIL"),
])  # fmt: skip
def test_a_lone_surrogate_is_refused_where_it_matters_and_never_raises(rules: Any, field: str, code: str) -> None:
    assert judged(rules, **{field: "\ud800a@alder.example"}).reason_code == code
    assert judged(rules, phone="\ud800", city="\ud800").passed


@pytest.mark.parametrize("email", ["robin@alder.test", "robin@alder.local", "rübin@alder.example", "a@[192.0.2.1]",
                                   '"a@b"@alder.example', "x" * 65 + "@alder.example"])  # fmt: skip
def test_an_unusual_rfc_5322_address_passes(email: str) -> None:
    assert judged(PEOPLE.rules, email=email).passed


@pytest.mark.parametrize("email", ["n/a", "Robin <robin@alder.example>", "robin.@alder.example", "@alder.example",
                                   "robin@[300.0.0.1]", "robin@alder..example", "a" * 250 + "@alder.example"])  # fmt: skip
def test_what_is_no_rfc_5322_address_is_refused(email: str) -> None:
    assert judged(PEOPLE.rules, email=email).reason_code == "INVALID_EMAIL"


def test_the_length_of_an_email_is_that_of_its_octets() -> None:
    host = ".".join(["ü" * 40] * 3) + ".example"
    assert host_name(host) is not None, "DNS takes it"
    assert normalise.is_email(f"robin@{host}") is False, "254 octets at most: RFC 5321, and these are as many letters"
    assert normalise.is_email(f"robin@{host.replace('ü', 'u')}")


def test_only_the_domain_of_an_email_is_lower_cased() -> None:
    assert PEOPLE.rules.normalise({"email": " Robin@ALDER.Example\u00a0"})["email"] == "Robin@alder.example"


@pytest.mark.parametrize(("full", "expected"), [
    ("Robin Alder Jr.", ("Robin", "Alder Jr.")), ("Robin Alder, PhD", ("Robin", "Alder PhD")),
    ("van Dam, Anna Maria", ("Anna Maria", "van Dam")), ("Jr.", ("Jr.", None)), ("", (None, None)),
    ("Dam,", ("Dam", None)),
])  # fmt: skip
def test_suffixes_and_turned_names_are_split(full: str, expected: tuple[str | None, str | None]) -> None:
    assert split_name(full) == expected


def test_a_full_name_that_is_the_last_name_gives_no_first_name() -> None:
    names = {"full_name": "Alder", "first_name": None, "last_name": "Alder"}
    assert PEOPLE.rules.normalise(names) == names


def test_a_placeholder_is_not_spread_to_the_other_names() -> None:
    names = {"full_name": "N/A", "first_name": None, "last_name": None}
    assert PEOPLE.rules.normalise(names) == names


NEAR_ADDRESSES = "aAwW.-:/@[]#? xn8ß。İéبд\u0308\u200b\u200c\u00ad"
HOSTISH = st.text(st.sampled_from(NEAR_ADDRESSES), max_size=30)


def assert_normalising_is_done_with_once(text: str, domain: str) -> None:
    for rules, record in (
        (COMPANY.rules, {"website": text, "domain": domain, "phone": text}),
        (PEOPLE.rules, {"email": text, "full_name": domain, "first_name": None, "last_name": None}),
    ):
        once = rules.normalise(record)
        assert rules.normalise(once) == once
        assert list(once) == list(record)
        verdict = rules.judge(once)
        assert verdict.passed == (verdict.reason_code is None)


@settings(deadline=None)
@given(HOSTISH | HOSTISH.map("https://www.".__add__) | HOSTISH.map("a@".__add__), HOSTISH)
def test_normalising_near_addresses_twice_is_the_same_as_once(text: str, domain: str) -> None:
    assert_normalising_is_done_with_once(text, domain)


def test_normalising_a_thousand_near_addresses_twice_is_the_same_as_once() -> None:
    """The same ones in every run: ten times as many for the time that a hundred take to be searched for."""
    draw = Random(0)
    for number in range(1000):
        text, domain = ("".join(draw.choices(NEAR_ADDRESSES, k=draw.randrange(31))) for _ in range(2))
        assert_normalising_is_done_with_once(("", "https://www.", "a@")[number % 3] + text, domain)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=40))
def test_a_host_name_is_its_own_host_name(text: str) -> None:
    if host := host_name(text):
        assert host_name(host.shown) == host
    assert trim(trim(text)) == trim(text)


def _both_ways(phone: str, region: str) -> tuple[str, str]:
    """What the short way makes of a phone number, and what the library does."""
    with pytest.MonkeyPatch.context() as patch:
        short = normalise.e164.__wrapped__(phone, region)
        patch.setattr(normalise, "_NORTH_AMERICAN", re.compile("(?!)"))
        return short, normalise.e164.__wrapped__(phone, region)


@settings(max_examples=50, deadline=None)
@given(st.from_regex(normalise._NORTH_AMERICAN, fullmatch=True), st.sampled_from(["US", "DE"]))
def test_the_short_way_for_phones_is_the_librarys(phone: str, region: str) -> None:
    short, long_way = _both_ways(phone, region)
    assert short == long_way


def test_the_short_way_is_the_librarys_for_every_area_code_and_way_of_writing() -> None:
    ways = list(
        product(["", "+1", "+1-", "+1.", "+1 "], ["", "("], ["", ")"], ["", "-", ".", " "], ["", "-", ".", " "])
    )
    digits = Random(0)
    compared = 0
    for number in range(1000):
        country, opened, closed, first, second = ways[number % len(ways)]
        exchange, line = digits.randrange(1000), digits.randrange(10_000)
        phone = f"{country}{opened}{number:03}{closed}{first}{exchange:03}{second}{line:04}"
        if normalise._NORTH_AMERICAN.fullmatch(phone):
            compared += 1
            short, long_way = _both_ways(phone, ("US", "DE")[number // len(ways) % 2])
            assert short == long_way, phone
    assert compared == 800
