"""Supabase: the position of each entity's pull, which only one worker moves at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog
from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.failures import NOTHING_COUNTED, Counted
from worker.domain.horizon import Horizon, recall
from worker.domain.pulled import NO_PULL, CountedPull
from worker.entities.declaration import Entity
from worker.entities.worker_tables import PAUSED, POSITION
from worker.postgres.backoff import LogThrottle
from worker.postgres.connection import Connection
from worker.postgres.transaction import (
    COMMIT,
    Step,
    begin,
    begin_and_fetch,
    fetch_all,
    fetch_first,
    fetch_inside,
    send,
    transact,
)
from worker.supabase.pause import Paused

log = structlog.get_logger("worker.pull")

GUARD_SECONDS = 120.0
"""How long a puller may be silent before another may take over."""


@dataclass(frozen=True)
class Position:
    """How far the pull of an entity has read. Times are UTC without zone."""

    horizon: Horizon | None
    """None if nothing was pulled, or the last pull was by another release, which does not store open transactions."""
    last_pull_at: datetime | None
    last_full_at: datetime | None
    counted: CountedPull = NO_PULL
    """The last pull that was completed."""
    ledger_id: int | None = None
    """The workspace shows all outcomes of Neon's ledger up to this id."""
    restored: dict[str, Any] | None = None
    """The last restore that was recognised."""
    unfinished: str | None = None
    """Run id of a pull that began to bring records and has not ended."""
    failures: Counted = NOTHING_COUNTED
    """Up to where the failures are counted."""


_ADD = sql.SQL("INSERT INTO {} (entity) VALUES (%(entity)s) ON CONFLICT DO NOTHING").format(POSITION.sql)
_READ = sql.SQL("SELECT * FROM {} WHERE entity = %(entity)s").format(POSITION.sql)
_TAKE = sql.SQL(
    "SELECT p.*, EXISTS (SELECT FROM {} z WHERE z.entity = p.entity) AS paused FROM {} p WHERE p.entity = %(entity)s"
    " FOR UPDATE OF p SKIP LOCKED"
).format(PAUSED.sql, POSITION.sql)
_MARK = sql.SQL(
    "UPDATE {} SET unfinished_run_id = coalesce(unfinished_run_id, %(run_id)s) WHERE entity = %(entity)s"
).format(POSITION.sql)
_BROUGHT_NOTHING = sql.SQL("UPDATE {} SET unfinished_run_id = NULL WHERE entity = %(entity)s").format(POSITION.sql)
_SAVE_RESTORED = sql.SQL("UPDATE {} SET restored = %(restored)s WHERE entity = %(entity)s").format(POSITION.sql)
_SAVE = sql.SQL(
    "UPDATE {} SET position = coalesce(%(position)s, position), last_id = coalesce(%(last_id)s, last_id),"
    " open_transactions = coalesce(%(open)s, open_transactions), last_run_id = %(run_id)s,"
    " last_result = %(result)s, pulls = %(pulls)s, ledger_id = %(ledger_id)s, counted_run_id = %(run_id)s,"
    " unfinished_run_id = NULL,"
    " last_pull_at = clock_timestamp() AT TIME ZONE 'UTC',"
    " last_full_at = CASE WHEN %(full)s THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE last_full_at END"
    " WHERE entity = %(entity)s"
).format(POSITION.sql)
IS_DUE = sql.SQL(
    "(p.last_pull_at IS NULL OR p.last_pull_at > c.now"
    " OR p.last_pull_at <= c.now - make_interval(secs => %(interval)s))"
)
"""The condition that the pull of a position ``p`` is due; ``c.now`` is now, UTC without zone."""
_DUE = sql.SQL(
    "SELECT e AS entity, p.last_pull_at > c.now AS ahead"
    " FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) c"
    " CROSS JOIN unnest(%(entities)s::text[]) e LEFT JOIN {} p ON p.entity = e"
    " WHERE NOT EXISTS (SELECT FROM {} z WHERE z.entity = e) AND {}"
).format(POSITION.sql, PAUSED.sql, IS_DUE)


async def take_position(connection: Connection, entity: Entity) -> Position | None:
    """Become the only puller of an entity until this transaction ends; None if another worker is.

    Raises:
        Paused: nobody pulls it.
        psycopg.Error: the database failed.
    """
    params = {"entity": entity.name}
    await transact(connection, (_ADD, params))
    rows = await begin_and_fetch(connection, begin(idle=GUARD_SECONDS), (_TAKE, params))
    if rows and rows[0]["paused"]:
        raise Paused([entity.name])
    return _position(rows[0]) if rows else None


