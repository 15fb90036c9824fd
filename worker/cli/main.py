"""The commands and their exit statuses: 0 done, 1 something to report, 2 usage or settings, 3 a database
could not be reached. The only place that prints: results to stdout, all else to stderr.
"""

from __future__ import annotations

import socket
import sys
from typing import NoReturn

import anyio
import click
import psycopg

from worker.cli import (
    operator,  # noqa: F401 - registers its commands
    stages,  # noqa: F401 - registers its commands
)
from worker.cli.common import (
    TRIES,
    Stopped,
    commands,
    fail,
    read_settings,
    run_async,
    say,
)
from worker.daemon import signals
from worker.observe import logs, output
from worker.operate import setup as schema
from worker.postgres.errors import Kind, SetupMissing, in_one_line, kind_of, pauses, sort_of, with_database
from worker.postgres.hints import hint, with_hint
from worker.postgres.pool import Database
from worker.settings import Settings, SettingsError
from worker.sync.databases import Unreachable, probe


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    signals.interruptible()
    output.prepare()
    try:
        _run()
    finally:
        output.finish()


def _run() -> NoReturn:
    try:
        status = commands.main(standalone_mode=False, prog_name="enrichment-worker")
    except click.exceptions.Abort:
        fail("stopped", 130)
    except click.ClickException as error:
        # A wrong argument is quoted, however long it is.
        error.message = error.message[:500]  # type: ignore[misc]
        error.show(sys.stderr)
        sys.exit(2)
    except BaseException as error:  # noqa: BLE001 - no traceback reaches a user
        _report(error)
    sys.exit(status if isinstance(status, int) else 0)


NETWORK = (ConnectionError, TimeoutError, socket.gaierror)
"""Errors of the operating system that are a database's: nothing else is reached over the network here."""


def _report(error: BaseException) -> NoReturn:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    _report_end(error)
    if isinstance(error, SettingsError):
        fail(str(error), 2)
    if isinstance(error, Unreachable):
        fail(str(error), 3)
    if isinstance(error, SetupMissing):
        fail(str(error), 1)
    if isinstance(error, OSError) and not isinstance(error, NETWORK):
        what = f"{error.filename}: " if error.filename else ""
        fail(f"{what}{error.strerror or in_one_line(error)}", 1)
    if kind_of(error) is Kind.TRANSIENT:
        what = "could not be reached" if sort_of(error) == "connection" else "cannot do it now"
        fail(with_hint(f"a database {what}: {with_database(error)}", hint(error) or "nothing is lost, try again"), 3)
    if isinstance(error, psycopg.Error):
        fail(with_hint(f"a database refused: {with_database(error)}", hint(error)), 1)
    fail(f"unexpected {type(error).__name__}: {in_one_line(error)}; please report this", 1)


def _report_end(error: BaseException) -> None:
    """Report what ends a command and is no fault in its work; return where it is one."""
    match error:
        case SystemExit():
            raise error
        case KeyboardInterrupt():
            fail("stopped", 130)
        case Stopped():
            fail("stopped", 128 + error.signal)
        case output.NotWritten(unread=True):
            sys.exit(1)  # whoever read the output has enough
        case output.NotWritten():
            fail(f"the result cannot be written to stdout: {error}", 1)
        case _:
            return


@commands.command()
@click.option("--dry-run", is_flag=True, help="Print the SQL and write nothing.")
def setup(dry_run: bool) -> None:
    """Bring both databases to what the worker needs. Twice is harmless."""
    try:
        settings = read_settings()
    except SettingsError as error:
        if not dry_run:
            raise
        say(f"not compared with the databases: {error}")
    else:
        run_async(_setup, settings, dry_run)
    if dry_run:
        for name in schema.FOLDERS:
            click.echo(schema.script(name))


async def _setup(settings: Settings, dry_run: bool) -> None:
    sides = {
        "Neon": (settings.neon_conninfo, "NEON_DATABASE_URL"),
        "Supabase": (settings.supabase_conninfo, "SUPABASE_DATABASE_URL"),
    }
    for name, (conninfo, setting) in sides.items():
        await probe(Database(name, conninfo), setting)
    neon, supabase = (Database(name, conninfo) for name, (conninfo, _) in sides.items())
    async with neon, supabase:
        ahead = await schema.require_adoptable(neon, supabase)
        for database in () if dry_run else (neon, supabase):
            try:
                changes = [*ahead[database.name], *await _set_up(database)]
            except psycopg.Error as error:
                if kind_of(error) is Kind.TRANSIENT:
                    raise
                may = isinstance(error, psycopg.errors.InsufficientPrivilege)
                mend = (
                    "setup runs as the tables' owner, the other commands need not" if may else "nothing was done there"
                )
                fail(f"{database.name}: {in_one_line(error)}; {mend}", 1)
            for change in changes:
                click.echo(f"{database.name}: {change.what} {change.thing}")
            if not changes:
                click.echo(f"{database.name}: everything is in place")


async def _set_up(database: Database) -> list[schema.Change]:
    """Run the SQL files. Where a worker runs, it may hold a table that they alter and want another: tried again."""
    waits = pauses()
    for _ in range(TRIES - 1):
        try:
            return await schema.setup(database)
        except psycopg.Error as error:
            if kind_of(error) is not Kind.TRANSIENT:
                raise
            say(f"trying again: {with_database(error)}")
            await anyio.sleep(next(waits))
    return await schema.setup(database)


@commands.command()
def run() -> None:
    """Listen, deliver and pull until stopped. This is what the service runs."""
    from worker.daemon.run import run as run_daemon  # noqa: PLC0415 - a quarter of what other commands would load

    run_async(run_daemon, read_settings(), heed=False)


@commands.command()
@click.option("--keep", is_flag=True, help="Stay up and print the connection strings: be the enricher.")
def demo(keep: bool) -> None:
    """Run the whole loop on two embedded Postgres servers, with invented records."""
    from worker.demo import demo as show  # noqa: PLC0415 - most commands need nothing of it

    logs.configure("console")
    sys.exit(show.main(keep=keep, echo=click.echo))
