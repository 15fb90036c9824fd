"""What makes a record good enough for the master table: normalisation and rules, one class an entity.

Pure: no I/O, no network, no clock. A rule is a field of a subclass of `RecordRules` with a validator that
raises ``PydanticCustomError(reason_code, message)``; a warning is an entry of ``warn_when_missing``.
Messages are read by enrichers next to the field's name: what is wrong, then what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, NamedTuple

import idna
import phonenumbers
from email_validator import EmailNotValidError, validate_email
from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from worker.model import Data, Verdict

Text = str | None

PLACEHOLDERS = frozenset({"test", "example", "n/a", "none", "null"})
WEBSITE_PLACEHOLDERS = frozenset({"test", "n/a", "none", "null", "test.com", "example.com"})
EMAIL_PLACEHOLDERS = frozenset({"test@test.com", "example@example.com", "n/a@n/a.com"})
NAME_SUFFIXES = frozenset({"jr", "sr", "ii", "iii", "iv", "md", "phd", "esq", "cpa", "mba"})
MIN_COMPANY_NAME = 2  # characters
MIN_FULL_NAME = 3  # characters
MAX_WEBSITE = 2048  # characters: what every browser takes
MAX_HOST = 253  # characters of the ASCII form: RFC 1035, section 2.3.4
MAX_EMAIL = 254  # octets: RFC 5321, section 4.5.3.1.3
MAX_PHONE = 250  # characters: phonenumbers looks at no more
MAX_PORT = 65535

# What looks blank and is not all whitespace to Python: controls, zero width and bidi marks, fillers, BOM.
_BLANKS = "".join(
    map(chr, (*range(0x21), *range(0x7F, 0xA1), 0xAD, 0x61C, 0x115F, 0x1160, 0x1680, 0x180E,
              *range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x2070),
              0x2800, 0x3000, 0x3164, 0xFEFF, 0xFFA0))
)  # fmt: skip
# None of them may stand inside a web address, but for the joiners: Persian host names need them.
_BLANK_INSIDE = re.compile(f"[{re.escape(_BLANKS)}]".replace("\u200c", "").replace("\u200d", ""))
_URL = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[^/?#@:\\]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?#].*)?", re.IGNORECASE
)
_USER_PART = re.compile(r"(?:https?://)?[^/?#]*@", re.IGNORECASE)
# DNS labels (RFC 1123, section 2.1). The last one begins with a letter, which keeps IP addresses out.
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])")

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

    version: ClassVar[str] = "1"
    """Changes whenever a rule does; the ledger keeps it with each outcome."""
    warn_when_missing: ClassVar[Mapping[str, str]] = {}
    """``{field: message}``: a warning where the field is empty or zero."""
    phone_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that go to E.164."""
    phone_region: ClassVar[str] = "US"
    """Where a phone number without country code is from: ISO 3166-1 alpha-2."""

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
        return tidy

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
            if "domain" in tidy and not _website_placeholder(address.text):
                tidy["domain"] = _fitting_domain(tidy["domain"], address.host)
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
        if word := _website_placeholder(website):
            message = f"is a placeholder ({word}): enter the company's real web address"
            raise PydanticCustomError("PLACEHOLDER_WEBSITE", message)
        if not web_address(website):
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
        full, first, last = (tidy.get(name) for name in ("full_name", "first_name", "last_name"))
        if full is None and isinstance(first, str) and isinstance(last, str):
            full = f"{first} {last}"
        elif isinstance(full, str) and full.casefold() not in PLACEHOLDERS:
            split_first, split_last = split_name(full)
            # A one-word full name that repeats the last name says nothing of the first.
            first = split_first if first is None and split_first != last else first
            last = split_last if last is None else last
        names = {"full_name": full, "first_name": first, "last_name": last}
        return tidy | {name: value for name, value in names.items() if name in tidy}

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
        if not _is_email(email):
            message = "is no e-mail address: enter one such as name@company.com"
            raise PydanticCustomError("INVALID_EMAIL", message)
        return email


class Host(NamedTuple):
    """A host name: as people read it, and as DNS knows it."""

    shown: str
    ascii: str


class WebAddress(NamedTuple):
    """A web address, normalised, and its host."""

    text: str
    host: Host


def trim(text: str) -> str:
    """Text without the blanks around it, invisible ones included; inside nothing changes."""
    return text.strip(_BLANKS)


def split_name(full_name: str) -> tuple[str | None, str | None]:
    """First and last name: the last word is the last name; one word alone is a first name.

    ``Smith, Anna`` is read the other way round; ``Jr.`` and the like stay with the last name.
    """
    before, _, after = (part.split() for part in full_name.partition(","))
    if before and after and not all(map(_is_suffix, after)):
        return " ".join(after), " ".join(before)
    words = before + after
    at = len(words) - 1
    while at > 1 and _is_suffix(words[at]):
        at -= 1
    return " ".join(words[: max(at, 1)]) or None, " ".join(words[max(at, 1) :]) or None


