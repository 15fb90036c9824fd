"""Work on many rows of the workspace, of which it may refuse some: those are told and passed over, and hold up nobody.
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
"""How many refusals of one pull are logged one by one."""
MOST_REFUSED = 50
"""How many records the workspace may refuse, before it is asked whether it refuses most of them."""


@dataclass
class Refusals:
    """What the workspace refused of what it was brought."""

    event: str
    """What each is logged as."""
    refused: int = 0
    taken: int = 0
    first: tuple[str, psycopg.Error] | None = None
    """The first that was refused, and why."""

    def add(self, entity: Entity, key: str, error: psycopg.Error) -> None:
        """Count one, and log it while they are few."""
        self.refused += 1
        self.first = self.first or (key, error)
        if self.refused <= LOGGED:
            log.warning(self.event, entity=entity.name, key=key, error=in_one_line(error))

    def sum_up(self, entity: Entity) -> None:
        """Log how many there were beside those that were logged."""
        if self.refused > LOGGED:
            log.warning("pull.refused.more", of=self.event, entity=entity.name, records=self.refused - LOGGED)

    def check(self, entity: Entity) -> None:
        """Look whether it is no record's fault any more.

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


async def in_parts(
    supabase: Connection,
    step: Callable[[Sequence[T]], Awaitable[None]],
    items: Sequence[T],
    refused: Callable[[T, psycopg.Error], Awaitable[None]],
) -> int:
    """Do a step for all of these; where the workspace refuses some of them, for all the others.

    Args:
        supabase: to Supabase.
        step: does it, in transactions of its own.
        items: what to do it for.
        refused: told of each for which it cannot be done, and why; what it raises ends all of it.

    Returns:
        For how many it was done.

    Raises:
        psycopg.Error: a database failed, or refuses what is no record's.
    """
    try:
        await step(items)
    except psycopg.Error as error:
        # Neon was only read, or booked what the workspace had taken.
        if not is_about_records(error) or getattr(error, "database", None) == "Neon":
            raise
        await send(supabase, ROLLBACK)
        if len(items) == 1:
            await refused(items[0], error)
            return 0
        half = len(items) // 2
        first = await in_parts(supabase, step, items[:half], refused)
        return first + await in_parts(supabase, step, items[half:], refused)
    return len(items)
