"""The two databases side by side, opened and checked: what every command that moves records stands on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import psycopg
from anyio import Event

from worker import catalogue
from worker.database import UTF8, Database
from worker.entities import ENTITIES, Entity, Table
from worker.faults import Kind, SetupMissing, in_one_line, kind_of, with_database
from worker.hints import MOVE_TO_UTF8, reach_hint, with_hint
from worker.outbox import OUTBOX
from worker.settings import Settings, safe_address
from worker.settlement import Settlement, settlement


class Unreachable(Exception):
    """A database cannot be reached. The text is one line with the mend."""


@dataclass(frozen=True)
class Bridge:
    """Both databases, and how each entity settles in this Neon."""

    neon: Database
    supabase: Database
    settlements: Mapping[str, Settlement]
    batch_size: int
    stop: Event
    """Set when no new batch is to be begun."""
    announces: bool = False
    """Whether outcomes and pulls are announced: an event is written with each."""


WORKER_COLUMNS = (
    "enrichment_status", "enriched_by", "enriched_at", "pushed_to_neon_at", "last_sync_hash", "updated_at",
    "neon_snapshot", "validation_errors", "validation_warnings", "sync_note", "promoted_at", "waiting_for",
)  # fmt: skip
INVALID_COLUMNS = (
    "id", "updated_at", "reason_code", "validation_errors", "validation_warnings", "enrichment_status",
    "enriched_at", "enriched_by", "still_invalid",
)  # fmt: skip
PULL_POSITION = Table("public", "enrichment_pull_position")


async def probe(database: Database, setting: str) -> None:
    """Connect once.

    Raises:
        Unreachable: it could not be done.
        SetupMissing: it cannot store every text: whatever somebody types is to arrive, and what the worker says.
    """
    try:
        encoding = await database.probe()
    except (psycopg.Error, OSError) as error:
        where = f"{database.name} cannot be reached at {safe_address(database.conninfo)} ({setting})"
        raise Unreachable(with_hint(f"{where}: {in_one_line(error)}", reach_hint(error, setting))) from None
    if encoding != UTF8:
        raise SetupMissing(f"{database.name}'s database has the encoding {encoding}, not UTF8; {MOVE_TO_UTF8}")


async def check(bridge_neon: Database, bridge_supabase: Database, *, announces: bool = False) -> dict[str, Settlement]:
    """Check both schemas and compose the settlements.

    Raises:
        SetupMissing: a table or column is not there, or a master column cannot be filled.
    """
    settlements: dict[str, Settlement] = {}
    async with bridge_neon.connection() as neon, bridge_supabase.connection() as supabase:
        for entity in ENTITIES.values():
            await catalogue.require(neon, "Neon", entity.invalid_table, (entity.key, *entity.columns, *INVALID_COLUMNS))
            await catalogue.require(
                supabase, "Supabase", entity.workspace_table, (entity.key, *entity.columns, *WORKER_COLUMNS)
            )
            columns = await catalogue.master_columns(neon, entity)
            settlements[entity.name] = settlement(entity, columns)
        await catalogue.require(neon, "Neon", Table("marketing", "enrichment_ledger"), ("delivery_hash",))
        await catalogue.require(neon, "Neon", Table("public", "shq_validation_log"), ("validation_run_id",))
        await catalogue.require(supabase, "Supabase", PULL_POSITION, ("position", "last_id", "last_result"))
        if announces:
            await catalogue.require(supabase, "Supabase", OUTBOX, ("entity", "event"))
    return settlements


@asynccontextmanager
async def open_bridge(settings: Settings, *, batch_size: int | None = None) -> AsyncIterator[Bridge]:
    """Reach both databases and check them, before any record is touched.

    Raises:
        Unreachable: a database did not answer.
        SetupMissing: a database is not as the worker needs it.
    """
    size = 2 * len(ENTITIES) + 1  # couriers and a pull
    announces = settings.n8n_webhook_url is not None
    # Neon's compute sleeps when nothing is connected: connections there do not outlive the work.
    neon = Database("Neon", settings.neon_conninfo, max_size=size, max_idle=15.0)
    # Beside the couriers: the sweep, the count, a pull's two; and a poster for each entity.
    more = 3 + (len(ENTITIES) if announces else 0)
    supabase = Database("Supabase", settings.supabase_conninfo, max_size=size + more, max_idle=300.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_probe_both, neon, supabase)
    async with neon, supabase:
        try:
            settlements = await check(neon, supabase, announces=announces)
        except psycopg.Error as error:
            if kind_of(error) is Kind.TRANSIENT:
                raise Unreachable(f"a database went away while it was checked: {with_database(error)}") from None
            raise
        yield Bridge(neon, supabase, settlements, batch_size or settings.batch_size, Event(), announces)


async def _probe_both(neon: Database, supabase: Database) -> None:
    await probe(neon, "NEON_DATABASE_URL")
    await probe(supabase, "SUPABASE_DATABASE_URL")


def entities_named(name: str | None) -> list[Entity]:
    """The entities a command works on: the one named, or all."""
    return [ENTITIES[name]] if name else list(ENTITIES.values())
