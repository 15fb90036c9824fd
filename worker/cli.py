"""The commands and their exit statuses: 0 done, 1 something to report, 2 usage or settings, 3 a database
could not be reached. The only place that prints: results to stdout, all else to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import NoReturn, TypeVar

import anyio
import click
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from worker import __version__, schema, stages, telemetry
from worker.bridge import Bridge, Unreachable, entities_named, open_bridge, probe
from worker.daemon import run as run_daemon
from worker.database import Database
from worker.doctor import Finding, Level, examine
from worker.entities import ENTITIES, Entity
from worker.faults import Kind, SetupMissing, in_one_line, kind_of, pauses
from worker.history import History
from worker.history import history as life_of
from worker.pull import STAGE_ROWS, Pulled
from worker.pull import pull as pull_entity
from worker.revalidation import Judged
from worker.settings import Settings, SettingsError, load_settings
from worker.undo import Undone, keys_of_run
from worker.undo import undo as take_back

T = TypeVar("T")
TRIES = 6
FEW = 200
"""A dry run names its records one by one up to this many."""

entity_option = click.option(
    "--entity", type=click.Choice(list(ENTITIES)), help="Only this kind of record; default both."
)
batch_option = click.option(
    "--batch-size", type=click.IntRange(1, 100_000), metavar="N", help="Records handled at a time."
)
dry_option = click.option("--dry-run", is_flag=True, help="Write nothing; say what would happen.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    try:
        status = commands.main(standalone_mode=False, prog_name="enrichment-worker")
    except click.exceptions.Abort:
        _fail("stopped", 130)
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read the output has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except BaseException as error:  # noqa: BLE001 - no traceback reaches a user
        _report(error)
    sys.exit(status if isinstance(status, int) else 0)


def _report(error: BaseException) -> NoReturn:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, KeyboardInterrupt):
        _fail("stopped", 130)
    if isinstance(error, SettingsError):
        _fail(str(error), 2)
    if isinstance(error, Unreachable):
        _fail(str(error), 3)
    if isinstance(error, SetupMissing):
        _fail(str(error), 1)
    if kind_of(error) is Kind.TRANSIENT:
        _fail(f"a database could not be reached: {in_one_line(error)}; nothing is lost, try again", 3)
    if isinstance(error, psycopg.Error):
        _fail(f"a database refused: {in_one_line(error)}; `enrichment-worker setup` brings both up to date", 1)
    _fail(f"unexpected {type(error).__name__}: {in_one_line(error)}; please report this", 1)


def _fail(text: str, status: int) -> NoReturn:
    for line in text.splitlines():
        click.echo(f"enrichment-worker: {line}", err=True)
    sys.exit(status)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _settings() -> Settings:
    settings = load_settings()
    telemetry.configure(settings.log_format)
    return settings


def _with_bridge(work: Callable[[Bridge], Awaitable[T]], batch_size: int | None = None) -> T:
    """Open both databases and do the work; a transient fault is tried again a few times."""
    settings = _settings()

    async def job() -> T:
        waits = pauses()
        for attempt in range(TRIES):
            try:
                async with open_bridge(settings, batch_size=batch_size) as bridge:
                    return await work(bridge)
            except psycopg.Error as error:
                if kind_of(error) is not Kind.TRANSIENT or attempt == TRIES - 1:
                    raise
                _say(f"trying again: {in_one_line(error)}")
                await anyio.sleep(next(waits))
        raise AssertionError

    return anyio.run(job)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda count: bar.advance(task, count)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="enrichment-worker")
def commands() -> None:
    """Carry repaired records from the Supabase workspace to Neon, the moment they are complete."""


@commands.command()
@click.option("--dry-run", is_flag=True, help="Print the SQL and write nothing.")
def setup(dry_run: bool) -> None:
    """Bring both databases to what the worker needs. Twice is harmless."""
    if dry_run:
        for name in schema.FOLDERS:
            click.echo(schema.script(name))
        return
    settings = _settings()
    sides = {
        "Neon": (settings.neon_conninfo, "NEON_DATABASE_URL"),
        "Supabase": (settings.supabase_conninfo, "SUPABASE_DATABASE_URL"),
    }

    async def job() -> None:
        for name, (conninfo, setting) in sides.items():
            await probe(Database(name, conninfo), setting)
        for name, (conninfo, _) in sides.items():
            async with Database(name, conninfo) as database:
                changes = await schema.setup(database)
            for change in changes:
                click.echo(f"{name}: {change.what} {change.thing}")
            if not changes:
                click.echo(f"{name}: everything is in place")

    anyio.run(job)


@commands.command()
def run() -> None:
    """Listen, deliver and pull until stopped. This is what the service runs."""
    anyio.run(run_daemon, _settings())


@commands.command()
@entity_option
@batch_option
@dry_option
@json_option
@click.option("--full", is_flag=True, help="Compare every record, not only what changed since.")
def pull(entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool, full: bool) -> None:
    """Copy new and changed invalid records from Neon to the workspace."""
    results = _pull(entity, batch_size, dry_run=dry_run, full=full)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results if result]))
        return
    for name, result in zip([e.name for e in entities_named(entity)], results, strict=True):
        click.echo(_pulled_in_words(ENTITIES[name], result, dry_run))


def _pull(entity: str | None, batch_size: int | None, *, dry_run: bool, full: bool) -> list[Pulled | None]:
    async def work(bridge: Bridge) -> list[Pulled | None]:
        with _progress("pulling") as progress:
            return [
                await pull_entity(
                    bridge, one, full=full, dry_run=dry_run, batch_size=batch_size or STAGE_ROWS, progress=progress
                )
                for one in entities_named(entity)
            ]

    return _with_bridge(work)


def _pulled_in_words(entity: Entity, result: Pulled | None, dry_run: bool) -> str:
    if result is None:
        return f"{entity.plural}: another worker is pulling; nothing to do here"
    would = "would pull" if dry_run else "pulled"
    parts = [f"{would} {entity.count(result.new)}", f"{result.changed} changed"]
    if result.withdrawn:
        parts.append(f"{result.withdrawn} withdrawn")
    if result.orphaned:
        parts.append(f"{result.orphaned} kept with a note, their record left Neon")
    if result.judged:
        parts.append(f"{result.judged} judged that somebody had pushed by hand")
    lines = [", ".join(parts) + ("" if dry_run else f" ({result.run_id})")]
    return "\n".join(lines + _one_by_one(result.keys))


def _one_by_one(keys: dict[str, str]) -> list[str]:
    if len(keys) > FEW:
        return [f"  {len(keys)} records; not listed one by one"]
    return [f"  {key} {what}" for key, what in keys.items()]


@commands.command()
@entity_option
@batch_option
@dry_option
@json_option
def push(entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool) -> None:
    """Carry repaired records to Neon's invalid tables, without judging them."""
    results = _push(entity, batch_size, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({name: asdict(result) for name, result in results.items()}))
        return
    for name, result in results.items():
        click.echo(_pushed_in_words(ENTITIES[name], result, dry_run))


