"""What the master table will say of records, asked in a transaction that is rolled back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import psycopg

from worker.domain.model import Action, Outcome, State, Status
from worker.domain.steps import Claimed, Judged, Settled
from worker.entities.declaration import Entity
from worker.entities.registry import ENTITIES
from worker.neon import invalid
from worker.neon.books import Run
from worker.neon.demands import with_errors
from worker.neon.invalid import InvalidRow
from worker.neon.settle import locks, parameters
from worker.postgres.connection import Connection
from worker.postgres.errors import LOCKED, Kind, kind_of
from worker.postgres.transaction import ROLLBACK, Step, send
from worker.supabase import queue
from worker.sync.databases import Databases
from worker.sync.judging import judge
from worker.sync.settling import REFUSED, raise_blocked, settle_batch


@dataclass
class Revalidated:
    """What a judging found, by key."""

    passed: list[str] = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Key → what is wrong, in one line."""
    left: dict[str, str] = field(default_factory=dict)
    """Key → why it was not touched."""
    otherwise: list[str] = field(default_factory=list)
    """Of those that failed and had failed before: the keys whose reasons are others now."""

    def add(self, other: Revalidated) -> None:
        """Count another batch in."""
        self.passed += other.passed
        self.promoted += other.promoted
        self.failed |= other.failed
        self.left |= other.left
        self.otherwise += other.otherwise


def begin_in_neon(entity: Entity, row: InvalidRow, at: queue.Row | None) -> Judged:
    """A record as it lies in Neon, judged; ``at`` is its workspace row."""
    # After an undo the record lies there as it was, and may be promoted again.
    undone = [row.undone_id] if row.undone_id else []
    seal = json.dumps([row.key, str(row.updated_at), row.hash, *undone])
    claimed = Claimed(
        key=row.key,
        version=at.claimed.version if at else None,
        data=row.data,
        snapshot=row.data,
        snapshot_hash=row.hash,
        delivery_hash=hashlib.md5(seal.encode(), usedforsecurity=False).hexdigest(),
        enriched_by=row.enriched_by,
        enriched_at=row.enriched_at,
        status=at.claimed.status if at else Status.COMPLETE,
        in_neon=True,
    )
    return judge(entity, claimed, row.data, row.hash)


async def rehearse(
    databases: Databases,
    neon: Connection,
    entity: Entity,
    judgements: Sequence[Judged],
    run: Run,
    found: Revalidated,
    assumed: Set[str],
) -> list[Judged]:
    """Ask the master table what it would say of those that pass. Those that it refuses are flags by now, and those that
    would wait, or are held, are left. What waits for records that pass in this very run, ``assumed``, is asked again
    after their promotion.
    """
    passed = [judged for judged in judgements if judged.action is Action.PROMOTE]
    settled, blocked = await settle_batch(databases, neon, entity, passed, replace(run, rehearsal=()))
    raise_blocked(blocked)
    said = {one.key: one for one in settled}
    if waiting := [one for one in settled if one.answer.waits_for and one.answer.waits_for in assumed]:
        steps = await _promotions(databases, neon, entity, {str(one.answer.waits_for) for one in waiting}, run)
        later = replace(run, rehearsal=tuple(steps))
        try:
            settled, blocked = await settle_batch(databases, neon, entity, [one.judged for one in waiting], later)
        except psycopg.Error as error:
            # Together those records are not promoted, such as two with one web address: these wait for them.
            if kind_of(error) is Kind.TRANSIENT and error.sqlstate != LOCKED:
                raise
            await send(neon, ROLLBACK)
        else:
            raise_blocked(blocked)
            said |= {one.key: one for one in settled}
    left: list[Judged] = []
    for judged in judgements:
        one = said.get(judged.key)
        if one is None:
            left.append(judged)
        elif one.answer.outcome is Outcome.FLAGGED and one.judged.action is Action.PROMOTE:
            refused = replace(judged, verdict=replace(judged.verdict, reason_code=REFUSED), action=Action.FLAG)
            left.append(with_errors(refused, one.answer.errors))
        elif one.answer.outcome is Outcome.FLAGGED:
            left.append(with_errors(one.judged, one.answer.errors))
        elif one.answer.outcome is Outcome.PROMOTED:
            left.append(one.judged)
        else:
            count_settled(found, one)
    return left


async def _promotions(
    databases: Databases, neon: Connection, entity: Entity, keys: Collection[str], run: Run
) -> list[Step]:
    """The steps that promote the records that ``entity`` waits for, in a rehearsal."""
    steps: list[Step] = []
    for other in ENTITIES.values():
        if entity.name in other.releases:
            rows = await invalid.read(neon, other, list(keys))
            batch = [begin_in_neon(other, row, None) for row in rows.values()]
            how = databases.settlements[other.name]
            settling = (how.settle, parameters(how, batch, replace(run, rehearsal=())))
            steps += [*locks(how, batch), settling] if batch else []
    return steps


def count_settled(found: Revalidated, settled: Settled) -> None:
    """Count what became of a record."""
    said, key = settled.answer, settled.key
    if not settled.ended:
        found.left[key] = "somebody else is changing it: try again"
    elif said.state is State.GONE:
        found.left[key] = "it is not in the invalid table any more"
    elif said.outcome is Outcome.PROMOTED:
        found.promoted.append(key)
    elif said.outcome is Outcome.WAITING:
        found.left[key] = said.note or "it waits"
    elif said.outcome is Outcome.FLAGGED:
        found.failed[key] = in_words(said.errors)
        if key in found.passed:
            found.passed.remove(key)


def in_words(errors: Mapping[str, str]) -> str:
    """Errors in one line."""
    return "; ".join(f"{name}: {message}" for name, message in errors.items())
