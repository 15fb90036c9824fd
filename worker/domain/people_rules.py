"""The rules for people."""

from __future__ import annotations

from collections.abc import Set
from typing import ClassVar

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from worker.domain.model import Data
from worker.domain.normalise import (
    begins_with,
    host_name,
    is_email,
    name_parts,
    split_name,
    trim,
)
from worker.domain.rules import PLACEHOLDERS, RecordRules, Text

EMAIL_PLACEHOLDERS = frozenset({"test@test.com", "example@example.com", "n/a@n/a.com"})


NAME_FIELDS = ("full_name", "first_name", "last_name")


MIN_FULL_NAME = 3  # characters


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

    phone_fields: ClassVar = ("phone",)
    warn_when_missing: ClassVar = {
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
            # A part that nobody knew yet is in the name as it was. A name of one word is either of them.
            was_first, was_last = split_name(full) if full else (None, None)
            if was_last is None and was_first and was_first.casefold() != (first or "").casefold() and not last:
                was_last = was_first
            if "first_name" not in changed:
                first = first or (was_first if was_first != last else None)
            if "last_name" not in changed:
                last = last or was_last
            parts = {"first_name": first, "last_name": last}
            joined = " ".join(trim(part) for part in parts.values() if part and trim(part)) or None
            return data | {name: value for name, value in {**parts, "full_name": joined}.items() if name in data}
        if not full or len(trim(full)) < MIN_FULL_NAME or trim(full).casefold() in PLACEHOLDERS:
            return data  # no name, to be refused: the parts stay
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