def _push(entity: str | None, batch_size: int | None, *, dry_run: bool) -> dict[str, stages.Pushed]:
    async def work(bridge: Bridge) -> dict[str, stages.Pushed]:
        with _progress("pushing") as progress:
            return {
                one.name: await stages.push(bridge, one, dry_run=dry_run, progress=progress)
                for one in entities_named(entity)
            }

    return _with_bridge(work, batch_size)


def _pushed_in_words(entity: Entity, result: stages.Pushed, dry_run: bool) -> str:
    parts = [f"{'would push' if dry_run else 'pushed'} {entity.count(result.pushed)}"]
    if result.gone:
        parts.append(f"{result.gone} not in the invalid table any more")
    if result.flagged:
        parts.append(f"{result.flagged} given back")
    if result.settled:
        parts.append(f"{result.settled} promoted before")
    if result.left:
        parts.append(f"{result.left} left for the next time: somebody else is changing them")
    lines = [", ".join(parts) + (f" ({', '.join(result.run_ids)})" if result.run_ids else "")]
    return "\n".join(lines + _one_by_one(result.keys))


@commands.command()
@entity_option
@batch_option
@dry_option
@json_option
def revalidate(entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool) -> None:
    """Judge the pushed records in Neon. Prints the keys that passed, one a line."""
    results = _revalidate(entity, batch_size, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({name: asdict(result) for name, result in results.items()}))
    else:
        for result in results.values():
            for key in result.passed:
                click.echo(key)
    _say_judged(results, dry_run)


