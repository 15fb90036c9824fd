"""What makes a record good enough for the master table: normalisation and rules, one class an entity.

Pure: no I/O, no network, no clock. A rule is a field of a subclass of `RecordRules` with a validator that
raises ``PydanticCustomError(reason_code, message)``; a warning is an entry of ``warn_when_missing``.
Messages are read by enrichers next to the field's name: what is wrong, then what to do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from functools import cache
from importlib.metadata import version as installed
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from worker.domain.model import Data
from worker.domain.normalise import (
    BLANK_INSIDE,
    MAX_PHONE,
    MAX_WEBSITE,
    USER_PART,
    WebAddress,
    begins_with,
    can_be_dialled,
    e164,
    fitting_domain,
    host_name,
    is_email,
    name_parts,
    split_name,
    trim,
    web_address,
    without_www,
)
from worker.domain.steps import Verdict

Text = str | None

PLACEHOLDERS = frozenset({"test", "example", "n/a", "none", "null"})
WEBSITE_PLACEHOLDERS = frozenset({"test", "n/a", "none", "null", "test.com", "example.com"})
EMAIL_PLACEHOLDERS = frozenset({"test@test.com", "example@example.com", "n/a@n/a.com"})
NAME_FIELDS = ("full_name", "first_name", "last_name")
NOT_DIALABLE = "is no number that can be dialled: enter it with its area code, in digits"
MIN_COMPANY_NAME = 2  # characters
MIN_FULL_NAME = 3  # characters

_DECIDING = ("email-validator", "idna", "phonenumberslite")
"""Libraries whose release may change a verdict."""

# By the beginning of pydantic's error type.
_PLAIN_WORDS = {
    "string": "is not text: enter text",
    "int": "is not a whole number: enter digits only",
    "float": "is not a number: enter digits, with a point where needed",
    "decimal": "is not a number: enter digits, with a point where needed",
    "bool": "is neither true nor false: enter one of them",
    "date": "is not a date: enter it as year-month-day",
}


class RecordRules(BaseModel):
    """The rules of one entity. A subclass declares its fields in the order in which errors are reported.

    What a field's type or validator refuses is an error and blocks promotion. A ``PydanticCustomError``
    brings its reason code (in capitals) and message; whatever else is refused is ``INVALID_<FIELD>``.
    Columns that are not declared are carried as they are.
    """

    model_config = ConfigDict(extra="ignore", validate_default=True)

    revision: ClassVar[str] = "2"
    """To be raised with every change of a verdict, a message or a normal form that the code alone makes."""
    warn_when_missing: ClassVar[Mapping[str, str]] = {}
    """``{field: message}``: a warning where the field is empty or zero."""
    phone_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that go to E.164."""
    phone_region: ClassVar[str] = "US"
    """Where a phone number without country code is from: ISO 3166-1 alpha-2."""

    @classmethod
    @cache
    def version(cls) -> str:
        """The version of these rules: twelve hex digits that change whenever a verdict might. The ledger keeps it
        with each outcome.

        A hash of what the class declares, its ``revision``, and the versions of the libraries that decide: the same on
        every machine, and wherever the code lies.
        """
        fields = [f"{name} {field.annotation}" for name, field in cls.model_fields.items()]
        parts = [cls.__qualname__, cls.revision, *fields, *cls.phone_fields, cls.phone_region]
        parts += [f"{name} {message}" for name, message in cls.warn_when_missing.items()]
        parts += [f"{name} {installed(name)}" for name in _DECIDING]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    @classmethod
    def normalise(cls, data: Data) -> Data:
        """Return a new record with the same keys and tidied values. Idempotent.

        Text loses the blanks around it, blank text becomes None, phones go to E.164. Values of other types
        stay as they are.

        Args:
            data: JSON values by column name; not changed.
        """
        tidy = {name: trim(value) or None if isinstance(value, str) else value for name, value in data.items()}
        for name in cls.phone_fields:
            # Longer ones are no numbers, and not worth a place in the cache.
            if isinstance(phone := tidy.get(name), str) and len(phone) <= MAX_PHONE:
                tidy[name] = e164(phone, cls.phone_region)
        for name in cls.warn_when_missing:
            # A placeholder where only a warning would follow is as good as nothing.
            if isinstance(word := tidy.get(name), str) and word.casefold() in PLACEHOLDERS:
                tidy[name] = None
        return tidy

    @classmethod
    def follow(cls, data: Data, edited: Set[str]) -> Data:
        """Bring columns that say the same in line with those that the enricher edited.

        Args:
            data: JSON values by column name; not changed.
            edited: the columns whose value came from the enricher.
        """
        return data

    @classmethod
    def judge(cls, data: Data) -> Verdict:
        """Judge a normalised record; a missing key counts as empty. Never raises on a JSON value.

        Args:
            data: JSON values by column name, as `normalise` returns them.
        """
        errors: dict[str, str] = {}
        reason_code: str | None = None
        try:
            cls.model_validate(data)
        except ValidationError as refused:
            for error in refused.errors(include_url=False, include_context=False, include_input=False):
                field = str(error["loc"][0]) if error["loc"] else "record"
                code, message = error["type"], error["msg"]
                if not code.isupper():  # one of pydantic's own
                    message = _PLAIN_WORDS.get(code.partition("_")[0], f"cannot be read: {message}")
                    code = f"INVALID_{field.upper()}"
                errors.setdefault(field, message)
                reason_code = reason_code or code
        warnings = {
            name: message
            for name, message in cls.warn_when_missing.items()
            if name not in errors and not (value := data.get(name)) and value is not False
        }
        for name in cls.phone_fields:
            if (
                name not in errors
                and isinstance(phone := data.get(name), str)
                and not can_be_dialled(phone, cls.phone_region)
            ):
                warnings[name] = NOT_DIALABLE
        return Verdict(errors, warnings, reason_code)


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

    phone_fields = ("phone",)
    warn_when_missing = {
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


class PeopleRules(RecordRules):
    """The rules for people.

    A name of one word such as "Cher" passes, without a last name: the master table asks for one, not this.
    """

    # The rule of full_name looks at these two, and a pydantic validator sees only fields declared before it.
    first_name: Text = None
    last_name: Text = None
    full_name: Text = None
    email: Text = None
    phone: Text = None
    title: Text = None
    company_name: Text = None
    company_unique_id: Text = None
    linkedin_url: Text = None
    city: Text = None
    state: Text = None

    phone_fields = ("phone",)
    warn_when_missing = {
        "title": "is missing: enter the job title if you can find it",
        "phone": "is missing: enter a phone number if you can find one",
        "linkedin_url": "is missing: enter the address of the LinkedIn profile if there is one",
    }

    @classmethod
    def normalise(cls, data: Data) -> Data:
        """Fill in missing parts of the name from the others; the domain of the e-mail in lower case."""
        tidy = super().normalise(data)
        if isinstance(email := tidy.get("email"), str):
            local, _, domain = email.rpartition("@")
            if local and (host := host_name(domain)):
                tidy["email"] = f"{local}@{host.shown}"
        full, first, last = (tidy.get(name) for name in NAME_FIELDS)
        if full is None and isinstance(first, str) and isinstance(last, str):
            full = f"{first} {last}"
        elif isinstance(full, str) and full.casefold() not in PLACEHOLDERS:
            first, last = name_parts(full, first, last)
        return tidy | {
            name: value for name, value in zip(NAME_FIELDS, (full, first, last), strict=True) if name in tidy
        }

    @classmethod
    def follow(cls, data: Data, edited: Set[str]) -> Data:
        """Of a name and its parts, what was edited counts, and the others follow."""
        full, first, last = (data.get(name) for name in NAME_FIELDS)
        changed = edited & data.keys() & set(NAME_FIELDS)
        if not changed or not all(value is None or isinstance(value, str) for value in (full, first, last)):
            return data
        if "full_name" not in changed:
            # A part that nobody knew yet is in the name as it was.
            was_first, was_last = split_name(full) if full else (None, None)
            first = first if "first_name" in changed else first or was_first
            last = last if "last_name" in changed else last or was_last
            parts = {"first_name": first, "last_name": last}
            joined = " ".join(trim(part) for part in parts.values() if part and trim(part)) or None
            return data | {name: value for name, value in {**parts, "full_name": joined}.items() if name in data}
        if not full or not trim(full):
            return data
        # A first name that the new name still begins with stays: what follows it is the last name.
        stays = {"first_name"} if first and begins_with(full, first) else set()
        return data | {
            name: None for name in ("first_name", "last_name") if name in data and name not in changed | stays
        }

    @field_validator("full_name")
    @classmethod
    def _full_name(cls, full: Text, info: ValidationInfo) -> Text:
        first, last = info.data.get("first_name"), info.data.get("last_name")
        for label, name in (("", full), ("first name ", first), ("last name ", last)):
            if name and name.casefold() in PLACEHOLDERS:
                message = f"{label}is a placeholder ({name}): enter the person's real name"
                raise PydanticCustomError("PLACEHOLDER_FULL_NAME", message)
        if not (first and last) and len(full or "") < MIN_FULL_NAME:
            message = "is empty or too short: enter the first and the last name"
            raise PydanticCustomError("EMPTY_FULL_NAME", message)
        return full

    @field_validator("email")
    @classmethod
    def _email(cls, email: Text) -> Text:
        if not email:
            raise PydanticCustomError("EMPTY_EMAIL", "is empty: enter the person's e-mail address")
        if email.casefold() in EMAIL_PLACEHOLDERS:
            message = f"is a placeholder ({email}): enter the person's real e-mail address"
            raise PydanticCustomError("PLACEHOLDER_EMAIL", message)
        if not is_email(email):
            message = "is no e-mail address: enter one such as name@company.com"
            raise PydanticCustomError("INVALID_EMAIL", message)
        return email


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
