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

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.domain.model import Data
from worker.domain.normalise import (
    MAX_PHONE,
    can_be_dialled,
    e164,
    trim,
)
from worker.domain.steps import Verdict

Text = str | None

PLACEHOLDERS = frozenset({"test", "example", "n/a", "none", "null"})
NOT_DIALABLE = "is no number that can be dialled: enter it with its area code, in digits"

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
