"""Work on many rows of the workspace, which may refuse some: those are reported and skipped, and block no other row.
Knows no tables.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg
import structlog

from worker.entities.declaration import Entity
from worker.postgres.connection import Connection
from worker.postgres.errors import SchemaProblem, SetupMissing, in_one_line, is_about_records
from worker.postgres.hints import hint_for
from worker.postgres.transaction import ROLLBACK, send

log = structlog.get_logger("worker.pull")

T = TypeVar("T")
LOGGED = 50
"""At most this many refusals of one pull are logged one by one."""
MOST_REFUSED = 50
"""The workspace may refuse this many records before it matters whether it refuses most of them."""


@dataclass
class Refusals:
    """What the workspace refused."""

    event: str
    """The log event of each refusal."""
    refused: int = 0
    taken: int = 0
    first: tuple[str, psycopg.Error] | None = None
    """The first refused key, and why."""

    def add(self, entity: Entity, key: str, error: psycopg.Error) -> None:
        """Count a refusal, and log it while there are few."""
        self.refused += 1
        self.first = self.first or (key, error)
        if self.refused <= LOGGED:
            log.warning(self.event, entity=entity.name, key=key, error=in_one_line(error))

    def sum_up(self, entity: Entity) -> None:
        """Log how many more there were than were logged one by one."""
        if self.refused > LOGGED:
            log.warning("pull.refused.more", of=self.event, entity=entity.name, records=self.refused - LOGGED)

    def check(self, entity: Entity) -> None:
        """Check whether the refusals can still be the records' own fault.

        Raises:
            SetupMissing: the workspace refuses many records, and most of them.
        """
        if self.first and self.refused > MOST_REFUSED and self.refused > self.taken:
            key, error = self.first
            what = f"Supabase's {entity.workspace_table} refuses more than {MOST_REFUSED} {entity.plural}"
            hint = (
                hint_for(error) or "fix what refuses them, a trigger or a constraint: the pull goes on by itself then"
            )
            raise SetupMissing([SchemaProblem(f"{what}, {key} as the first: {in_one_line(error)}", hint)]) from error


async def for_each_accepted(
    supabase: Connection,
    step: Callable[[Sequence[T]], Awaitable[None]],
    items: Sequence[T],
    refused: Callable[[T, psycopg.Error], Awaitable[None]],
) -> int:
    """Do a step for all items; if the workspace refuses some, for all others.

    Args:
        supabase: to Supabase.
        step: does it, in transactions of its own.
        items: what to do it for.
        refused: called with each refused item, and why; an exception from it ends everything.

    Returns:
        For how many items it was done.

    Raises:
        psycopg.Error: a database failed, or the refusal is not about records.
    """
    try:
        await step(items)
    except psycopg.Error as error:
        # An error of Neon's is never about these rows: Neon is only read, or books what the workspace has taken.
        if not is_about_records(error) or getattr(error, "database", None) == "Neon":
            raise
        await send(supabase, ROLLBACK)
        if len(items) == 1:
            await refused(items[0], error)
            return 0
        half = len(items) // 2
        first = await for_each_accepted(supabase, step, items[:half], refused)
        return first + await for_each_accepted(supabase, step, items[half:], refused)
    return len(items)
