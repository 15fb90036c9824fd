"""Judging records where they lie in Neon: what ``revalidate`` and ``promote`` do, and a pull for what
somebody pushed by hand. The record's way is the delivery's, only that it starts in Neon.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from worker.domain.model import Action, Delivery, Outcome, State, Status, Verdict
from worker.domain.progress import NOBODY, Progress
from worker.entities.declaration import Entity
from worker.neon import invalid
from worker.neon.invalid import InvalidRow, Run, Which
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, send
from worker.supabase import queue
from worker.sync.acknowledge import acknowledge, release_ready
from worker.sync.databases import Databases
from worker.sync.deliver import keys_with, outcome_events
from worker.sync.judging import judge
from worker.sync.replies import reply_to
from worker.sync.settling import complain, flagged, settle_batch


@dataclass
class Judged:
    """What a judging found, by key."""

    passed: list[str] = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Key → what is wrong, in one line."""
    left: dict[str, str] = field(default_factory=dict)
    """Key → why it was not touched."""
    otherwise: list[str] = field(default_factory=list)
    """Of those that failed and had failed before: the keys whose reasons are others now."""

    def add(self, other: Judged) -> None:
        """Count another batch in."""
        self.passed += other.passed
        self.promoted += other.promoted
        self.failed |= other.failed
        self.left |= other.left
        self.otherwise += other.otherwise


def begin_in_neon(entity: Entity, row: InvalidRow, at: queue.Row | None) -> Delivery:
    """The delivery of a record as it lies in Neon, judged."""
    # After an undo the record lies there as it was, and may be promoted again.
    undone = [row.undone_id] if row.undone_id else []
    seal = json.dumps([row.key, str(row.updated_at), row.hash, *undone])
    delivery = Delivery(
        key=row.key,
        version=at.delivery.version if at else None,
        data=row.data,
        snapshot=row.data,
        snapshot_hash=row.hash,
        delivery_hash=hashlib.md5(seal.encode(), usedforsecurity=False).hexdigest(),
        enriched_by=row.enriched_by,
        enriched_at=row.enriched_at,
        status=at.delivery.status if at else Status.COMPLETE,
        in_neon=True,
    )
    judge(entity, delivery, row.data, row.hash)
    return delivery


async def judge_rows(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    rows: Mapping[str, InvalidRow],
    run: Run,
    *,
    apply: Collection[Action],
    anew: bool = False,
    dry_run: bool = False,
) -> Judged:
    """Judge a batch of invalid rows, settle those whose action is in ``apply``, tell their workspace rows.

    What fails as it did before is left as it is, unless ``anew`` asks for an entry of this version of the rules.

    Raises:
        psycopg.Error: nothing is lost; judge again.
    """
    found = Judged()
    at = await queue.lock(supabase, entity, list(rows), read_only=dry_run)
    batch: list[Delivery] = []
    untold: list[Delivery] = []
    for key, row in rows.items():
        if key in at and at[key].queued:
            found.left[key] = "the workspace has a newer edit on its way: push that first"
            continue
        if key in at and at[key].taken_back:
            found.left[key] = "an enricher has taken it back: what he types now is carried when he sets complete again"
            continue
        delivery = begin_in_neon(entity, row, at.get(key))
        assert delivery.verdict is not None
        if delivery.verdict.passed:
            found.passed.append(key)
        else:
            found.failed[key] = _in_words(delivery.verdict.errors)
            if row.still_invalid and row.errors != delivery.verdict.errors:
                found.otherwise.append(key)
        if delivery.action not in apply:
            continue
        if anew or not _says_so_already(row, delivery.verdict):
            batch.append(delivery)
        elif key in at and delivery.status == Status.COMPLETE:
            # Flagged before, by somebody who could not tell the row any more.
            delivery.answer = flagged(row, row.errors, row.warnings, row.reason_code)
            untold.append(delivery)
    if dry_run or not (batch or untold):
        await send(supabase, COMMIT)
        return found
    blocked = await settle_batch(databases, neon, entity, batch, run, apply)
    for delivery in batch:
        _sort(found, delivery)
    told = untold + [delivery for delivery in batch if delivery.key in at]
    replies = [reply for d in told if (reply := reply_to(d, at[d.key].delivery.data))]
    promoted = keys_with(batch, Outcome.PROMOTED)
    # Who died before he could tell a row could not announce it either.
    await acknowledge(
        databases, supabase, entity, replies, promoted, outcome_events(databases, entity, run.run_id, [*batch, *untold])
    )
    if waits := {d.key: d.data for d in told if d.answer and d.answer.waits_for}:
        await release_ready(neon, supabase, entity, waits)
    complain(blocked)
    return found