def _revalidate(entity: str | None, batch_size: int | None, *, dry_run: bool) -> dict[str, Judged]:
    async def work(bridge: Bridge) -> dict[str, Judged]:
        return {one.name: await stages.revalidate(bridge, one, dry_run=dry_run) for one in entities_named(entity)}

    return _with_bridge(work, batch_size)


def _say_judged(results: dict[str, Judged], dry_run: bool) -> None:
    for name, result in results.items():
        _say(f"PASSED: {ENTITIES[name].count(len(result.passed))}")
        still = "" if dry_run else " (validation_errors still present)"
        _say(f"FAILED: {ENTITIES[name].count(len(result.failed))}{still if result.failed else ''}")
        if dry_run:
            for line in _one_by_one({key: f"would be flagged: {why}" for key, why in result.failed.items()}):
                _say(line)
        for key, why in result.left.items():
            _say(f"  {key} was left: {why}")


@commands.command()
@entity_option
@batch_option
@dry_option
@json_option
@click.option(
    "--passed-ids-file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="Keys to promote, one a line; default stdin.",
)  # fmt: skip
def promote(
    entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool, passed_ids_file: str | None
) -> None:
    """Move records that pass to the master tables: keys from FILE, or from stdin."""
    if passed_ids_file is None and sys.stdin.isatty():
        raise click.UsageError(
            "promote reads keys from stdin: `enrichment-worker revalidate | enrichment-worker promote`,"
            " or give --passed-ids-file FILE"
        )
    try:
        with click.open_file(passed_ids_file or "-", encoding="utf-8-sig", errors="strict") as source:
            keys = list(dict.fromkeys(line.strip() for line in source if line.strip()))
    except UnicodeDecodeError:
        raise click.UsageError("the keys are not UTF-8 text: give one key a line") from None
    if any("\0" in key for key in keys):
        raise click.UsageError("the keys are not text: give one key a line")
    result = _promote(entity, batch_size, keys, dry_run=dry_run)
    sys.exit(_print_promoted(result, dry_run=dry_run, as_json=as_json))


def _promote(entity: str | None, batch_size: int | None, keys: Sequence[str], *, dry_run: bool) -> Judged:
    async def work(bridge: Bridge) -> Judged:
        return await stages.promote(bridge, entities_named(entity), keys, dry_run=dry_run)

    return _with_bridge(work, batch_size)


def _print_promoted(result: Judged, *, dry_run: bool, as_json: bool) -> int:
    refused = {**result.failed, **result.left}
    if as_json:
        click.echo(json.dumps(asdict(result)))
    elif dry_run:
        click.echo(f"would promote {len(result.passed)} records")
        for line in _one_by_one(dict.fromkeys(result.passed, "would be promoted")):
            click.echo(line)
    else:
        click.echo(f"promoted {len(result.promoted)} records")
    for key, why in refused.items():
        _say(f"refused {key}: {why}")
    return 1 if refused else 0


