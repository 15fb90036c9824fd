"""Hints on how to fix an error, in a few words; rather none than one that cannot help.

An error from a server has a code. If no connection was made, libpq gives the reason only as English text, which is
matched here; if nothing matches, the hint names the setting.
"""

from __future__ import annotations

import re

import psycopg

from worker.postgres.errors import Kind, kind_of

DOCTOR = "`enrichment-worker doctor` names what is missing or different, and what fixes it"
READ_ONLY = (
    "nothing was lost, and workers go on by themselves; `enrichment-worker doctor` says whether it is a replica or who"
    " made it read-only"
)
MOVE_TO_UTF8 = "move it to a database that is made with ENCODING 'UTF8' TEMPLATE template0, by pg_dump and pg_restore"
_HELP = {
    "25006": READ_ONLY,
    "42501": "`enrichment-worker doctor` names every privilege that is missing",
    "3F000": DOCTOR, "42P01": DOCTOR, "42703": DOCTOR, "42883": DOCTOR, "42704": DOCTOR, "42804": DOCTOR,
    "42P10": DOCTOR, "428C9": DOCTOR,
    "42601": "please report this",
    "53100": "its disk is full: make room on it or enlarge it",
    "53200": "the server is out of memory",
    "53300": "raise the connection limit of the server, the database or the role, or close what holds connections",
}  # fmt: skip
"""SQLSTATE → hint."""


_NUMBERED = ("enrichment_ledger_pkey", "enrichment_outbox_pkey")


def hint_for(error: BaseException, *, asked: bool = False) -> str:
    """The hint for an error from a server; empty if there is none.

    Args:
        error: of a statement.
        asked: whether `doctor` asks: then the hint does not refer to it.
    """
    if not isinstance(error, psycopg.Error) or not error.sqlstate:
        return ""
    if isinstance(error, psycopg.errors.UniqueViolation) and error.diag.constraint_name in _NUMBERED:
        return "its sequence is behind its rows: run `enrichment-worker setup`"
    if error.sqlstate[:2] == "42" and error.sqlstate != "42501" and (function := _foreign_function(error)):
        return f"it comes from the function {function}, which is not the worker's: fix that"
    help_ = _HELP.get(error.sqlstate, "")
    return "" if asked and "doctor`" in help_ else help_


def concerns_all_records(error: psycopg.Error) -> bool:
    """Whether an error concerns all records: a table or a privilege is missing, and it was not raised in a function of
    the customer's.
    """
    return kind_of(error) is Kind.BROKEN and not _foreign_function(error)


def with_hint(text: str, help_: str) -> str:
    """The text, with the hint if there is one."""
    return f"{text}; {help_}" if help_ else text


def _foreign_function(error: psycopg.Error) -> str | None:
    """The function of the customer's in which an error was raised, such as a trigger's; None if there is none."""
    match = re.search(r'(?:PL/\w+|SQL) function "?([\w.$]+)"?', error.diag.context or "")
    return match[1] if match and "enrichment_" not in match[1] else None


# In this order: the more specific pattern comes first.
_UNREACHED = {
    r"password authentication failed|no password supplied|SCRAM|SASL|Tenant or user not found|role .* does not exist":
        "check the user and the password in {setting}",
    r"database .* does not exist|no such database":
        "check the database's name in {setting}",
    r"too many (connections|clients)|connection slots are reserved|max(imum)? client":
        _HELP["53300"],
    r"unsupported startup parameter":
        "the pooler takes no start-up options: take `options` out of {setting}",
    r"server does not support SSL":
        "check host and port in {setting}; a server of your own without TLS needs WORKER_ALLOW_INSECURE=1",
    r"root certificate file":
        "give the authority's file as sslrootcert in {setting}, or sslrootcert=system",
    r"certificate|does not match host name":
        "check sslrootcert in {setting}, and that the host is one that the certificate names",
    r"no encryption|SSL off|SSL required|sslmode=require":
        "add sslmode=require to {setting}",
    r"pg_hba":
        "allow this machine, user and database in the server's pg_hba.conf, or among its allowed addresses",
    r"definition of service|service file":
        "check the service that {setting} names, and PGSERVICEFILE",
    r"invalid \w+ value":
        "check that parameter in {setting}",
    r"resolve host|translate host|Name or service not known|No address associated|Temporary failure in name":
        "check the host in {setting}, and this machine's DNS",
    r"Network is unreachable|No route to host|Cannot assign requested address":
        "this machine has no way there: Supabase's direct address is IPv6 only, its session pooler's is not",
    r"invalid response to SSL negotiation|unexpected response|expected authentication request":
        "check host and port in {setting}: it is no Postgres that answers there",
    r"Connection refused|No such file or directory":
        "check host and port in {setting}, and that the server runs",
    r"tim(ed out|eout)":
        "check host and port in {setting}, and that no firewall is between",
    r"starting up|shutting down|not yet accepting|not accepting|recovery mode": "",
}  # fmt: skip
"""Pattern of a connection error → hint; empty if the error is temporary."""


def reach_hint(error: BaseException, setting: str) -> str:
    """The hint for a failed connection; empty if the error is temporary.

    Args:
        error: of the attempt.
        setting: the name of the setting that holds the address.
    """
    if found := hint_for(error):
        return found
    text = str(error)
    for pattern, help_ in _UNREACHED.items():
        if re.search(pattern, text, re.IGNORECASE):
            return help_.format(setting=setting)
    return f"check {setting}"
