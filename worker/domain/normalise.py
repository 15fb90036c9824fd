"""The normal forms of single values: text, names, phones, host names, web and e-mail addresses.

Pure: no I/O, no network, no clock. What has no normal form is left as typed, or is None where a form was asked for.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import idna
import phonenumbers
from email_validator import EmailNotValidError, validate_email

NAME_SUFFIXES = frozenset({"jr", "sr", "ii", "iii", "iv", "md", "phd", "esq", "cpa", "mba"})
MAX_WEBSITE = 2048  # characters: what every browser takes
MAX_HOST = 253  # characters of the ASCII form: RFC 1035, section 2.3.4
MAX_EMAIL = 254  # octets: RFC 5321, section 4.5.3.1.3
MAX_PHONE = 250  # characters: phonenumbers looks at no more
MAX_PORT = 65535

# What looks blank and is not all whitespace to Python: controls, zero width and bidi marks, fillers, BOM.
BLANKS = "".join(
    map(chr, (*range(0x21), *range(0x7F, 0xA1), 0xAD, 0x61C, 0x115F, 0x1160, 0x1680, 0x180E,
              *range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x2070),
              0x2800, 0x3000, 0x3164, 0xFEFF, 0xFFA0))
)  # fmt: skip
# None of them may stand inside a web address, but for the joiners: Persian host names need them.
BLANK_INSIDE = re.compile(f"[{re.escape(BLANKS)}]".replace("\u200c", "").replace("\u200d", ""))
_URL = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[^/?#@:\\]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?#].*)?", re.IGNORECASE
)
USER_PART = re.compile(r"(?:https?://)?[^/?#]*@", re.IGNORECASE)
# DNS labels (RFC 1123, section 2.1). The last one begins with a letter, which keeps IP addresses out.
_LABELS = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])"
_HOST = re.compile(_LABELS)
# Browsers open names with an underscore in a label before the domain; no domain has one.
_WEB_LABELS = r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])"
_WEB_HOST = re.compile(_WEB_LABELS)

# A web address as nearly everybody types it. What it takes has no blanks, no port, no user, and a host in lower case.
_PLAIN_URL = re.compile(rf"(?:(?P<scheme>https?)://)?(?P<host>{_WEB_LABELS})(?P<rest>/[!-~]*)?")
# What nearly every address has before its @: RFC 5322, section 3.2.3.
_DOT_ATOM = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
# A North American number as nearly everybody types it: its area code begins with 2 to 9, which no prefix does.
_NORTH_AMERICAN = re.compile(
    r"(?P<country>\+1[-. ]?)?\(?(?P<area>[2-9][0-9]{2})\)?[-. ]?(?P<exchange>[0-9]{3})[-. ]?(?P<line>[0-9]{4})"
)
E164 = re.compile(r"\+[1-9][0-9]{6,14}")
# One word of three letters or more, as in 1-800-FLOWERS or 1-800-GO-FEDEX. Letters typed for digits spell none.
_WORD = re.compile(r"[^0-9a-z]*(?=[a-z .-]*[a-hj-kmnp-z])[a-z](?:[ .-]*[a-z]){2,}[^0-9a-z]*", re.IGNORECASE)
_FIGURES = re.compile(r"[0-9]+")


class Host(NamedTuple):
    """A host name: as people read it, and as DNS knows it."""

    shown: str
    ascii: str


class WebAddress(NamedTuple):
    """A web address, normalised, and its host."""

    text: str
    host: Host

    @property
    def bare(self) -> str:
        """The host in ASCII, without ``www.``."""
        return without_www(self.host.ascii)


def trim(text: str) -> str:
    """Text without the blanks around it, invisible ones included; inside nothing changes."""
    return text.strip(BLANKS)


def split_name(full_name: str) -> tuple[str | None, str | None]:
    """First and last name: the last word is the last name; one word alone is a first name.

    ``Smith, Anna`` is read the other way round; ``Jr.`` and the like stay with the last name.
    """
    # Trimmed word by word: normalising trims the parts, and would change on the second time what it filled in.
    before, _, after = ([w for w in map(trim, part.split()) if w] for part in full_name.partition(","))
    if before and after and not all(map(_is_suffix, after)):
        return " ".join(after), " ".join(before)
    words = before + after
    at = len(words) - 1
    while at > 1 and _is_suffix(words[at]):
        at -= 1
    return " ".join(words[: max(at, 1)]) or None, " ".join(words[max(at, 1) :]) or None


def begins_with(full_name: str, first: str) -> bool:
    """Whether a full name is this first name, and something after it."""
    return _after(full_name.split(), first.split()) is not None


def name_parts(full_name: str, first: object, last: object) -> tuple[object, object]:
    """First and last name, those that are missing taken from the full name; others as they are.

    What stands after a given first name is the last name, and what stands before a given last name the first:
    ``Vincent van Gogh``.
    """
    words = full_name.split()
    if isinstance(first, str) and last is None and (after := _after(words, first.split())):
        return first, " ".join(after)
    if isinstance(last, str) and first is None and (before := _after(words[::-1], last.split()[::-1])):
        return " ".join(before[::-1]), last
    split_first, split_last = split_name(full_name)
    # A one-word full name that repeats the last name says nothing of the first.
    return (
        split_first if first is None and split_first != last else first,
        split_last if last is None else last,
    )


def _after(words: list[str], start: list[str]) -> list[str] | None:
    """The words after those at the start; None if they do not begin so, or nothing follows."""
    begins = [word.casefold() for word in words[: len(start)]] == [word.casefold() for word in start]
    return words[len(start) :] or None if start and begins else None


@lru_cache(maxsize=1024)
def can_be_dialled(phone: str, region: str) -> bool:
    """Whether a normalised phone is a possible number, with an extension or without."""
    if plain := _NORTH_AMERICAN.fullmatch(phone):
        return bool(plain["country"])
    if len(phone) > MAX_PHONE:
        return False
    try:
        number = phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        return False
    if not number.extension:
        return bool(E164.fullmatch(phone)) and _is_possible(number)
    number.extension = None
    return _is_possible(number)


def _is_possible(number: phonenumbers.PhoneNumber) -> bool:
    """Whether a number, without its extension, is possible; no area code of North America begins with 0 or 1."""
    possible = phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE
    return possible and not (number.country_code == 1 and str(number.national_number)[0] in "01")


@lru_cache(maxsize=1024)
def e164(phone: str, region: str) -> str:
    """The phone number in E.164, or as typed where it is no valid number or has an extension.

    Args:
        phone: as typed.
        region: ISO 3166-1 alpha-2, for numbers without country code.
    """
    # phonenumbers reads these the same way, in fifty times the time.
    if (plain := _NORTH_AMERICAN.fullmatch(phone)) and (plain["country"] or region == "US"):
        return f"+1{plain['area']}{plain['exchange']}{plain['line']}"
    try:
        number = phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        return phone
    # E.164 has no room for an extension. A number of the right length goes through, listed as valid or not,
    # as ranges are opened faster than lists are published; but a leading zero is another country's way of
    # writing, and the number would become somebody else's.
    plausible = _is_possible(number) and not number.italian_leading_zero
    if number.extension or not _spells_a_number(phone) or not (plausible or phonenumbers.is_valid_number(number)):
        return phone
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _spells_a_number(phone: str) -> bool:
    """Whether what follows the first digit has no letters, or one word at its end that stands for digits."""
    first = _FIGURES.search(phone)
    rest = phone[first.start() :] if first else phone
    letters = rest[max((found.end() for found in _FIGURES.finditer(rest)), default=0) :]
    inside = rest[: len(rest) - len(letters)]
    return not any(map(str.isalpha, inside)) and (not any(map(str.isalpha, letters)) or bool(_WORD.fullmatch(letters)))


@lru_cache(maxsize=1024)
def host_name(text: str, *, web: bool = False) -> Host | None:
    """The host name in lower case (IDN by UTS 46), without a trailing dot; None where it is none.

    A dot and a top-level name are asked for, so neither ``localhost`` nor an IP address is one.

    Args:
        text: as typed.
        web: whether an underscore may stand in a label before the domain, as browsers take it.
    """
    # IDNA's work grows faster than its input, and no name gets shorter in ASCII; one dot more may stand.
    if len(text) > MAX_HOST + 1:
        return None
    try:
        shown = text.lower() if text.isascii() else idna.uts46_remap(text, std3_rules=False)
        shown = shown.removesuffix(".")
        name = shown if shown.isascii() and "xn--" not in shown else ".".join(map(_ascii_label, shown.split(".")))
    except UnicodeError:  # idna's own errors are of this kind
        return None
    fits = len(name) <= MAX_HOST and (_WEB_HOST if web else _HOST).fullmatch(name) and _is_domain(name)
    return Host(shown, name) if fits else None


def _is_domain(host: str) -> bool:
    """Whether the last two labels have no underscore."""
    return "_" not in "".join(host.split(".")[-2:])


def _ascii_label(label: str) -> str:
    plain = label.isascii() and not label.startswith("xn--")
    return label if plain else idna.encode(label).decode()


def web_address(website: object) -> WebAddress | None:
    """The web address, normalised, or None where it is none. Nothing is looked up.

    http or https, or a bare host, which gets ``https://``; host and scheme in lower case, the rest as typed.
    No user name or password, no IP address, no blanks, 2048 characters at most.
    """
    return _web_address(website) if isinstance(website, str) and len(website) <= MAX_WEBSITE else None


@lru_cache(maxsize=1024)  # the rules ask three times for one record
def _web_address(website: str) -> WebAddress | None:
    # The way below takes four times as long.
    plain = _PLAIN_URL.fullmatch(website)
    if plain and len(host := plain["host"]) <= MAX_HOST and "xn--" not in host and _is_domain(host):
        return WebAddress(f"{plain['scheme'] or 'https'}://{host}{plain['rest'] or ''}", Host(host, host))
    if BLANK_INSIDE.search(website):
        return None
    match = _URL.fullmatch(website)
    if (
        match is None
        or not 1 <= int(match["port"] or 1) <= MAX_PORT
        or not (host := host_name(match["host"], web=True))
    ):
        return None
    port = f":{match['port']}" if match["port"] else ""
    return WebAddress(f"{(match['scheme'] or 'https').lower()}://{host.shown}{port}{match['rest'] or ''}", host)


def is_email(email: str) -> bool:
    """RFC 5322, and behind the @ a host name with a dot or a bracketed IP address."""
    local, _, domain = email.rpartition("@")
    if len(email.encode()) > MAX_EMAIL or not (domain.startswith("[") or host_name(domain)):
        return False
    if _DOT_ATOM.fullmatch(local) and not domain.startswith("["):
        return True
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


def without_www(host: str) -> str:
    """The host without ``www.`` before it, where something with a dot remains."""
    while host.startswith("www.") and "." in host.removeprefix("www."):
        host = host.removeprefix("www.")
    return host


def fitting_domain(domain: object, host: Host) -> object:
    """The domain as typed where the website's host belongs to it, else the host's own."""
    if domain is not None and not isinstance(domain, str):
        return domain  # a wrong type is for the judge to name
    if typed := web_address(domain):
        bare = without_www(typed.host.ascii)
        if host.ascii == bare or host.ascii.endswith(f".{bare}"):
            return without_www(typed.host.shown)
    return without_www(host.shown)
