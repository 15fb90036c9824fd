"""Classification of errors, and the backoff before a retry. The only place that decides these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import psycopg


class Kind(Enum):
    """What to do about an error."""

    TRANSIENT = "transient"
    """Temporary: connection, deadlock, serialization, a waking compute, a failover. Retry."""
    REFUSED = "refused"
    """The database refuses these values: the record is flagged."""
    BROKEN = "broken"
    """Needs an operator: a missing table or privilege. Not caused by a record; no record is touched."""


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """One way in which a database is not as the worker needs it."""

    text: str
    hint: str
    """The fix: a text that ends in a statement to paste, or a command."""

    def __str__(self) -> str:
        return f"{self.text}; {self.hint}"


class SetupMissing(Exception):
    """A database is not as the worker needs it. The text is a line for each problem, with its fix."""

    def __init__(self, problems: Sequence[SchemaProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Restored(Exception):
    """A database was restored to an earlier moment, and lacks what the other one has: both have to be compared."""

    def __init__(self, entity: str, side: str) -> None:
        """Create the error.

        Args:
            entity: whose records must be compared before anything is settled.
            side: ``Neon`` or ``Supabase``.
        """
        super().__init__(f"{side} was restored to an earlier moment: both databases are compared before it goes on")
        self.entity = entity


# SQLSTATE classes and codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
NOT_ABOUT_RECORDS = (
    "00", "01", "02", "03", "08", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "24", "25", "26", "28", "2B", "2D",
    "34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "XX",
)  # fmt: skip
"""SQLSTATE classes that are not about a record. All others are: data, integrity, check option, limits, and what a
trigger raises, in PL/pgSQL's own class or in one that its author invented (``45000``, ``PT403``)."""
TRANSIENT_CLASSES = ("08", "40", "53", "57", "58", "XX")
LOCKED = "55P03"
TRANSIENT_CODES = ("25006", "25P03", LOCKED, "55006")


def is_stale_plan(error: BaseException) -> bool:
    """Whether a prepared statement is out of date: its columns have other types now, or the session does not have it,
    or has it already.

    ``cached plan must not change result type`` shares its code with everything that PostgreSQL does not support, and
    its text is translated: it is recognised by the source function.
    """
    if isinstance(error, psycopg.errors.InvalidSqlStatementName | psycopg.errors.DuplicatePreparedStatement):
        return True
    return (
        isinstance(error, psycopg.errors.FeatureNotSupported) and error.diag.source_function == "RevalidateCachedQuery"
    )


def _is_of_a_policy(error: psycopg.Error) -> bool:
    """Whether a row level security policy refused a row because of its values. The code is also that of missing
    privileges, and the text is translated, so the source function decides.
    """
    return error.diag.source_function == "ExecWithCheckOptions"


def kind_of(error: BaseException) -> Kind:
    """Classify an error by SQLSTATE, never by its text."""
    state = getattr(error, "sqlstate", None)
    if isinstance(error, psycopg.Error) and state:
        if state in TRANSIENT_CODES or state[:2] in TRANSIENT_CLASSES or is_stale_plan(error):
            return Kind.TRANSIENT
        if isinstance(error, psycopg.errors.InsufficientPrivilege) and _is_of_a_policy(error):
            return Kind.REFUSED
        return Kind.BROKEN if state[:2] in NOT_ABOUT_RECORDS else Kind.REFUSED
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError | TimeoutError):
        return Kind.TRANSIENT
    return Kind.BROKEN


def is_about_records(error: psycopg.Error) -> bool:
    """Whether an error may concern only some of the records, so that the others are worth a try: their values, a row
    level security policy, or an error in a function of the customer's, which can have any SQLSTATE.
    """
    kind = kind_of(error)
    if kind is not Kind.BROKEN:
        return kind is Kind.REFUSED
    # Recognised by the function that it comes from: its text is translated.
    inside = (error.diag.context or "").partition("\n")[0]
    return bool(inside and "enrichment_" not in inside)


_SORTS = {
    "08": "connection", "40001": "serialization", "40P01": "deadlock", "55P03": "lock", "57014": "timeout",
    "25P03": "timeout", "57": "shutdown", "53": "resources", "25006": "read_only",
}  # fmt: skip


def metric_label(error: BaseException) -> str:
    """The type of a fault, in one word for a metric's label."""
    state = getattr(error, "sqlstate", None)
    if not isinstance(error, psycopg.Error) or not state:
        return "connection" if kind_of(error) is Kind.TRANSIENT else "other"
    return _SORTS.get(state) or _SORTS.get(state[:2], "other")


_CHATTER = re.compile(
    r"(^consuming input failed: )|( Is the server running on (that|the) host and accepting TCP/IP connections\?)"
    r"|( This probably means the server terminated abnormally before or while processing the request\.)"
)
"""What libpq adds to its errors, and no operator needs."""


def in_one_line(error: BaseException) -> str:
    """The error in one line, without passwords and without SQL."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = " ".join((primary or str(error) or type(error).__name__).split())
    return without_password(_CHATTER.sub("", text))[:500]


def tag(error: BaseException, database: str) -> None:
    """Remember which database an error comes from. The first call wins."""
    if not hasattr(error, "database"):
        error.database = database  # type: ignore[attr-defined]


def with_database(error: BaseException) -> str:
    """The error in one line, after the name of its database if that is known."""
    database = getattr(error, "database", None)
    return f"{database}: {in_one_line(error)}" if database else in_one_line(error)


def without_password(text: str) -> str:
    """The text with every password of a connection string masked."""
    # Up to the last @: a password that is not encoded may contain @ and slashes.
    text = re.sub(r"(://[^:@/\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)(password\s*=\s*)('[^']*'|\S+)", r"\1***", text)
