"""Which error is what kind, and how long to pause before the next try. The only place that decides it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import psycopg


class Kind(Enum):
    """What to do about an error."""

    TRANSIENT = "transient"
    """Will pass by itself: connection, deadlock, serialization, a waking compute, a failover. Try again."""
    REFUSED = "refused"
    """The database refuses these values: the record is flagged."""
    BROKEN = "broken"
    """Needs an operator: a missing table or privilege. No record is to blame, none is touched."""


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """One thing in which a database is not as the worker needs it."""

    text: str
    hint: str
    """What fixes it: a statement to paste at the end of it, or a command."""

    def __str__(self) -> str:
        return f"{self.text}; {self.hint}"


class SetupMissing(Exception):
    """A database is not as the worker needs it. The text is a line for each thing, with its fix."""

    def __init__(self, problems: Sequence[SchemaProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Restored(Exception):
    """A database was restored to an earlier moment, and lacks what the other one knows. Nothing was done."""

    def __init__(self, entity: str, side: str) -> None:
        """Say which.

        Args:
            entity: whose records are to be compared before anything is settled.
            side: ``Neon`` or ``Supabase``.
        """
        super().__init__(f"{side} was restored to an earlier moment: both databases are compared before it goes on")
        self.entity = entity


# SQLSTATE classes and codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
NOBODYS = (
    "00", "01", "02", "03", "08", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "24", "25", "26", "28", "2B", "2D",
    "34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "XX",
)  # fmt: skip
"""Postgres' classes of SQLSTATE that speak of no record. All others do: data, integrity, check option, limits, what a
trigger raises, in PL/pgSQL's own class or in one that its author made up (``45000``, ``PT403``)."""
TRANSIENT_CLASSES = ("08", "40", "53", "57", "58", "XX")
LOCKED = "55P03"
TRANSIENT_CODES = ("25006", "25P03", LOCKED, "55006")


def is_stale_plan(error: BaseException) -> bool:
    """Whether the session has prepared a statement whose columns have other types by now, or does not know, or knows
    already, what it was thought to have prepared.

    ``cached plan must not change result type`` shares its code with all that PostgreSQL does not support, and its text
    is translated: it is known by who says it.
    """
    if isinstance(error, psycopg.errors.InvalidSqlStatementName | psycopg.errors.DuplicatePreparedStatement):
        return True
    return (
        isinstance(error, psycopg.errors.FeatureNotSupported) and error.diag.source_function == "RevalidateCachedQuery"
    )


def _is_of_a_policy(error: psycopg.Error) -> bool:
    """Whether a policy of row level security refused a row for what it holds: it shares its code with every privilege
    that is missing, and its text is translated.
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
        return Kind.BROKEN if state[:2] in NOBODYS else Kind.REFUSED
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError | TimeoutError):
        return Kind.TRANSIENT
    return Kind.BROKEN


def is_about_records(error: psycopg.Error) -> bool:
    """Whether an error may be about some of the records alone, so that the others are worth a try: the values, a policy
    for rows, or whatever a function of the customer's stumbles over, which has the SQLSTATE of that.
    """
    kind = kind_of(error)
    if kind is not Kind.BROKEN:
        return kind is Kind.REFUSED
    # OutcomeSummary apart by where it comes from: its text is translated.
    inside = (error.diag.context or "").partition("\n")[0]
    return bool(inside and "enrichment_" not in inside)


_SORTS = {
    "08": "connection", "40001": "serialization", "40P01": "deadlock", "55P03": "lock", "57014": "timeout",
    "25P03": "timeout", "57": "shutdown", "53": "resources", "25006": "read_only",
}  # fmt: skip


def metric_label(error: BaseException) -> str:
    """What sort of fault it is, in one word for a metric's label."""
    state = getattr(error, "sqlstate", None)
    if not isinstance(error, psycopg.Error) or not state:
        return "connection" if kind_of(error) is Kind.TRANSIENT else "other"
    return _SORTS.get(state) or _SORTS.get(state[:2], "other")


_CHATTER = re.compile(
    r"(^consuming input failed: )|( Is the server running on (that|the) host and accepting TCP/IP connections\?)"
    r"|( This probably means the server terminated abnormally before or while processing the request\.)"
)
"""What libpq adds to its errors and nobody needs at three in the morning."""


def in_one_line(error: BaseException) -> str:
    """The error in one line, without a password and without the SQL around it."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = " ".join((primary or str(error) or type(error).__name__).split())
    return without_password(_CHATTER.sub("", text))[:500]


def tag(error: BaseException, database: str) -> None:
    """Remember of which database an error speaks. The first to know keeps its word."""
    if not hasattr(error, "database"):
        error.database = database  # type: ignore[attr-defined]


def with_database(error: BaseException) -> str:
    """The error in one line, headed by the name of its database where that is known."""
    database = getattr(error, "database", None)
    return f"{database}: {in_one_line(error)}" if database else in_one_line(error)


def without_password(text: str) -> str:
    """The text with every password of a connection string masked."""
    # Up to the last @: a password that is not encoded holds some, and slashes.
    text = re.sub(r"(://[^:@/\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)(password\s*=\s*)('[^']*'|\S+)", r"\1***", text)
