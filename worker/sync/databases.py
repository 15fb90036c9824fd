"""The two databases, opened and checked: the base of every command that moves records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import psycopg
import structlog
from anyio import Event

from worker.entities.declaration import Entity
from worker.entities.loader import load_entities
from worker.neon import demands
from worker.neon.settlement import Settlement, settlement
from worker.postgres.address import safe_address
from worker.postgres.connection import UTF8
from worker.postgres.errors import Kind, SchemaProblem, SetupMissing, in_one_line, kind_of, with_database
from worker.postgres.hints import MOVE_TO_UTF8, reach_hint, with_hint
from worker.postgres.pool import Database
from worker.schema.examination import examine, problems_of
from worker.schema.shape import NEON, SUPABASE, shapes
from worker.settings import Settings
from worker.sync.route import Route, route_of

AHEAD = 2
"""An entity has up to so many further batches on their way beside its first: each waits for three round trips."""

log = structlog.get_logger("worker.databases")


ADDRESSES = {NEON: "NEON_DATABASE_URL", SUPABASE: "SUPABASE_DATABASE_URL"}
"""Database → the setting with its address."""


class Unreachable(Exception):
    """A database cannot be reached. The text is one line with the fix."""


@dataclass(frozen=True)
class Databases:
    """Both databases, and the route of each entity."""

    neon: Database
    supabase: Database
    entities: Mapping[str, Entity]
    """By name, those that others wait for first."""
    routes: Mapping[str, Route]
    batch_size: int
    stop: Event
    """Set when no new batch may begin."""
    announces: bool = False
    """Whether outcomes and pulls are announced."""


@asynccontextmanager
async def opened(*databases: Database) -> AsyncIterator[None]:
    """Connect to each database once, and open them.

    Raises:
        Unreachable: a database did not answer.
        SetupMissing: its encoding cannot store every text that people type or the worker writes.
    """
    for database in databases:
        await _probe(database)
    async with AsyncExitStack() as stack:
        for database in databases:
            await stack.enter_async_context(database)
        yield


async def _probe(database: Database) -> None:
    setting = ADDRESSES[database.name]
    try:
        encoding = await database.probe()
    except (psycopg.Error, OSError) as error:
        where = f"{database.name} cannot be reached at {safe_address(database.conninfo)} ({setting})"
        raise Unreachable(with_hint(f"{where}: {in_one_line(error)}", reach_hint(error, setting))) from None
    if encoding != UTF8:
        raise SetupMissing(
            [SchemaProblem(f"{database.name}'s database has the encoding {encoding}, not UTF8", MOVE_TO_UTF8)]
        )


async def check(
    neon: Database, supabase: Database, entities: Collection[Entity], *, announces: bool = False
) -> dict[str, Settlement]:
    """Check both schemas and compose the settlements: two round trips to each database, and one more to Neon for each
    entity's master.

    Returns:
        Entity → its settlement.

    Raises:
        SetupMissing: a table is not as the worker needs it.
    """
    wanted = shapes(entities, announces=announces)
    async with neon.connection() as neon_connection, supabase.connection() as supabase_connection:
        mismatches, found = await examine(neon_connection, NEON, wanted, entities, {})
        more, _ = await examine(supabase_connection, SUPABASE, wanted, entities, found)
    mismatches += more
    # A problem that affects only pulls must not stop deliveries: the pull reports it itself.
    for mismatch in mismatches:
        if mismatch.harmless:
            log.warning(
                "schema.mismatch",
                table=str(mismatch.shape.table),
                error=mismatch.problem.text,
                hint=mismatch.problem.hint,
            )
    if blocking := [mismatch for mismatch in mismatches if not mismatch.harmless]:
        raise SetupMissing(problems_of(blocking))
    async with neon.connection() as neon_connection:
        asked = {entity.name: await demands.read(neon_connection, entity) for entity in entities}
    return {
        entity.name: settlement(
            entity, [c for c in found[entity.master_table].columns.values() if c.writable], asked[entity.name]
        )
        for entity in entities
    }


async def recall(databases: Databases, entity: Entity | None = None) -> None:
    """Read the workspace's latest receipt, of one entity or of all."""
    async with databases.supabase.connection() as supabase_connection:
        for one in [entity] if entity else databases.entities.values():
            route = databases.routes[one.name]
            route.known = await route.receipts.newest(supabase_connection)


@asynccontextmanager
async def open_databases(settings: Settings, *, batch_size: int | None = None) -> AsyncIterator[Databases]:
    """Reach both databases and check them, before any record is touched.

    Raises:
        Unreachable: a database did not answer.
        SetupMissing: a database is not as the worker needs it.
    """
    entities = load_entities(settings.entities)
    connections = (2 + AHEAD) * len(entities) + 1  # deliveries, retries, and a pull
    announces = settings.n8n_webhook_url is not None
    # Neon's compute sleeps when nothing is connected: close connections soon after the work.
    exact = any(entity.has_exact_numbers for entity in entities.values())
    neon = Database("Neon", settings.neon_conninfo, max_size=connections, max_idle=15.0, exact=exact)
    # Besides those: the sweep, the count, two more for a pull; and one that posts events for each entity.
    more = 3 + (len(entities) if announces else 0)
    supabase = Database(
        "Supabase", settings.supabase_conninfo, max_size=connections + more, max_idle=300.0, exact=exact
    )
    async with opened(neon, supabase):
        try:
            size = batch_size or settings.batch_size
            routes = {
                name: route_of(entities[name], how, batch_size=size, announces=announces)
                for name, how in (await check(neon, supabase, entities.values(), announces=announces)).items()
            }
            for route in routes.values():
                for waiting in route.entity.releases:
                    routes[waiting.name].awaited.append(route)
            databases = Databases(neon, supabase, entities, routes, size, Event(), announces)
            await recall(databases)
        except psycopg.Error as error:
            if kind_of(error) is Kind.TRANSIENT:
                raise Unreachable(f"a database went away while it was checked: {with_database(error)}") from None
            raise
        yield databases
