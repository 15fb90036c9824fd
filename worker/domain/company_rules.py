"""The rules for companies."""

from __future__ import annotations

from typing import ClassVar

from pydantic import StrictInt, field_validator
from pydantic_core import PydanticCustomError

from worker.domain.model import Data
from worker.domain.normalise import (
    BLANK_INSIDE,
    MAX_WEBSITE,
    USER_PART,
    WebAddress,
    fitting_domain,
    web_address,
    without_www,
)
from worker.domain.rules import PLACEHOLDERS, RecordRules, Text

WEBSITE_PLACEHOLDERS = frozenset({"test", "n/a", "none", "null", "test.com", "example.com"})


MIN_COMPANY_NAME = 2  # characters


class CompanyRules(RecordRules):
    """The rules for companies.

    A negative ``employee_count`` passes: no rule here speaks of it, the master table's own CHECK does.
    """

    company_name: Text = None
    domain: Text = None
    industry: Text = None
    employee_count: StrictInt | None = None
    website: Text = None
    phone: Text = None
    address: Text = None
    city: Text = None
    state: Text = None
    zip: Text = None

    phone_fields: ClassVar = ("phone",)
    warn_when_missing: ClassVar = {
        "industry": "is missing: enter the line of business if you can find it",
        "employee_count": "is missing or zero: enter how many people work there if you can find it",
        "phone": "is missing: enter the main phone number if you can find it",
    }

    @classmethod
    def normalise(cls, data: Data) -> Data:
        """Give a bare host ``https://``; take ``domain`` from the website where it is empty or does not fit.

        ``domain`` stays untouched where the website is refused: nothing better is known.
        """
        tidy = super().normalise(data)
        if address := web_address(tidy.get("website")):
            tidy["website"] = address.text
            if "domain" in tidy and not _stands_for_nothing(address):
                tidy["domain"] = fitting_domain(tidy["domain"], address.host)
        return tidy

    @field_validator("company_name")
    @classmethod
    def _company_name(cls, name: Text) -> Text:
        if not name:
            raise PydanticCustomError("EMPTY_COMPANY_NAME", "is empty: enter the company's name")
        if name.casefold() in PLACEHOLDERS:
            message = f"is a placeholder ({name}): enter the company's real name"
            raise PydanticCustomError("PLACEHOLDER_COMPANY_NAME", message)
        if len(name) < MIN_COMPANY_NAME:
            raise PydanticCustomError("SHORT_COMPANY_NAME", "is too short: enter the company's full name")
        return name

    @field_validator("website")
    @classmethod
    def _website(cls, website: Text) -> Text:
        if not website:
            raise PydanticCustomError("EMPTY_WEBSITE", "empty or blank")
        address = web_address(website)
        if word := _stands_for_nothing(address) if address else _placeholder(website):
            message = f"is a placeholder ({word}): enter the company's real web address"
            raise PydanticCustomError("PLACEHOLDER_WEBSITE", message)
        if not address:
            raise PydanticCustomError("INVALID_WEBSITE", _why_no_web_address(website))
        return website


def _stands_for_nothing(address: WebAddress) -> str | None:
    """The placeholder that an address is: ``https://www.test.com/`` is as empty as ``test.com``."""
    word = without_www(address.host.ascii)
    return word if word in WEBSITE_PLACEHOLDERS else None


def _placeholder(website: str) -> str | None:
    """The placeholder that a website is which is no address."""
    word = website.casefold().removeprefix("https://").removeprefix("http://").rstrip("/")
    return word if word in WEBSITE_PLACEHOLDERS else None


def _why_no_web_address(website: str) -> str:
    if len(website) > MAX_WEBSITE:
        return f"is longer than {MAX_WEBSITE} characters: enter the address of the home page"
    if BLANK_INSIDE.search(website):
        return "contains a blank or an invisible character: enter one web address, without blanks"
    if USER_PART.match(website):
        return "is an e-mail address or holds a user name: enter one such as https://www.company.com"
    return "is no web address: enter one such as https://www.company.com"
