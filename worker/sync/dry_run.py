"""What a whole pipeline would do: push, revalidate and promote, rehearsed together. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from worker.domain.model import Action, new_run_id
from worker.domain.steps import Judged
from worker.entities.declaration import Entity
from worker.neon import demands
from worker.neon.books import Run
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, send
from worker.sync.databases import Databases
from worker.sync.judging import judge
from worker.sync.rehearsal import Rehearsal, Revalidated, in_words
from worker.sync.revalidate import judge_pushed


async def rehearse_pipeline(databases: Databases, entities: Iterable[Entity]) -> dict[str, Revalidated]:
    """Judge what lies in Neon as ``complete``, and what is queued in the workspace as it would be pushed.

    Args:
        databases: both databases.
        entities: which, those that others wait for first.

    Returns:
        Entity → what would pass, and so be promoted, and what would not.

    Raises:
        psycopg.Error: a database failed.
    """
    results: dict[str, Revalidated] = {}
    pushed: dict[str, Mapping[str, Judged]] = {}
    for entity in entities:
        passed = {key for result in results.values() for key in result.passed}
        run = Run(new_run_id("revalidate"), str(entity.invalid_table), str(entity.invalid_table))
        async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
            rehearsal = Rehearsal(databases.routes[entity.name], neon, run, dict(pushed))
            queued, pushed[entity.name] = await _queued(rehearsal, supabase, passed)
        results[entity.name] = await judge_pushed(
            databases, entity, run, apply=(Action.FLAG,), dry_run=True, assumed=passed, pushed=pushed
        )
        # What is on its way was left: it is judged as it would be when it has come.
        left = results[entity.name].left
        results[entity.name].left = {key: why for key, why in left.items() if key not in pushed[entity.name]}
        results[entity.name].add(queued)
    return results


async def _queued(
    rehearsal: Rehearsal, supabase: Connection, passed: Set[str]
) -> tuple[Revalidated, Mapping[str, Judged]]:
    """What would become of the queued rows; and their judgements by key."""
    route, neon = rehearsal.route, rehearsal.neon
    found, everything, skip = Revalidated(), dict[str, Judged](), 0
    while claimed := await route.queue.claim(supabase, route.batch_size, read_only=True, skip=skip):
        await send(supabase, COMMIT)
        skip += len(claimed)
        rows = await route.invalid.read(neon, [one.key for one in claimed])
        pairs = [(one, rows[one.key]) for one in claimed if one.key in rows]
        batch = [judge(route.entity, one, row.data, row.hash, row.updated_at) for one, row in pairs]
        unmet = await demands.ask(neon, route.settlement.demands, batch)
        judgements = [demands.with_unmet(judged, unmet) for judged in batch]
        everything |= {judged.key: judged for judged in judgements}
        for judged in await rehearsal.ask(judgements, found, passed):
            if judged.verdict.passed:
                found.passed.append(judged.key)
            else:
                found.failed[judged.key] = in_words(judged.verdict.errors)
    await send(supabase, COMMIT)
    return found, everything