def _says_so_already(row: InvalidRow, verdict: Verdict) -> bool:
    """Whether Neon already tells this failure, so that judging again changes nothing there."""
    return (
        not verdict.passed
        and row.still_invalid
        and (row.errors, row.warnings, row.reason_code) == (verdict.errors, verdict.warnings, verdict.reason_code)
    )


def _sort(found: Judged, delivery: Delivery) -> None:
    said, key = delivery.answer, delivery.key
    assert said is not None
    if said.state in (State.CHANGED, State.BUSY):
        found.left[key] = "somebody else is changing it: try again"
    elif said.state is State.GONE:
        found.left[key] = "it is not in the invalid table any more"
    elif said.outcome is Outcome.PROMOTED:
        found.promoted.append(key)
    elif said.outcome is Outcome.WAITING:
        found.left[key] = said.note or "it waits"
    elif said.outcome is Outcome.FLAGGED:
        found.failed[key] = _in_words(said.errors)
        if key in found.passed:
            found.passed.remove(key)


def _in_words(errors: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {message}" for name, message in errors.items())


async def judge_pushed(
    databases: Databases,
    entity: Entity,
    run: Run,
    *,
    apply: Collection[Action],
    which: Which = Which.ALL,
    dry_run: bool = False,
    progress: Progress = NOBODY,
) -> Judged:
    """Judge every record in Neon that is marked ``complete``, batch by batch.

    Args:
        databases: both databases.
        entity: which.
        run: what the ledger and the log book it under.
        apply: the actions to carry out: ``FLAG`` alone, or ``FLAG`` and ``PROMOTE``.
        which: of those records.
        dry_run: write nothing.
        progress: told of every batch.
    """
    total, after = Judged(), ""
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        while not databases.stop.is_set():
            rows = await invalid.read_pushed(neon, entity, after, databases.batch_size, which=which)
            if not rows:
                break
            after = rows[-1].key
            batch = {row.key: row for row in rows}
            anew = which is Which.STALE
            total.add(
                await judge_rows(databases, neon, supabase, entity, batch, run, apply=apply, anew=anew, dry_run=dry_run)
            )
            progress.advance(len(batch))
    return total


async def finish_carried(databases: Databases, entity: Entity, run: Run, progress: Progress = NOBODY) -> Judged:
    """Bring to an end what a stage carried to Neon and left there: a worker that died after it had settled a
    record, and before it could tell the row, would leave an enricher waiting for ever.

    Raises:
        psycopg.Error: nothing is lost; the next pull tries again.
    """
    total, after = Judged(), 0
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        while not databases.stop.is_set():
            some = await queue.carried(supabase, entity, after, databases.batch_size)
            if not some:
                break
            after = max(some)
            keys = list(some.values())
            rows = await invalid.read(neon, entity, keys)
            if rows:
                total.add(
                    await judge_rows(databases, neon, supabase, entity, rows, run, apply=(Action.FLAG, Action.PROMOTE))
                )
            await tell_gone(databases, neon, supabase, entity, [key for key in keys if key not in rows], run)
            progress.advance(len(keys))
    return total


async def tell_gone(
    databases: Databases, neon: Connection, supabase: Connection, entity: Entity, keys: Sequence[str], run: Run
) -> None:
    """Tell the rows that were carried what became of their records, which left the invalid table.

    Raises:
        psycopg.Error: nothing is lost; tell again.
    """
    if not keys:
        return
    at = await queue.lock(supabase, entity, keys)
    batch = [row.delivery for row in at.values() if row.carried]
    for delivery in batch:
        judge(entity, delivery, delivery.snapshot, delivery.snapshot_hash)
    blocked = await settle_batch(databases, neon, entity, batch, run)
    promoted = [d.key for d in batch if d.answer and d.answer.outcome is Outcome.PROMOTED]
    replies = [reply for delivery in batch if (reply := reply_to(delivery))]
    await acknowledge(
        databases,
        supabase,
        entity,
        replies,
        promoted,
        outcome_events(databases, entity, run.run_id, batch, promoted=promoted),
    )
    complain(blocked)


def chunks(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    """The keys in batches."""
    return [keys[start : start + size] for start in range(0, len(keys), size)]
