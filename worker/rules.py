"""What makes a record good enough for the master table: normalisation and rules, one class an entity.

Pure: no I/O, no network, no clock. A rule is a field of a subclass of `RecordRules`, with a validator
that raises ``PydanticCustomError(reason_code, message)``; a warning is an entry of ``warn_when_missing``.
Messages are read by enrichers next to the field's name: what is wrong, then what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import idna
import phonenumbers
from email_validator import EmailNotValidError, validate_email
from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from worker.model import Data, Verdict

Text = str | None

PLACEHOLDERS = frozenset({"test", "example", "n/a", "none", "null"})
WEBSITE_PLACEHOLDERS = frozenset({"test", "n/a", "none", "null"})
PLACEHOLDER_HOSTS = frozenset({"test.com", "example.com"})
EMAIL_PLACEHOLDERS = frozenset({"test@test.com", "example@example.com", "n/a@n/a.com"})
NAME_SUFFIXES = frozenset({"jr", "sr", "ii", "iii", "iv", "md", "phd", "esq", "cpa", "mba"})

MIN_COMPANY_NAME = 2
"""Characters."""
MIN_FULL_NAME = 3
"""Characters."""
MAX_WEBSITE = 2048
"""Characters; what browsers and the sitemap protocol take."""
MAX_HOST = 253
"""Characters in ASCII form, RFC 1035 section 2.3.4."""
MAX_EMAIL = 254
"""Octets, RFC 5321 section 4.5.3.1.3."""
MAX_PHONE = 250
"""Characters; phonenumbers refuses longer ones."""

# What looks blank but is not all whitespace to Python: controls, zero width and bidi marks, fillers, BOM.
_BLANKS = "".join(
    map(chr, (
        *range(0x21), *range(0x7F, 0xA1), 0xAD, 0x61C, 0x115F, 0x1160, 0x1680, 0x180E, *range(0x2000, 0x2010),
        *range(0x2028, 0x2030), *range(0x205F, 0x2070), 0x2800, 0x3000, 0x3164, 0xFEFF, 0xFFA0,
    ))
)  # fmt: skip
# Inside a web address none of them may stand, but the joiners: host names in Persian or Sinhala need them.
_BLANK_INSIDE = re.compile(f"[{re.escape(_BLANKS)}]".replace("\u200c", "").replace("\u200d", ""))
_URL = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[^/?#@:\\]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?#].*)?",
    re.IGNORECASE | re.DOTALL,
)
_SCHEME = re.compile(r"(?P<name>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# DNS labels (RFC 1123 section 2.1). A last label begins with a letter, which keeps IP addresses out.
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])")


class Host(NamedTuple):
    """A host name: as people read it, and as DNS knows it."""

    shown: str
    ascii: str


class WebAddress(NamedTuple):
    """A web address, normalised, and its host."""

    text: str
    host: Host


class RecordRules(BaseModel):
    """The rules of one entity. A subclass declares its fields in the order in which errors are reported.

    What a field's type or validator refuses is an error and blocks promotion. A validator that raises
    ``PydanticCustomError`` gives the reason code (capitals) and the message; anything else that a type
    refuses gets ``INVALID_<FIELD>``. Columns that are not declared are carried as they are.
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
            if isinstance(phone := tidy.get(name), str):
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
                # Reason codes are capitals; pydantic's own error types are not.
                own = error["type"].isupper()
                errors.setdefault(field, error["msg"] if own else _in_plain_words(error["type"], error["msg"]))
                reason_code = reason_code or (error["type"] if own else f"INVALID_{field.upper()}")
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
        """Give a bare host ``https://``, and take ``domain`` from the website where it is empty or does not fit.

        ``domain`` stays untouched where the website is refused: nothing better is known.
        """
        tidy = super().normalise(data)
        address = web_address(tidy.get("website"))
        if address is None:
            return tidy
        tidy["website"] = address.text
        if "domain" in tidy and _placeholder_in_website(address.text) is None:
            tidy["domain"] = _fitting_domain(tidy["domain"], address.host)
        return tidy

    @field_validator("company_name")
    @classmethod
    def _company_name(cls, name: Text) -> Text:
        if not name or not trim(name):
            raise PydanticCustomError("EMPTY_COMPANY_NAME", "is empty: enter the company's name")
        if name.casefold() in PLACEHOLDERS:
            raise PydanticCustomError(
                "PLACEHOLDER_COMPANY_NAME", "is a placeholder ({name}): enter the company's real name", {"name": name}
            )
        if len(name) < MIN_COMPANY_NAME:
            raise PydanticCustomError("SHORT_COMPANY_NAME", "is only one character: enter the company's full name")
        return name

    @field_validator("website")
    @classmethod
    def _website(cls, website: Text) -> Text:
        if not website or not trim(website):
            raise PydanticCustomError("EMPTY_WEBSITE", "empty or blank")
        if placeholder := _placeholder_in_website(website):
            raise PydanticCustomError(
                "PLACEHOLDER_WEBSITE",
                "is a placeholder ({placeholder}): enter the company's real web address",
                {"placeholder": placeholder},
            )
        if web_address(website) is None:
            raise PydanticCustomError("INVALID_WEBSITE", "{why}", {"why": _why_no_web_address(website)})
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
        tidy.update({name: value for name, value in names.items() if name in tidy})
        return tidy

    @field_validator("full_name")
    @classmethod
    def _full_name(cls, full: Text, info: ValidationInfo) -> Text:
        first, last = info.data.get("first_name"), info.data.get("last_name")
        for label, name in (("", full), ("first name ", first), ("last name ", last)):
            if name and trim(name).casefold() in PLACEHOLDERS:
                raise PydanticCustomError(
                    "PLACEHOLDER_FULL_NAME",
                    "{label}is a placeholder ({name}): enter the person's real name",
                    {"label": label, "name": name},
                )
        if not (first and last) and len(trim(full or "")) < MIN_FULL_NAME:
            raise PydanticCustomError("EMPTY_FULL_NAME", "is empty or too short: enter the first and the last name")
        return full

    @field_validator("email")
    @classmethod
    def _email(cls, email: Text) -> Text:
        if not email or not trim(email):
            raise PydanticCustomError("EMPTY_EMAIL", "is empty: enter the person's e-mail address")
        if email.casefold() in EMAIL_PLACEHOLDERS:
            raise PydanticCustomError(
                "PLACEHOLDER_EMAIL", "is a placeholder ({email}): enter the person's real e-mail address", {"email": email}
            )
        if not is_email(email):
            raise PydanticCustomError("INVALID_EMAIL", "is no e-mail address: enter one such as name@company.com")
        return email


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
    if at < 1:
        return (words[0] if words else None), None
    return " ".join(words[:at]), " ".join(words[at:])