@commands.command()
@entity_option
@batch_option
@dry_option
@click.option("--yes", is_flag=True, help="Do not pause for the enrichment.")
def pipeline(entity: str | None, batch_size: int | None, dry_run: bool, yes: bool) -> None:
    """Pull, pause for the enrichment, push, revalidate, promote."""
    if not yes and not dry_run and not sys.stdin.isatty():
        raise click.UsageError("pipeline pauses for the enrichment and has no terminal to wait at: add --yes")
    names = [one.name for one in entities_named(entity)]
    pulled = _pull(entity, batch_size, dry_run=dry_run, full=False)
    for name, one in zip(names, pulled, strict=True):
        click.echo(_pulled_in_words(ENTITIES[name], one, dry_run))
    if not yes and not dry_run:
        click.prompt(
            "Complete the enrichment in Supabase, then press Enter", default="", show_default=False,
            prompt_suffix=" … ", err=True,
        )  # fmt: skip
    for name, result in _push(entity, batch_size, dry_run=dry_run).items():
        click.echo(_pushed_in_words(ENTITIES[name], result, dry_run))
    judged = _revalidate(entity, batch_size, dry_run=dry_run)
    _say_judged(judged, dry_run)
    keys = [key for one in judged.values() for key in one.passed]
    sys.exit(_print_promoted(_promote(entity, batch_size, keys, dry_run=dry_run), dry_run=dry_run, as_json=False))


@commands.command()
@json_option
@click.argument("key")
def history(key: str, as_json: bool) -> None:
    """The life of one record across both databases, from the ledger."""

    async def work(bridge: Bridge) -> History | None:
        return await life_of(bridge, key.strip())

    found = _with_bridge(work)
    if found is None:
        _fail(f"neither database knows {key!r}; keys look like 04.04.01.01.00101.101", 1)
    if as_json:
        click.echo(json.dumps(asdict(found), default=str))
        return
    click.echo(f"{found.entity} {found.key}")
    for event in found.events:
        at = f"{event.at:%Y-%m-%d %H:%M:%S}" if event.at else "at an unknown time "
        click.echo(f"  {at}  {event.what}" + (f" [{event.run_id}]" if event.run_id else ""))
        for detail in event.details:
            click.echo(f"{'':23}{detail}")
    click.echo(f"  now: {found.now}")


@commands.command()
@dry_option
@json_option
@click.option("--run", "run_id", metavar="RUN_ID", help="Everything that this run promoted.")
@click.argument("keys", nargs=-1, metavar="KEY…")
def undo(keys: tuple[str, ...], run_id: str | None, dry_run: bool, as_json: bool) -> None:
    """Take promotions back: master row and invalid row as they were, workspace row pending."""
    if bool(keys) == bool(run_id):
        raise click.UsageError("give keys, or --run RUN_ID")

    async def work(bridge: Bridge) -> Undone:
        which = await keys_of_run(bridge, run_id) if run_id else keys
        return await take_back(bridge, which, run_id=run_id, dry_run=dry_run)

    result = _with_bridge(work)
    if run_id and not (result.undone or result.refused):
        _fail(f"no run {run_id} promoted anything", 1)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        for key, what in result.undone.items():
            click.echo(f"{'would undo' if dry_run else 'undone'} {key}: {what}")
    for key, why in result.refused.items():
        _say(f"refused {key}: {why}")
    sys.exit(1 if result.refused else 0)


@commands.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check settings, connections, schema, triggers, privileges, LISTEN, security; each with its mend."""
    settings = _settings()

    async def work() -> list[Finding]:
        found = []
        async for finding in examine(settings):
            found.append(finding)
            if not as_json:
                mend = f"\n{'':10}mend: {finding.mend}" if finding.mend else ""
                click.echo(f"{finding.level:8}  {finding.check}: {finding.text}{mend}")
        return found

    found = anyio.run(work)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    if any(finding.check.endswith(" connection") and finding.level is Level.PROBLEM for finding in found):
        sys.exit(3)
    sys.exit(any(finding.level is Level.PROBLEM for finding in found))


@commands.command()
@click.option("--keep", is_flag=True, help="Stay up and print the connection strings: be the enricher.")
def demo(keep: bool) -> None:
    """Run the whole loop on two embedded Postgres servers, with invented records."""
    from worker import demo as show  # noqa: PLC0415 - most commands need nothing of it

    telemetry.configure("console")
    sys.exit(show.main(keep=keep, echo=click.echo))
