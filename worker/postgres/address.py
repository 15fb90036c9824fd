"""A Postgres address as an operator writes it: an impossible one is refused, without showing any part of it.

libpq takes the part before the first ``@`` or ``/`` as user and password. If a password contains such a character, the
rest of it becomes part of the host, the port or the database's name, and these are shown.
"""

from __future__ import annotations

import ipaddress
import os
import re
from functools import cache
from itertools import zip_longest

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

ENCODE = "write special characters of user, password and database percent-encoded: @ as %40, / as %2F, % as %25"
QUOTE = "put a value with blanks or quotes into single quotes, or write postgresql://USER:PASSWORD@HOST/DATABASE"
TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PRISMA_PARAMETERS = frozenset({"pgbouncer", "connection_limit", "pool_timeout", "schema"})
"""Prisma's parameters, which the services' own pages put into addresses."""


class AddressError(ValueError):
    """Why an address is refused. The text contains nothing of it except the names of parameters."""


def check_address(value: str) -> None:
    """Check an address: a URL, or libpq's ``key=value``.

    Raises:
        AddressError: it cannot be correct.
    """
    # Only the placeholders of the consoles: a password may contain brackets, and no part of it may be shown.
    if match := re.search(r"\[(YOUR[A-Z _-]*|PASSWORD|PROJECT[A-Z _-]*|REGION)\]", value, re.IGNORECASE):
        raise AddressError(f"still holds the placeholder {match[0]}; put the real value there")
    scheme, found, rest = value.partition("://")
    is_url = bool(found) and scheme in ("postgres", "postgresql")
    if is_url:
        _check_url(rest.strip())
    elif not re.match(r"\s*[a-z_]+\s*=", value):
        raise AddressError("is no Postgres address; copy the one that begins with postgresql:// from the Connect page")
    try:
        parts = {name: str(part) for name, part in conninfo_to_dict(value).items()}
    except (psycopg.Error, ValueError):
        raise AddressError(f"cannot be read as a Postgres address; {ENCODE if is_url else QUOTE}") from None
    if not is_url and not (parts.get("dbname") or parts.get("service")):
        raise AddressError("names no database; write it as postgresql://USER:PASSWORD@HOST/DATABASE")
    _check_places(parts, ENCODE if is_url else QUOTE)
    if parts.get("sslmode") and parts["sslmode"] not in TLS_MODES:
        raise AddressError(f"has an sslmode that is none of {', '.join(TLS_MODES)}")


def _check_url(rest: str) -> None:
    if re.search(r"[ \t\r\n\v\f]", rest):  # libpq strips some of them, which changes the password
        raise AddressError(f"has a blank in it; {ENCODE}, a blank as %20")
    start = re.search(r"[@/]", rest)
    behind = rest[start.end() :] if start and start[0] == "@" else rest
    places, _, query = behind.partition("?")
    if "@" in places:
        raise AddressError(f"has an @ too many; {ENCODE}")
    # The part before an @ may belong to a password: it is not shown.
    if "@" in query and any(not _known(name) for name in _names(query)):
        raise AddressError(f"cannot be read as a Postgres address; {ENCODE}")
    unknown = [name for name in _names(query) if not _known(name)]
    if unknown and all(re.fullmatch(r"[A-Za-z_][\w.-]{0,40}", name) for name in unknown):
        several = len(unknown) > 1
        raise AddressError(
            f"holds the parameter{'s' * several} {', '.join(unknown)}, which Postgres' clients do not know;"
            f" take {'them' if several else 'it'} out"
            + (" (they are Prisma's)" if several else " (it is Prisma's)")
            * (set(unknown) <= PRISMA_PARAMETERS)
        )


def _names(query: str) -> list[str]:
    return [part.partition("=")[0] for part in query.split("&") if part]


@cache
def _keywords() -> frozenset[str]:
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def _known(name: str) -> bool:
    # `ssl` is JDBC's; libpq accepts it in a URL.
    return name in _keywords() or name == "ssl" or "%" in name


def _check_places(parts: dict[str, str], hint: str) -> None:
    """Check that host, port and database, which are shown, are valid and not a part of a password."""
    for port in parts.get("port", "").split(","):
        if port.strip() and not (port.strip().isascii() and port.strip().isdecimal() and 0 < int(port) < 65536):
            raise AddressError(f"has no number from 1 to 65535 for its port; {hint}")
    for host in (*parts.get("host", "").split(","), *parts.get("hostaddr", "").split(",")):
        if not re.fullmatch(r"|[/@].*|[\w.-]+|\[?[0-9a-fA-F:.]+(%[\w.-]+)?\]?", host.strip()):
            raise AddressError(f"has a host that can be none; {hint}")


def is_remote(url: str) -> bool:
    """Whether any host of the connection string is another machine."""
    parts = conninfo_to_dict(url)
    # What the string leaves out, libpq takes from the environment or from a service file.
    hosts = str(parts.get("host", os.environ.get("PGHOST", "")))
    numbers = str(parts.get("hostaddr", os.environ.get("PGHOSTADDR", "")))
    if not (hosts or numbers) and (parts.get("service") or os.environ.get("PGSERVICE")):
        return True
    pairs = zip_longest(hosts.split(","), numbers.split(","), fillvalue="")
    return any(not is_local((number or host).strip()) for host, number in pairs)


def is_local(host: str) -> bool:
    """Whether a host is this machine."""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def safe_address(conninfo: str) -> str:
    """``host:port/database`` of a connection string, safe for a log: no user, no password."""
    parts = conninfo_to_dict(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"


def listen_fault(url: str) -> list[str]:
    """Supabase's pooler on port 6543 is in transaction mode: LISTEN would seem to work, but receive nothing."""
    try:
        where = conninfo_to_dict(url)
    except (psycopg.Error, ValueError):
        return []  # this fault is already reported
    if "6543" not in str(where.get("port")).split(","):
        return []
    hint = "give the session pooler's or the direct address, port 5432"
    return [f"SUPABASE_LISTEN_URL: port 6543 is Supabase's transaction pooler, which cannot LISTEN; {hint}"]
