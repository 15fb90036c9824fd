"""The commands pause and resume. They ask Supabase only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from worker.cli.common import all_entities, read_settings, run_async
from worker.domain.messages import day_of
from worker.entities.declaration import Entity
from worker.entities.worker_tables import PAUSED
from worker.postgres.connection import Connection
from worker.postgres.pool import Database
from worker.schema import examination
from worker.schema.shape import shapes
from worker.supabase import pause as pauses
from worker.sync.databases import opened

T = TypeVar("T")


def pause(entity: str) -> None:
    """Stop all workers from claiming or pulling an entity's records, until `resume`. A batch on its way is finished."""
    its = all_entities()[entity]
    since, before = _in_supabase(pauses.pause, its)
    if before:
        click.echo(f"{its.plural}: paused already, since {day_of(since)}; `enrichment-worker resume {entity}` ends it")
        return
    click.echo(
        f"{its.plural}: paused; no worker claims or pulls any until `enrichment-worker resume {entity}`. A batch on its"
        " way is finished."
    )


def resume(entity: str) -> None:
    """Let a paused entity go on, in all workers."""
    its = all_entities()[entity]
    was_paused = _in_supabase(pauses.resume, its)
    click.echo(f"{its.plural}: {'resumed' if was_paused else 'not paused; nothing to do'}")


def _in_supabase(work: Callable[[Connection, Entity], Awaitable[T]], entity: Entity) -> T:
    database = Database("Supabase", read_settings().supabase_conninfo, max_size=1)

    async def job() -> T:
        async with opened(database), database.connection() as supabase:
            await examination.require(supabase, [shape for shape in shapes([]) if shape.table == PAUSED])
            return await work(supabase, entity)

    return run_async(job)
