"""Supabase: the events that wait to be posted to ``N8N_WEBHOOK_URL``. An event commits together with the change that it
announces, so none is lost. ``deploy/webhook.schema.json`` is generated from the models here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from worker.domain.recent import shown_code, shown_key
from worker.entities.declaration import Entity
from worker.entities.worker_tables import OUTBOX
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import COMMIT, Step, begin, begin_and_fetch, fetch_one, send

RECORDS = 1000
"""At most this many records in one event: a larger batch becomes several events."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = Field(default=1, description="Of this format; a field may be added without a new one.")
    id: UUID = Field(default_factory=uuid4, description="The same over all retries; also the Idempotency-Key header.")
    at: datetime = Field(default_factory=lambda: datetime.now(UTC), description="When it happened, UTC.")
    entity: str = Field(description="company, people, or another entity that is declared.")
    run_id: str = Field(description="Of the batch or the pull, as in the ledger and in shq_validation_log.")
    counts: dict[str, int]


class RecordOutcome(BaseModel):
    """What became of one record."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="The Barton ID.")
    outcome: str = Field(description="promoted, flagged, waiting, withdrawn, undone, or gone: no longer in Neon.")
    reason_code: str | None = Field(default=None, description="Of the first error of a flagged record.")


class OutcomesEvent(_Event):
    """What became of the records of a batch."""

    type: Literal["outcomes"] = "outcomes"
    counts: dict[str, int] = Field(description="Outcome → records of this event.")
    records: list[RecordOutcome] = Field(max_length=RECORDS)


class PullEvent(_Event):
    """What a pull brought to the workspace."""

    type: Literal["pull"] = "pull"
    full: bool = Field(description="Whether every record was compared.")
    counts: dict[str, int] = Field(description="seen, new, changed, withdrawn, orphaned, released → records.")


def schema() -> dict[str, Any]:
    """The JSON Schema of the events."""
    events: TypeAdapter[Any] = TypeAdapter(OutcomesEvent | PullEvent)
    return events.json_schema(mode="serialization")


def outcomes(entity: Entity, run_id: str, became: Iterable[tuple[str, str, str | None]]) -> list[Step]:
    """The steps that announce outcomes: key, outcome and reason code of each record."""
    records = [
        RecordOutcome(key=shown_key(key), outcome=outcome, reason_code=shown_code(code) if code else None)
        for key, outcome, code in became
    ]
    parts = [records[start : start + RECORDS] for start in range(0, len(records), RECORDS)]
    return [
        _put(
            OutcomesEvent(entity=entity.name, run_id=run_id, counts=Counter(one.outcome for one in part), records=part)
        )
        for part in parts
    ]


def pulled(entity: Entity, run_id: str, result: Mapping[str, Any]) -> Step:
    """The step that announces a pull."""
    names = ("seen", "new", "changed", "withdrawn", "orphaned", "released")
    counts = {name: result[name] for name in names}
    return _put(PullEvent(entity=entity.name, run_id=run_id, full=result["full"], counts=counts))


def _put(event: _Event) -> Step:
    statement = sql.SQL("INSERT INTO {} (entity, event) VALUES (%(entity)s, %(event)s)").format(OUTBOX.sql)
    return statement, {"entity": event.entity, "event": Jsonb(event.model_dump(mode="json"))}


@dataclass(frozen=True)
class Waiting:
    """An event that waits to be posted."""

    id: int
    event: dict[str, Any]
    age: float
    """Seconds since it happened."""


_OLDEST = statement("worker.supabase", "oldest_event")
_PENDING = sql.SQL("SELECT count(*) AS pending FROM {outbox} WHERE entity = %(entity)s")


class Held(Exception):
    """Another worker posts the events of this entity."""


async def oldest(connection: Connection, entity: Entity, *, after: int = 0) -> Waiting | None:
    """The oldest event of an entity, locked in a transaction that stays open; None if none waits.

    Args:
        connection: to Supabase.
        entity: whose events.
        after: only events with a higher id. An event that commits late may have a lower id: also call without this.

    Raises:
        Held: another worker posts.
    """
    step = _OLDEST.format(outbox=OUTBOX.sql), {"entity": entity.name, "after": after}
    [row] = await begin_and_fetch(connection, begin(), step)
    if row["first"] is None:
        return None
    if row["id"] is None:
        raise Held
    return Waiting(row["id"], row["event"], row["age"])


async def pending(connection: Connection, entity: Entity) -> int:
    """How many events of an entity wait. The cost grows with their number."""
    step = _PENDING.format(outbox=OUTBOX.sql), {"entity": entity.name}
    row = await fetch_one(connection, *step)
    return int(row["pending"])


async def waiting_with(connection: Connection, key: str) -> int:
    """How many events that name this record wait to be posted."""
    statement = sql.SQL("SELECT count(*) AS events FROM {} WHERE event -> 'records' @> %(record)s").format(OUTBOX.sql)
    row = await fetch_one(connection, statement, {"record": Jsonb([{"key": key}])})
    return int(row["events"])


async def posted(connection: Connection, event: Waiting) -> None:
    """Delete an event that was posted, and end the transaction that held it."""
    statement = sql.SQL("DELETE FROM {} WHERE id = %(id)s").format(OUTBOX.sql)
    await send(connection, (statement, {"id": event.id}), COMMIT)


async def not_posted(connection: Connection, event: Waiting, reason: str) -> None:
    """Record why an event could not be posted, and end the transaction that held it."""
    statement = sql.SQL("UPDATE {} SET attempts = attempts + 1, last_error = %(reason)s WHERE id = %(id)s")
    await send(connection, (statement.format(OUTBOX.sql), {"id": event.id, "reason": reason}), COMMIT)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201 - for deploy/webhook.schema.json
