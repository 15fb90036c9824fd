"""``setup``: change both databases, and print what changed."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import anyio
import click
import psycopg

from worker.cli.common import TRIES, read_settings, run_async
from worker.cli.console import fail, say, shown
from worker.domain.findings import Level
from worker.entities.declaration import Entity
from worker.entities.folder import entity_folder
from worker.entities.loader import load_entities
from worker.operate import setup as schema
from worker.operate.indexes import build, look
from worker.operate.migrations import write_migration
from worker.postgres.backoff import backoff
from worker.postgres.errors import Kind, in_one_line, kind_of, with_database
from worker.postgres.pool import Database
from worker.schema.shape import NEON, SUPABASE
from worker.settings import Settings, SettingsError
from worker.sync.databases import opened


def setup(dry_run: bool, migrations: str | None) -> None:
    """Bring both databases to what the worker needs. Twice is harmless."""
    if migrations is not None:
        if dry_run:
            fail("--migrations writes a file, and --dry-run writes nothing: give one of them", 2)
        _write_migration(Path(migrations))
        return
    try:
        settings = read_settings()
    except SettingsError as error:
        if not dry_run:
            raise
        say(f"not compared with the databases: {error}")
    else:
        run_async(_setup, settings, dry_run)
    if dry_run:
        for name in (NEON, SUPABASE):
            click.echo(schema.script(name, load_entities(entity_folder()).values()))


def _write_migration(folder: Path) -> None:
    try:
        file, new = write_migration(folder, load_entities(entity_folder()).values(), datetime.now(UTC))
    except OSError as error:
        fail(f"--migrations: no file can be written to {shown(str(folder))}: {error.strerror}", 2)
    click.echo(f"wrote {file}" if new else f"{file} has it already; nothing was written")


async def _setup(settings: Settings, dry_run: bool) -> None:
    entities = load_entities(settings.entities).values()
    neon, supabase = Database(NEON, settings.neon_conninfo), Database(SUPABASE, settings.supabase_conninfo)
    async with opened(neon, supabase):
        ahead = await schema.require_adoptable(neon, supabase, entities)
        for database in () if dry_run else (neon, supabase):
            try:
                changes = [*ahead[database.name], *await _set_up(database, entities)]
            except psycopg.Error as error:
                if kind_of(error) is Kind.TRANSIENT:
                    raise
                denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
                hint = (
                    "setup runs as the tables' owner, with TEMPORARY on the database, and where something is missing"
                    " with CREATE on its schema; the other commands need none of it"
                    if denied
                    else "nothing was done there"
                )
                fail(f"{database.name}: {in_one_line(error)}; {hint}", 1)
            changes += [schema.Change("created", name) for name in await _build(database, entities)]
            for change in changes:
                click.echo(f"{database.name}: {change.what} {change.thing}")
            if not changes:
                click.echo(f"{database.name}: everything is in place")
            async with database.connection() as connection:
                for finding in await look(connection, database.name, entities):
                    if finding.level is not Level.OK:
                        say(f"{database.name}: {finding.text}; `enrichment-worker doctor` says how to build it")


async def _build(database: Database, entities: Collection[Entity]) -> list[str]:
    """Build the indexes of large tables; returns which. What cannot be built is said, and left to `doctor`."""
    built: list[str] = []
    async with database.connection() as connection:
        try:
            async for statement in build(connection, database.name, entities):
                say(f"{database.name}: {statement}, while others write; that may take minutes")
                built.append(f"index {statement.partition(' CONCURRENTLY ')[2]}")
        except psycopg.Error as error:
            say(f"{database.name}: {in_one_line(error)}")
            built = built[:-1]
    return built


async def _set_up(database: Database, entities: Collection[Entity]) -> list[schema.Change]:
    """Run the scripts. A running worker may hold a table that they alter, and deadlock with them: so retry."""
    pauses = backoff()
    for _ in range(TRIES - 1):
        try:
            return await schema.setup(database, entities)
        except psycopg.Error as error:
            if kind_of(error) is not Kind.TRANSIENT:
                raise
            say(f"trying again: {with_database(error)}")
            await anyio.sleep(next(pauses))
    return await schema.setup(database, entities)
