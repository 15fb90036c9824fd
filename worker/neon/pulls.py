"""Neon: the pulls that both databases count. A Neon that does not know the last one was restored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from worker.domain.pulled import CountedPull
from worker.entities.declaration import Entity
from worker.entities.worker_tables import LEDGER, PULLS, RECEIPTS
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, composed, fetch_one

REMEMBERED = 10_000
"""So many pulls of an entity Neon knows by their run ids."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What Neon knows about the pulls, compared with what the workspace counts."""

    last: CountedPull
    """The last pull that Neon counts."""
    confirmed: int
    """The number of the last pull that the workspace certainly kept."""
    settled_id: int
    """All ledger rows up to this id are committed."""
    knows: bool
    """Whether Neon knows the pull that it was asked about."""
    moment: datetime | None
    """When the last pull that Neon remembers ended; UTC without zone. Ledger rows may be newer than a restore."""

    def lacks(self, kept: CountedPull) -> bool:
        """Whether Neon was restored: it has forgotten the last pull that the workspace counts.

        Args:
            kept: that pull; Neon was asked about it.
        """
        if kept.run_id is None:  # counted by a release that kept numbers alone
            return kept.number > self.last.number
        return not self.knows and self.last.number - kept.number < REMEMBERED


_NAMES = {"receipts": RECEIPTS.sql, "pulls": PULLS.sql, "slots": sql.Literal(REMEMBERED)}
_COUNTS = composed(statement("worker.neon", "counts").format(ledger=LEDGER.sql, **_NAMES))
_COUNT_PULL = composed(statement("worker.neon", "count_pull").format(**_NAMES))


class Pulls:
    """The pulls of one entity, as Neon counts them."""

    def __init__(self, entity: Entity) -> None:
        """Count nothing yet."""
        self._entity = entity.name

    async def counts(self, connection: Connection, kept: CountedPull) -> Counts:
        """What Neon knows about the pulls.

        Args:
            connection: to Neon.
            kept: the last pull that the workspace counts.
        """
        params = {"entity": self._entity, "number": kept.number, "run_id": kept.run_id}
        row = dict(await fetch_one(connection, _COUNTS, params))
        return Counts(CountedPull(row.pop("pulls"), row.pop("run_id")), **row)

    def count(self, one: CountedPull, before: CountedPull, confirmed: int) -> Step:
        """The step that counts a pull. It returns a row, or none where another pull than ``before`` is the last.

        Args:
            one: the pull.
            before: the last pull that Neon counted when it began.
            confirmed: the number of the last pull that the workspace counted then.
        """
        return _COUNT_PULL, {
            "entity": self._entity, "number": one.number, "run_id": one.run_id, "confirmed": confirmed,
            "was": before.number, "was_run_id": before.run_id,
        }  # fmt: skip
