"""Kinds of rules for what has a form of its own: placeholders, web and e-mail addresses, phones, people's names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import phonenumbers
from pydantic import AfterValidator, Field, model_validator

from worker.domain.model import Data
from worker.domain.normalise import BLANK_INSIDE, MAX_WEBSITE, USER_PART, can_be_dialled, is_email, web_address
from worker.domain.rule import MAX_CHARACTERS, ColumnRules, Rule, Test, Texts

PLACEHOLDERS = ("test", "example", "n/a", "none", "null")


class Placeholder(Rule):
    """Text is no placeholder, in any case. In a web address, its host is compared too; in a person's name, its parts.

    As a warning, a placeholder counts as missing: it is not carried.
    """

    rule: Literal["placeholder"]
    words: Texts = PLACEHOLDERS

    CODE = "PLACEHOLDER"

    @model_validator(mode="after")
    def _says_nothing_as_a_warning(self) -> Placeholder:
        if self.severity == "warning" and (self.message or self.reason_code):
            raise ValueError(
                "a placeholder that is a warning counts as missing, and says nothing itself: leave message and"
                " reason_code out, and add a rule `required` with the message"
            )
        return self

    def looks_at_missing(self, column: ColumnRules) -> bool:
        return column.first(PersonName) is not None

    def test(self, field: str, column: ColumnRules) -> Test:
        words = frozenset(word.casefold() for word in self.words)
        default = "is a placeholder ({value}): enter the real one"

        def plain(value: Any, _record: Data) -> str | None:
            if isinstance(value, str) and value.casefold() in words:
                return self._says(default, value)
            return None

        def web(value: Any, _record: Data) -> str | None:
            word = placeholder_address(value, words) if isinstance(value, str) else None
            return self._says(default, word) if word else None

        def name(value: Any, record: Data) -> str | None:
            for label, part in (("", value), *((f"{of.replace('_', ' ')} ", record.get(of)) for of in parts)):
                if isinstance(part, str) and part.casefold() in words:
                    return label + self._says(default, part)
            return None

        if column.first(WebAddress):
            return web
        if person := column.first(PersonName):
            parts = (person.first_name, person.last_name)
            return name
        return plain


def placeholders_of(column: ColumnRules) -> frozenset[str]:
    """The words that are placeholders in a column, in lower case."""
    return frozenset(word.casefold() for rule in column.rules if isinstance(rule, Placeholder) for word in rule.words)


def placeholder_address(website: str, words: frozenset[str]) -> str | None:
    """The placeholder that a web address is: ``https://www.test.com/`` is as empty as ``test.com``."""
    address = web_address(website)
    word = address.bare if address else website.casefold().removeprefix("https://").removeprefix("http://").rstrip("/")
    return word if word in words else None


class WebAddress(Rule):
    """A web address: http, https, or a bare host, which gets ``https://``. Nothing is looked up."""

    rule: Literal["web_address"]
    domain: str | None = None
    """A column that takes the host when it is empty or no longer fits."""

    def test(self, field: str, column: ColumnRules) -> Test:
        def test(value: Any, _record: Data) -> str | None:
            if not isinstance(value, str) or web_address(value):
                return None
            return self._says(_why_no_web_address(value), value)

        return test


def _why_no_web_address(website: str) -> str:
    if len(website) > MAX_WEBSITE:
        return f"is longer than {MAX_WEBSITE} characters: enter the address of the home page"
    if BLANK_INSIDE.search(website):
        return "contains a blank or an invisible character: enter one web address, without blanks"
    if USER_PART.match(website):
        return "is an e-mail address or holds a user name: enter one such as https://www.company.com"
    return "is no web address: enter one such as https://www.company.com"


class Email(Rule):
    """An RFC 5322 address whose domain has a dot. The domain goes to lower case."""

    rule: Literal["email"]

    def test(self, field: str, column: ColumnRules) -> Test:
        def test(value: Any, _record: Data) -> str | None:
            if not isinstance(value, str) or is_email(value):
                return None
            return self._says("is no e-mail address: enter one such as name@company.com", value)

        return test


def _region(code: str) -> str:
    if code not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"{code} is no region: use ISO 3166-1 alpha-2, such as US or DE")
    return code


class Phone(Rule):
    """A number that can be dialled. It goes to E.164 where it can be parsed, and stays as typed where not."""

    rule: Literal["phone"]
    region: Annotated[str, AfterValidator(_region)] = "US"
    """Where a number without country code is from: ISO 3166-1 alpha-2."""

    def test(self, field: str, column: ColumnRules) -> Test:
        said, region = "is no number that can be dialled: enter it with its area code, in digits", self.region

        def test(value: Any, _record: Data) -> str | None:
            if not isinstance(value, str) or can_be_dialled(value, region):
                return None
            return self._says(said, value)

        return test


class PersonName(Rule):
    """A full name, or both of its parts. What an enricher edits of a name and its parts counts; the others follow."""

    rule: Literal["person_name"]
    first_name: str
    last_name: str
    min_length: int = Field(3, ge=1, le=MAX_CHARACTERS)
    """Characters that a full name has, if a part is missing."""

    CODE = "EMPTY"

    def looks_at_missing(self, column: ColumnRules) -> bool:
        return True

    def test(self, field: str, column: ColumnRules) -> Test:
        said = self._says("is empty or too short: enter the first and the last name")
        first_name, last_name, least = self.first_name, self.last_name, self.min_length

        def test(value: Any, record: Data) -> str | None:
            if (value and len(value) >= least) or all(
                isinstance(part := record.get(name), str) and part for name in (first_name, last_name)
            ):
                return None
            return said

        return test