@lru_cache(maxsize=16384)
def e164(phone: str, region: str) -> str:
    """The phone number in E.164, or as typed where it is no valid number or has an extension.

    Args:
        phone: as typed.
        region: ISO 3166-1 alpha-2, for numbers without country code.
    """
    try:
        number = phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        return phone
    # E.164 has no room for an extension. Valid, not only possible: a Paris number typed without country
    # code has ten digits, is possible in the US, and would become somebody else's number.
    if number.extension or not phonenumbers.is_valid_number(number):
        return phone
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@lru_cache(maxsize=16384)
def host_name(text: str) -> Host | None:
    """The host name in lower case (IDN by UTS 46), without a trailing dot; None where it is none.

    A dot and a top-level name are asked for, so neither ``localhost`` nor an IP address is one.
    """
    # IDNA's work grows faster than its input, and no name gets shorter in ASCII; one dot more may stand.
    if len(text) > MAX_HOST + 1:
        return None
    try:
        shown = text.lower() if text.isascii() else idna.uts46_remap(text, std3_rules=False)
        shown = shown.removesuffix(".")
        name = shown if shown.isascii() and "xn--" not in shown else idna.encode(shown).decode()
    except UnicodeError:  # idna's own errors are of this kind
        return None
    return Host(shown, name) if len(name) <= MAX_HOST and _HOST.fullmatch(name) else None


def web_address(website: object) -> WebAddress | None:
    """The web address, normalised, or None where it is none. Nothing is looked up.

    http or https, or a bare host, which gets ``https://``; host and scheme in lower case, the rest as typed.
    No user name or password, no IP address, no blanks, 2048 characters at most.
    """
    if not isinstance(website, str) or len(website) > MAX_WEBSITE or _BLANK_INSIDE.search(website):
        return None
    match = _URL.fullmatch(website)
    if match is None or not 1 <= int(match["port"] or 1) <= MAX_PORT or not (host := host_name(match["host"])):
        return None
    port = f":{match['port']}" if match["port"] else ""
    return WebAddress(f"{(match['scheme'] or 'https').lower()}://{host.shown}{port}{match['rest'] or ''}", host)


def _is_email(email: str) -> bool:
    """RFC 5322, and behind the @ a host name with a dot or a bracketed IP address."""
    local, _, domain = email.rpartition("@")
    if len(email.encode()) > MAX_EMAIL or not (domain.startswith("[") or host_name(domain)):
        return False
    # email-validator refuses special-use domains such as .test, which RFC 5322 does not: so it judges what
    # stands before the @, and host_name has judged what stands behind.
    stand_in = domain if domain.startswith("[") else "a.com"
    try:
        validate_email(
            f"{local}@{stand_in}",
            check_deliverability=False,
            allow_quoted_local=True,
            allow_domain_literal=True,
        )
    except EmailNotValidError:
        return False
    return True


def _is_suffix(word: str) -> bool:
    return word.replace(".", "").strip(",").casefold() in NAME_SUFFIXES


def _without_www(host: str) -> str:
    while host.startswith("www.") and "." in host.removeprefix("www."):
        host = host.removeprefix("www.")
    return host


def _website_placeholder(website: str) -> str | None:
    """The placeholder a website stands for: ``https://www.test.com/`` is as empty as ``test.com``."""
    if address := web_address(website):
        word = _without_www(address.host.ascii)
    else:
        word = website.casefold().removeprefix("https://").removeprefix("http://").rstrip("/")
    return word if word in WEBSITE_PLACEHOLDERS else None


def _why_no_web_address(website: str) -> str:
    if len(website) > MAX_WEBSITE:
        return f"is longer than {MAX_WEBSITE} characters: enter the address of the home page"
    if _BLANK_INSIDE.search(website):
        return "contains a blank or an invisible character: enter one web address, without blanks"
    if _USER_PART.match(website):
        return "is an e-mail address or holds a user name: enter one such as https://www.company.com"
    return "is no web address: enter one such as https://www.company.com"


def _fitting_domain(domain: object, host: Host) -> object:
    if domain is not None and not isinstance(domain, str):
        return domain  # a wrong type is for the judge to name
    if typed := web_address(domain):
        bare = _without_www(typed.host.ascii)
        if host.ascii == bare or host.ascii.endswith(f".{bare}"):
            return _without_www(typed.host.shown)
    return _without_www(host.shown)
