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
from worker.neon.books import Run
from worker.neon.demands import with_errors
from worker.neon.invalid import InvalidRow
from worker.neon.settle import locks, parameters
from worker.postgres.connection import Connection
from worker.postgres.transaction import Step, roll_back_refusal
from worker.supabase.queue import Row
from worker.sync.judging import judge
from worker.sync.route import Route
from worker.sync.settling import REFUSED, Blocked, raise_blocked, settle_batch

Pushable = Mapping[str, Mapping[str, Judged]]


@dataclass
class Revalidated:
    """What a judging found, by key."""

    passed: list[str] = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Key → what is wrong, in one line."""
    left: dict[str, str] = field(default_factory=dict)
    """Key → why it was not touched."""
    warned: dict[str, str] = field(default_factory=dict)
    """Of those that pass a rehearsal as duplicates: key → what is said of it, in one line."""
    otherwise: list[str] = field(default_factory=list)
    """Of those that failed and had failed before: the keys whose reasons are others now."""

    def add(self, other: Revalidated) -> None:
        """Count another batch in."""
        self.passed += other.passed
        self.promoted += other.promoted
        self.failed |= other.failed
        self.left |= other.left
        self.warned |= other.warned
        self.otherwise += other.otherwise


def begin_in_neon(entity: Entity, row: InvalidRow, at: Row | None) -> Judged:
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
        distinct=at is not None and at.claimed.distinct,
        in_neon=True,
    )
    return judge(entity, claimed, row.data, row.hash)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Asks the master table what it would say of records."""

    route: Route
    neon: Connection
    run: Run
    pushed: Pushable = field(default_factory=dict)
    """Entity → key → the judgement of a record as it would be pushed before: what others wait for may be among them."""

    async def ask(self, judgements: Sequence[Judged], found: Revalidated, assumed: Set[str]) -> list[Judged]:
        """Ask what it would say of those that pass. Those that it refuses are flags by now, and those that would wait,
        or are held, are left. What waits for records that pass in this very run, ``assumed``, is asked again after
        their promotion.
        """
        said, blocked = await self._settle([judged for judged in judgements if judged.action is Action.PROMOTE])
        raise_blocked(blocked)
        if waiting := [one for one in said.values() if one.answer.waits_for and one.answer.waits_for in assumed]:
            promotions = await self._promotions({str(one.answer.waits_for) for one in waiting})
            try:
                again, blocked = await self._settle([one.judged for one in waiting], promotions)
            except psycopg.Error as error:
                # Together those records are not promoted, such as two with one web address: these wait for them.
                await roll_back_refusal(self.neon, error, or_locked=True)
            else:
                raise_blocked(blocked)
                said |= again
        left: list[Judged] = []
        for judged in judgements:
            one = said.get(judged.key)
            if one is None:
                left.append(judged)
            elif one.answer.outcome is Outcome.FLAGGED and one.judged.action is Action.PROMOTE:
                code = one.answer.reason_code or REFUSED
                refused = replace(judged, verdict=replace(judged.verdict, reason_code=code), action=Action.FLAG)
                left.append(with_errors(refused, one.answer.errors))
            elif one.answer.outcome is Outcome.FLAGGED:
                left.append(with_errors(one.judged, one.answer.errors))
            elif one.answer.outcome is Outcome.PROMOTED:
                left.append(one.judged)
                known = one.judged.verdict.warnings
                if alike := {name: said for name, said in one.answer.warnings.items() if name not in known}:
                    found.warned[one.key] = in_words(alike)
            else:
                count_settled(found, one)
        return left

    async def _settle(
        self, batch: Sequence[Judged], before: Sequence[Step] = ()
    ) -> tuple[dict[str, Settled], Blocked | None]:
        """What would become of a batch after these steps, by key."""
        run = replace(self.run, rehearsal=tuple(before))
        settled, blocked = await settle_batch(self.route, self.neon, batch, run)
        return {one.key: one for one in settled}, blocked

    async def _promotions(self, keys: Collection[str]) -> list[Step]:
        """The steps that promote the records that these wait for."""
        steps: list[Step] = []
        for other in self.route.awaited:
            rows = await other.invalid.read(self.neon, list(keys))
            ahead = self.pushed.get(other.entity.name, {})
            batch = [ahead.get(row.key) or begin_in_neon(other.entity, row, None) for row in rows.values()]
            how = other.settlement
            settling = (how.settle, parameters(how, batch, replace(self.run, rehearsal=())))
            steps += [locks(how, batch), settling] if batch else []
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