@lru_cache(maxsize=8192)
def host_name(text: str) -> Host | None:
    """The host name in lower case (IDN by UTS 46), without a trailing dot; None where it is none.

    A dot and a top-level name are asked for, so neither ``localhost`` nor an IP address is one.
    """
    # IDNA work grows faster than its input, and no name gets shorter in ASCII: one dot more may stand.
    if len(text) > MAX_HOST + 1:
        return None
    try:
        shown = text.lower() if text.isascii() else idna.uts46_remap(text, std3_rules=False, transitional=False)
        shown = shown.removesuffix(".")
        plain = shown.isascii() and "xn--" not in shown
        name = shown if plain else idna.encode(shown).decode("ascii")
    except UnicodeError:  # idna's own errors are of this kind
        return None
    return Host(shown, name) if len(name) <= MAX_HOST and _HOST.fullmatch(name) else None


def web_address(website: Any) -> WebAddress | None:
    """The web address, normalised, or None where it is none. Nothing is looked up.

    http or https, or a bare host, which gets ``https://``; host and scheme in lower case, the rest as typed.
    No user name or password, no IP address, no blanks, 2048 characters at most.
    """
    return _web_address(website) if isinstance(website, str) and len(website) <= MAX_WEBSITE else None


@lru_cache(maxsize=8192)
def _web_address(website: str) -> WebAddress | None:
    match = _URL.fullmatch(website)
    if match is None or _BLANK_INSIDE.search(website) or (host := host_name(match["host"])) is None:
        return None
    port = match["port"]
    if port is not None and not 1 <= int(port) <= 0xFFFF:  # noqa: PLR2004 - the largest TCP port
        return None
    scheme = (match["scheme"] or "https").lower()
    return WebAddress(f"{scheme}://{host.shown}{f':{port}' if port else ''}{match['rest'] or ''}", host)


