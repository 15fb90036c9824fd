"""What a transaction is made of: its steps, and how it begins. Nothing here is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from psycopg import sql

from worker.postgres.read_only import APPLY_DEFAULT

Statement = sql.Composed | sql.SQL
Params = Mapping[str, Any] | None
Step = tuple[Statement, Params]

COMMIT: Step = (sql.SQL("COMMIT"), None)
ROLLBACK: Step = (sql.SQL("ROLLBACK"), None)

STATEMENT_SECONDS = 15.0
LOCK_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""How long a transaction of a dead host may keep its row locks; longer than a healthy one waits for Neon."""

PID, LEVEL = "backend_pid", "default_level"
"""What a transaction's settings also tell: the server's process, and the session's default isolation."""

_READ_COMMITTED = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED")
_TELL = sql.SQL(f"pg_backend_pid() AS {PID}, current_setting('default_transaction_isolation') AS {LEVEL}")
# Overrides a default of `off`. A default that also waits for a standby is kept.
_WAIT_FOR_THE_DISK = sql.SQL("coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on')")


class _Ready(sql.SQL):
    """A statement with its text, which psycopg would make again each time."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def as_string(self, _context: object = None) -> str:
        return self._text


def composed(statement: sql.Composable) -> sql.SQL:
    """The statement composed once, for reuse: a large one costs more to compose than to send."""
    return _Ready(statement.as_string())


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """How a transaction begins."""

    begin: Step
    settings: Step
    """Sets its settings, for this transaction only."""
    kept: Step | None
    """Sets them for the session, where that is the worker's own; None: that is not allowed."""

    @property
    def steps(self) -> tuple[Step, Step]:
        """The steps that open it."""
        return self.begin, self.settings

    @property
    def as_by_default(self) -> bool:
        """Whether a transaction of this kind needs no BEGIN where READ COMMITTED is the default."""
        return self.begin[0] == _READ_COMMITTED


@lru_cache(maxsize=64)
def begin(
    *,
    read_only: bool = False,
    repeatable: bool = False,
    statement: float = STATEMENT_SECONDS,
    lock: float = LOCK_SECONDS,
    idle: float = IDLE_SECONDS,
    planner: tuple[str, ...] = (),
    planned_once: bool = False,
    durable: bool = True,
    kept: bool = False,
) -> Opening:
    """How a transaction begins, with the worker's settings.

    Args:
        read_only: the server refuses any write.
        repeatable: every statement sees the same snapshot.
        statement: statement timeout in seconds; 0 for no limit.
        lock: lock timeout in seconds.
        idle: seconds that the transaction may be idle before the server ends it and releases its locks.
        planner: names of planner settings to turn off.
        planned_once: a prepared statement gets a generic plan at once, instead of being planned five times first.
        durable: its COMMIT waits for the disk. Else a crash of the server may lose the latest commits.
        kept: a session that is the worker's own may keep the settings, so that they are not sent each time. Then the
            transaction's first statement has to call :data:`worker.postgres.read_only.APPLY_DEFAULT`.
    """
    level = "REPEATABLE READ" if repeatable else "READ COMMITTED"
    # Never READ WRITE: that would override a database's default, and a standby refuses it.
    mode = " READ ONLY" if read_only else ""
    values: dict[str, sql.Composable] = {
        name: sql.Literal(value)
        for name, value in {
            "TimeZone": "UTC",
            "DateStyle": "ISO",
            "statement_timeout": f"{int(statement * 1000)}",
            "lock_timeout": f"{int(lock * 1000)}",
            "idle_in_transaction_session_timeout": f"{int(idle * 1000)}",
            "enrichment_worker.writer": "on",
            # JIT compilation costs hundreds of milliseconds for a statement that runs for a few.
            "jit": "off",
            **dict.fromkeys(planner if durable else (*planner, "synchronous_commit"), "off"),
            **({"plan_cache_mode": "force_generic_plan"} if planned_once else {}),
        }.items()
    }
    # A transaction that only reads has nothing to flush.
    if durable and not read_only:
        values["synchronous_commit"] = _WAIT_FOR_THE_DISK
    default = () if read_only or kept else (APPLY_DEFAULT,)
    return Opening(
        (sql.SQL(f"BEGIN ISOLATION LEVEL {level}{mode}"), None),
        (_settings(values, "true", *default, _TELL), None),
        (_settings(values, "false"), None) if kept else None,
    )


def _settings(values: Mapping[str, sql.Composable], local: str, *also: sql.Composable) -> sql.SQL:
    calls = [sql.SQL(f"set_config({{}}, {{}}, {local})").format(name, value) for name, value in values.items()]
    return composed(sql.SQL("SELECT {}").format(sql.SQL(", ").join([*calls, *also])))