async def mark_bringing(connection: Connection, entity: Entity, run_id: str, taken: Position) -> bool:
    """Commit that a pull begins to bring records, and go on as the only puller, in one round trip.

    What a pull brought that never ended is in no count: a Neon that is restored after it may lack it.

    Args:
        connection: which took the position.
        entity: whose pull.
        run_id: of the pull.
        taken: the position that was taken.

    Returns:
        Whether no other worker became the puller meanwhile.
    """
    params = {"entity": entity.name, "run_id": run_id}
    *_, found = await send(connection, (_MARK, params), COMMIT, *begin(idle=GUARD_SECONDS), (_TAKE, params))
    row = found.fetchone()
    return row is not None and _position(row) == replace(taken, unfinished=taken.unfinished or run_id)


def brought_nothing(entity: Entity) -> Step:
    """The step that takes back that a pull began to bring records. The holder must commit it."""
    return _BROUGHT_NOTHING, {"entity": entity.name}


async def read_position(connection: Connection, entity: Entity) -> Position:
    """Read the position of an entity's pull without a lock."""
    row = await fetch_first(connection, _READ, {"entity": entity.name})
    return _position(row) if row else Position(None, None, None)


async def last_counted(connection: Connection, entity: Entity) -> CountedPull:
    """The last pull of an entity that the workspace counts; read within the open transaction, if there is one."""
    rows = await fetch_inside(connection, _READ, {"entity": entity.name})
    return _position(rows[0]).counted if rows else NO_PULL


def _position(row: Mapping[str, Any]) -> Position:
    kept = row["open_transactions"] or {}
    known = kept.get("run_id") == row["last_run_id"]
    since = recall(row["position"], row["last_id"], kept) if known else None
    return Position(
        since, row["last_pull_at"], row["last_full_at"], CountedPull(row["pulls"], row["counted_run_id"]),
        row["ledger_id"], row["restored"], row["unfinished_run_id"],
        Counted(row["failures_id"], row["failures_run_id"]),
    )  # fmt: skip


def save_restored(entity: Entity, restored: Mapping[str, Any]) -> Step:
    """The step that stores what is known about a restore."""
    return _SAVE_RESTORED, {"restored": Jsonb(dict(restored)), "entity": entity.name}


def save_position(
    entity: Entity,
    reached: Horizon | None,
    counted: CountedPull,
    result: Mapping[str, Any],
    *,
    full: bool,
    ledger_id: int | None,
) -> Step:
    """The step that saves the position, or keeps the old one if ``reached`` is None. The holder must commit it."""
    return _SAVE, {
        "position": reached and reached.position,
        "last_id": reached and reached.last_id,
        "open": Jsonb({"run_id": counted.run_id, **reached.as_json()}) if reached else None,
        "run_id": counted.run_id,
        "result": Jsonb(result),
        "full": full,
        "pulls": counted.number,
        "ledger_id": ledger_id,
        "entity": entity.name,
    }


async def due(connection: Connection, entities: Iterable[Entity], interval: float) -> list[str]:
    """The entities that are not paused, and whose last pull, by any worker, is more than ``interval`` seconds ago or in
    the future. The latter means that the server's clock went back, so the age of the pull is unknown.
    """
    params = {"entities": [entity.name for entity in entities], "interval": interval}
    rows = await fetch_all(connection, _DUE, params)
    found = {row["entity"]: row["ahead"] for row in rows}
    ahead = sorted(name for name, is_ahead in found.items() if is_ahead)
    if ahead and (times := _AHEAD.seen(", ".join(ahead))) is not None:
        log.warning("pull.clock", entities=ahead, times=times)
    return [entity.name for entity in entities if entity.name in found]


_AHEAD = LogThrottle()


def restored_in_words(restored: Mapping[str, Any]) -> str:
    """Which side was restored, and to what moment, from the position's ``restored``."""
    moments = (("not before", restored.get("after")), ("before", restored.get("before")))
    parts = [f"{word} {at[:19].replace('T', ' ')} UTC" for word, at in moments if at]
    return f"{restored['side']} was restored to an earlier moment" + (f" ({' and '.join(parts)})" if parts else "")
