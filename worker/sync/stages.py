"""The guide's scripts, one function for each stage: push, revalidate, promote. ``pull`` has its own module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from worker.domain.model import Action, Outcome, new_run_id
from worker.domain.progress import NO_PROGRESS, Progress
from worker.entities.declaration import Entity
from worker.neon import books
from worker.neon.books import Run
from worker.neon.invalid import Which
from worker.postgres.transaction import COMMIT, send, transact
from worker.supabase.pause import require_running
from worker.sync.catch_up import acknowledge_missed
from worker.sync.databases import Databases
from worker.sync.deliver import Tally, deliver
from worker.sync.judging import judge
from worker.sync.rehearsal import Revalidated
from worker.sync.revalidate import Judging, judge_pushed


@dataclass
class Pushed:
    """What ``push`` did, or would do."""

    run_ids: list[str] = field(default_factory=list)
    pushed: int = 0
    settled: int = 0
    """Promoted or flagged before, by a worker that died before it could acknowledge it."""
    gone: int = 0
    flagged: int = 0
    left: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    """Key → what would happen; dry run only."""


async def push(
    databases: Databases, entity: Entity, done: Pushed, *, dry_run: bool = False, progress: Progress = NO_PROGRESS
) -> None:
    """Carry every repaired record to the invalid table, without judging it.

    Args:
        databases: both databases.
        entity: whose records.
        done: counts what was done; after a fault, call again with the same.
        dry_run: write nothing.
        progress: informed of every batch.

    Raises:
        Paused: the entity is paused, or was between two batches.
        psycopg.Error: the batch is still in the queue.
    """
    if dry_run:
        await _dry_run(databases, entity, done)
        return
    if progress.shown:
        async with databases.supabase.connection() as supabase:
            progress.expect(await databases.routes[entity.name].queue.count_work(supabase))
    while not databases.stop.is_set():
        # A claim finds nothing then, which would look like the end of the queue.
        async with databases.supabase.connection() as supabase:
            await require_running(supabase, [entity])
        tally = await deliver(databases, entity, action=Action.PUSH)
        if tally.claimed:
            done.run_ids.append(tally.run_id)
        if tally.missed:
            await acknowledge_missed(databases, entity, tally.missed)
        _count(done, tally)
        progress.advance(tally.answered)
        if tally.fault:
            raise tally.fault
        if tally.claimed < databases.batch_size or not (tally.answered or tally.postponed):
            break
    if not done.run_ids:
        run = Run(new_run_id("push"), str(entity.workspace_table), str(entity.invalid_table))
        await _log(databases, run, 0, 0, 0)
        done.run_ids.append(run.run_id)


def _count(done: Pushed, tally: Tally) -> None:
    done.pushed += tally.outcomes[Outcome.WAITING]
    done.settled += tally.outcomes[Outcome.PROMOTED]
    done.flagged += tally.outcomes[Outcome.FLAGGED]
    done.gone += tally.outcomes["gone"]
    done.left += tally.outcomes["changed"] + tally.outcomes["busy"]


async def _dry_run(databases: Databases, entity: Entity, done: Pushed) -> None:
    route, done.pushed, done.gone, done.keys = databases.routes[entity.name], 0, 0, {}
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        skip = 0
        while batch := await route.queue.claim(supabase, route.batch_size, read_only=True, skip=skip):
            await send(supabase, COMMIT)
            skip += len(batch)
            rows = await route.invalid.read(neon, [claimed.key for claimed in batch])
            for claimed in batch:
                if row := rows.get(claimed.key):
                    judged = judge(entity, claimed, row.data, row.hash, row.updated_at, Action.PUSH)
                    fields = ", ".join(judged.merged.enriched_fields) or "nothing changed"
                    done.keys[claimed.key] = f"would be pushed ({fields})"
                    done.pushed += 1
                else:
                    done.keys[claimed.key] = "is not in the invalid table any more"
                    done.gone += 1


async def revalidate(
    databases: Databases,
    entity: Entity,
    *,
    stale: bool = False,
    dry_run: bool = False,
    assumed: Set[str] = frozenset(),
    progress: Progress = NO_PROGRESS,
) -> Revalidated:
    """Judge every record marked ``complete`` in Neon; flag those that fail, there and in the workspace.

    Args:
        databases: both databases.
        entity: whose records.
        stale: only those that another version of the rules refused.
        dry_run: write nothing.
        assumed: the keys of records of other entities that pass in the same run: they are promoted before.
        progress: told of every batch.

    Raises:
        psycopg.Error: nothing is lost; retry.
    """
    run = Run(new_run_id("revalidate"), str(entity.invalid_table), str(entity.invalid_table))
    which = Which.STALE if stale else Which.ALL
    if progress.shown:
        async with databases.neon.connection() as neon:
            progress.expect(await databases.routes[entity.name].invalid.count_pushed(neon, which))
    found = await judge_pushed(
        databases, entity, run, apply=(Action.FLAG,), which=which, dry_run=dry_run, assumed=assumed, progress=progress
    )
    if not dry_run:
        # What failed was logged with its settlement; this row counts everything that was judged.
        await _log(databases, run, len(found.passed) + len(found.failed), len(found.passed), len(found.failed))
    return found


async def _log(databases: Databases, run: Run, total: int, passed: int, failed: int) -> None:
    async with databases.neon.connection() as neon:
        await transact(neon, books.log_run(run, total, passed, failed))


@dataclass
class Promotion:
    """A running promotion. After a fault, :func:`promote` continues it."""

    keys: list[str]
    """The remaining records; finished ones are removed."""
    runs: dict[str, tuple[Run, Revalidated]] = field(default_factory=dict)
    """Entity → the run that its promotions are booked under, and their results."""
    ambiguous: dict[str, str] = field(default_factory=dict)
    """Keys that records of several entities have, which are refused → why."""


def is_ambiguous(names: Iterable[str]) -> str:
    """What is said of a key that records of several entities have."""
    return f"is a key of {' and of '.join(sorted(names))}: say which with --entity"


async def _ambiguous(databases: Databases, entities: Sequence[Entity], keys: Sequence[str]) -> dict[str, str]:
    """The keys among these that records of several entities have, with what is said of them."""
    owners: dict[str, list[str]] = {}
    async with databases.neon.connection() as neon:
        for entity in entities if len(entities) > 1 else ():
            route = databases.routes[entity.name]
            for some in route.batches(list(keys)):
                for key in set(some) - set(await route.invalid.missing(neon, some)):
                    owners.setdefault(key, []).append(entity.name)
    return {key: f"it {is_ambiguous(names)}" for key, names in owners.items() if len(names) > 1}


async def promote(
    databases: Databases,
    entities: Iterable[Entity],
    work: Promotion,
    *,
    dry_run: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Revalidated:
    """Judge these records again and promote those that pass.

    Args:
        databases: both databases.
        entities: the entities that the keys may belong to.
        work: the keys; after a fault, call again with the same.
        dry_run: write nothing.
        progress: informed of every batch.

    Returns:
        ``promoted`` (``passed`` in a dry run), and in ``failed`` and ``left`` every key that was refused
        and why. A record that no longer passes is refused and left as it is.

    Raises:
        Paused: an entity is paused, or was between two batches; what was promoted stays so.
        psycopg.Error: a database failed; what was promoted stays so.
    """
    progress.expect(len(work.keys) if not work.runs else 0)
    entities = list(entities)
    if not work.runs:
        # A key alone must not promote a record that nobody meant.
        work.ambiguous = await _ambiguous(databases, entities, work.keys)
        work.keys = [key for key in work.keys if key not in work.ambiguous]
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        for entity in entities:
            again = entity.name in work.runs
            if not again:
                run = Run(new_run_id("promote"), str(entity.invalid_table), str(entity.master_table))
                work.runs[entity.name] = run, Revalidated()
            run, results = work.runs[entity.name]
            route = databases.routes[entity.name]
            judging = Judging(route, neon, supabase, run, apply=(Action.PROMOTE,), dry_run=dry_run)
            for some in route.batches(list(work.keys)):
                if not dry_run:
                    await require_running(supabase, [entity])
                rows = await route.invalid.read(neon, some)
                # Promoted by this same run, before a connection broke and the answer was lost.
                missing = [key for key in some if key not in rows]
                if done := await route.invalid.promoted_in(neon, run, missing) if again else []:
                    await judging.gone(done)
                judged = Revalidated(promoted=done)
                if rows:
                    assumed = {key for _, others in work.runs.values() for key in others.passed}
                    judged.add(await judging.rows(rows, assumed))
                results.add(judged)
                settled = {*rows, *done}
                work.keys = [key for key in work.keys if key not in settled]
                progress.advance(len(settled))
            if not dry_run:
                refused = len(results.failed) + len(results.left)
                everything = len(results.promoted) + refused
                step = books.log_run(run, everything, len(results.promoted), refused)
                await transact(neon, step)
    total = Revalidated(left=dict.fromkeys(work.keys, "it is not in the invalid table") | work.ambiguous)
    for _, results in work.runs.values():
        total.add(results)
    return total