@lru_cache(maxsize=16384)
def _parsed_phone(phone: str, region: str) -> str:
    try:
        number = phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        return phone
    # E.164 has no room for an extension. Valid, not only possible: a Paris number typed without country
    # code has ten digits, is possible in the US, and would become somebody else's number.
    if number.extension or not phonenumbers.is_valid_number(number):
        return phone
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def e164(phone: str, region: str) -> str:
    """The phone number in E.164, or as typed where it is no valid number or has an extension.

    Args:
        phone: as typed.
        region: ISO 3166-1 alpha-2, for numbers without country code.
    """
    return _parsed_phone(phone, region) if len(phone) <= MAX_PHONE else phone


def is_email(email: str) -> bool:
    """Whether it is an RFC 5322 address whose domain is a host name with a dot, or a bracketed IP address."""
    local, _, domain = email.rpartition("@")
    if len(email.encode()) > MAX_EMAIL:
        return False
    if not domain.startswith("["):
        # email-validator refuses special-use domains (.test, .local) whatever it is asked, and these are
        # RFC 5322 addresses: so it judges what stands before the @, and DNS's rules what stands behind.
        if (host := host_name(domain)) is None or len(local.encode()) + 1 + len(host.ascii) > MAX_EMAIL:
            return False
        domain = "a.com"
    try:
        validate_email(
            f"{local}@{domain}", check_deliverability=False, allow_quoted_local=True, allow_domain_literal=True
        )
    except EmailNotValidError:
        return False
    return True


def _in_plain_words(kind: str, message: str) -> str:
    match kind.partition("_")[0]:
        case "string":
            return "is not text: enter text"
        case "int":
            return "is not a whole number: enter digits only"
        case "float" | "decimal":
            return "is not a number: enter digits, with a point where needed"
        case "bool":
            return "is neither true nor false: enter one of them"
        case "date":
            return "is not a date: enter it as year-month-day"
        case "value":
            return message.removeprefix("Value error, ")
        case _:
            return f"cannot be read: {message}"


def _is_suffix(word: str) -> bool:
    return word.replace(".", "").casefold().strip(",") in NAME_SUFFIXES


def _without_www(host: str) -> str:
    bare = host.removeprefix("www.")
    return bare if "." in bare else host


def _placeholder_in_website(website: str) -> str | None:
    if (address := web_address(website)) is not None:
        name = _without_www(address.host.ascii)
        return name if name in PLACEHOLDER_HOSTS else None
    # A word after https:// is as empty as the word alone.
    word = _SCHEME.sub("", website[:16], count=1).rstrip("/") if len(website) <= 16 else ""  # noqa: PLR2004
    return word if word.casefold() in WEBSITE_PLACEHOLDERS else None


def _why_no_web_address(website: str) -> str:
    scheme = _SCHEME.match(website)
    if len(website) > MAX_WEBSITE:
        return f"is longer than {MAX_WEBSITE} characters: enter the address of the company's home page"
    if _BLANK_INSIDE.search(website):
        return "contains a blank or an invisible character: enter one web address, without blanks"
    if scheme and scheme["name"].lower() not in {"http", "https"}:
        return "is no web address: it must begin with https:// or http://"
    if "@" in re.split(r"[/?#]", website[scheme.end() if scheme else 0 :], maxsplit=1)[0]:
        return "is an e-mail address or holds a user name: enter a web address such as https://www.company.com"
    return "is no web address: enter one such as https://www.company.com"


def _fitting_domain(domain: Any, host: Host) -> Any:
    if domain is not None and not isinstance(domain, str):
        return domain  # a wrong type is for the judge to name
    if domain and (typed := web_address(domain)) and f".{host.ascii}".endswith(f".{_without_www(typed.host.ascii)}"):
        return _without_www(typed.host.shown)
    return _without_www(host.shown)
