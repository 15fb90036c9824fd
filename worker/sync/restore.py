"""Recognise a database that was restored to an earlier moment, before a pull trusts a snapshot. What is done about it
is in :mod:`worker.sync.recovery`. Knows no rules of validation.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from worker.domain.model import moment, utc_now
from worker.entities.declaration import Entity
from worker.neon.pulls import Counts
from worker.postgres.connection import Connection
from worker.supabase.position import Position, read_position, restored_in_words
from worker.supabase.receipts import CHUNK
from worker.sync.catch_up import CaughtUp, older_than_carried
from worker.sync.route import Route, route_of

log = structlog.get_logger("worker.restore")


@dataclass
class Comparison:
    """What each database has forgotten of the other, and what was done about it."""

    entity: str
    counts: Counts
    side: str | None = None
    """Which one was restored: ``Neon`` or ``Supabase``; None for neither."""
    after: datetime | None = None
    """The last moment that the restored one remembers; UTC without zone."""
    before: datetime | None = None
    """When the first event happened that it has forgotten; UTC without zone."""
    forgotten: list[str] = field(default_factory=list)
    """Keys whose latest acknowledged outcome Neon has forgotten."""
    again: list[str] = field(default_factory=list)
    """Of ``forgotten``: promoted again."""
    kept: list[str] = field(default_factory=list)
    """Of ``forgotten``: the enricher's values are kept in the workspace, as edits."""
    lost: list[str] = field(default_factory=list)
    """Records that Neon no longer has."""
    acknowledged: list[str] = field(default_factory=list)
    """Of ``forgotten``: rows from a backup that got the outcome of a newer version known to Neon."""
    caught_up: CaughtUp = field(default_factory=CaughtUp)
    held: bool = False
    """Whether another transaction held a row that should be brought together."""

    @property
    def neon_restored(self) -> bool:
        """Whether Neon was restored to an earlier moment."""
        return self.side == "Neon"

    def blame_supabase(self, position: Position) -> None:
        """Note that Supabase was restored, to a moment that its position tells."""
        self.side, self.after = "Supabase", position.last_pull_at

    def in_words(self) -> str:
        """Which side was restored, and to what moment."""
        return restored_in_words(self.stored)

    @property
    def stored(self) -> dict[str, Any]:
        """What the workspace stores about it, for later questions."""
        return {
            "side": self.side,
            "noticed_at": utc_now().isoformat(),
            "after": self.after.isoformat() if self.after else None,
            "before": self.before.isoformat() if self.before else None,
            "promoted_again": len(self.again),
            "kept": len(self.kept),
            "told": self.caught_up.acknowledged + len(self.acknowledged),
        }


async def recognise(route: Route, position: Position, neon: Connection, supabase: Connection) -> Comparison:
    """Find the acknowledged outcomes that Neon has forgotten, and whether the workspace has forgotten a pull.

    Raises:
        psycopg.Error: a database failed.
    """
    counts = await route.pulls.counts(neon, position.counted)
    found = Comparison(route.entity.name, counts)
    restored, unfinished = counts.lacks(position.counted), held_back(position)
    # The position's ledger id is of a ledger that a restored Neon does not have any more.
    after = 0 if restored or unfinished else position.ledger_id or 0
    while chunk := await route.receipts.after(supabase, after):
        after = max(receipt.id for receipt in chunk.values())
        found.forgotten += await route.ledger.forgotten(neon, chunk)
        if len(chunk) < CHUNK:
            break
    if restored or found.forgotten or unfinished:
        found.side, found.after = "Neon", _last_in_common(position, counts)
        if found.forgotten:
            found.before = await route.receipts.first_acknowledged(supabase, found.forgotten)
        if unfinished and not restored:
            # The pull that recognised it has been counted since.
            found.after = moment(unfinished.get("after"))
            found.before = moment(unfinished.get("before"))
    elif position.last_pull_at and position.counted.number < counts.confirmed:
        found.blame_supabase(position)
    return found


def _last_in_common(position: Position, counts: Counts) -> datetime | None:
    """The moment to which Neon remembers what the workspace does, where its last pull tells it: it is none since the
    restore, and no other history's.
    """
    at, last = counts.moment, position.last_pull_at
    return at if at and last and at <= last and counts.last.number <= position.counted.number else None


def held_back(position: Position) -> dict[str, Any] | None:
    """A restore of Neon that was recognised while rows were locked: those are still to be checked."""
    restored = position.restored
    return restored if restored and restored.get("held") else None


def _is(some: Sized) -> str:
    return "is" if len(some) == 1 else "are"


async def unsettled(entity: Entity, neon: Connection, supabase: Connection) -> str | None:
    """In words, a restore of a database that is not settled yet; None if there is none. Writes nothing.

    Raises:
        psycopg.Error: a database failed.
    """
    route, position = route_of(entity), await read_position(supabase, entity)
    found = await recognise(route, position, neon, supabase)
    if found.side == "Neon":
        what = f"what became of {entity.count(len(found.forgotten))}" if found.forgotten else "the last pull"
        return f"{found.in_words()}: it has forgotten {what}"
    older = await older_than_carried(route, neon, supabase, position.ledger_id or 0)
    if found.side or older:
        found.blame_supabase(position)
        rows = entity.count(len(older))
        what = f"{rows} there {_is(older)} older than what was carried of them" if older else "it lacks the last pull"
        return f"{found.in_words()}: {what}"
    if lost := await route.workspace.lost(supabase):
        text = restored_in_words(position.restored or {"side": "Neon"})
        return f"{text}: {entity.count(len(lost))} {_is(lost)} not in Neon any more, and kept in the workspace"
    return None
