"""The operator's commands: status, history, undo, reconcile, doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import anyio
import click

from worker.cli.common import (
    all_entities,
    check_keys,
    entities_named,
    open_in_words,
    progress,
    read_settings,
    run_async,
    with_databases,
)
from worker.cli.console import fail, say, shown
from worker.domain.findings import Finding, Level
from worker.entities.declaration import Entity
from worker.entities.worker_tables import FAILURES, PAUSED, POSITION
from worker.operate.doctor import examine
from worker.operate.history import History
from worker.operate.history import history as life_of
from worker.operate.status import read_status
from worker.postgres.pool import Database
from worker.schema import examination
from worker.schema.shape import shapes
from worker.sync.databases import Databases, opened
from worker.sync.reconcile import Compared
from worker.sync.reconcile import reconcile as compare
from worker.sync.stages import is_ambiguous
from worker.sync.undo import Undone, keys_of_run
from worker.sync.undo import undo as take_back


def status(as_json: bool, watch: bool) -> None:
    """Where the records stand. Asks Supabase only; Neon's totals are those of the last pull."""
    settings, entities = read_settings(), entities_named(None)
    database = Database("Supabase", settings.supabase_conninfo, max_size=1)
    needed = [shape for shape in shapes([]) if shape.table in (POSITION, PAUSED, FAILURES)]

    async def work() -> None:
        async with opened(database):
            while True:
                async with database.connection() as supabase:
                    await examination.require(supabase, needed)
                    found = await read_status(supabase, entities)
                if as_json:
                    click.echo(json.dumps(found))
                else:
                    click.echo("\033[H\033[J" if watch and sys.stdout.isatty() else "", nl=False)
                    for line in status_in_words(found):
                        click.echo(line)
                if not watch:
                    return
                await anyio.sleep(WATCH_SECONDS)

    run_async(work)


WATCH_SECONDS = 2.0


def status_in_words(found: dict[str, Any]) -> Iterator[str]:
    """What ``status`` prints, line by line."""
    states = ("pending", "in_progress", "complete", "waiting", "promoted", "failed")
    yield f"{'':12}" + "".join(f"{state:>13}" for state in states)
    for one in found["entities"].values():
        yield f"{one['plural']:12}" + "".join(f"{one['counts'][state]:>13}" for state in states)
    for name, one in found["entities"].items():
        oldest = one["oldest_queued_seconds"]
        queue = f"queue {one['queue']}" + (f", the oldest since {oldest:.0f} s" if oldest is not None else "")
        about = "about " if one["totals_estimated"] else ""
        neon = f"Neon had {about}{one['invalid']} invalid and {about}{one['master']} in the master"
        pulled = f"last pull {one['last_pull']['at']}; {neon}" if one["last_pull"]["at"] else "not pulled yet"
        yield f"{one['plural']}: {queue}; {pulled}"
        if one["paused_since"]:
            since = one["paused_since"][:16].replace("T", " ")
            yield f"  paused since {since} UTC: `enrichment-worker resume {name}` lets them go on"
        yield from map(open_in_words, one["last_pull"].get("open_transactions", ()))
        if one["returned_often"]:
            yield f"  {one['returned_often']} failed that came back four times or more within 30 days"
        for failure in one["failures"]:
            fields = f" ({', '.join(failure['fields'])})" if failure["fields"] else ""
            yield f"  {failure['records']} failed: {failure['reason_code']}{fields}, such as {failure['keys'][0]}"


def _keys_in_words(entities: Iterable[Entity]) -> str:
    numbered = [one.name for one in entities if one.key_type != "TEXT"]
    texts = "keys look like 04.04.01.01.00101.101"
    return f"{texts}, those of {', '.join(numbered)} are whole numbers" if numbered else texts


def history(key: str, entity: str | None, as_json: bool) -> None:
    """The life of one record across both databases, from the ledger."""
    check_keys([key])

    async def work(databases: Databases) -> list[History]:
        return await life_of(databases, key.strip(), entity)

    several = with_databases(work)
    if not several:
        fail(f"neither database knows '{shown(key)}'; {_keys_in_words(entities_named(entity))}", 1)
    if len(several) > 1:
        fail(f"'{shown(key)}' {is_ambiguous(one.entity for one in several)}", 1)
    [found] = several
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


def undo(keys: tuple[str, ...], run_id: str | None, entity: str | None, dry_run: bool, as_json: bool) -> None:
    """Take promotions back: master row and invalid row as they were, workspace row pending. The last one goes first.

    Refused where somebody has changed the master row since, or where other rows hang on it: those are named.
    """
    if bool(keys) == bool(run_id):
        raise click.UsageError("give keys, or --run RUN_ID")
    check_keys([*keys, run_id or ""])

    result = Undone()

    async def work(databases: Databases) -> None:
        which = await keys_of_run(databases, run_id) if run_id else keys
        with progress("taking back") as bar:
            await take_back(databases, which, result, run_id=run_id, entity=entity, dry_run=dry_run, progress=bar)

    with_databases(work)
    if run_id and not (result.undone or result.refused):
        fail(f"no run {shown(str(run_id))} promoted anything, or retention has removed its backup from the ledger", 1)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        for key, what in result.undone.items():
            click.echo(f"{'would undo' if dry_run else 'undone'} {shown(key)}: {what}")
    for key, why in result.refused.items():
        say(f"refused {shown(key)}: {why}")
    sys.exit(1 if result.refused else 0)


def reconcile(entity: str | None, repair: bool, as_json: bool) -> None:
    """Compare both databases with the ledger, record by record, and say where they disagree."""

    async def work(databases: Databases) -> list[Compared]:
        with progress("comparing") as bar:
            return [await compare(databases, one, repair=repair, progress=bar) for one in entities_named(entity)]

    results = with_databases(work)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], default=str))
    else:
        for result in results:
            for line in compared_in_words(result):
                click.echo(line)
    sys.exit(not all(result.agrees for result in results))


def compared_in_words(result: Compared) -> Iterator[str]:
    """What ``reconcile`` prints of an entity, line by line."""
    plural = all_entities()[result.entity].plural
    if result.settled:
        yield f"{plural}: {result.settled} brought together"
    if result.agrees:
        yield f"{plural}: both databases agree"
        return
    if result.restored:
        yield f"{plural}: {result.restored}"
    yield f"{plural}: {len(result.differences) + len(result.lost)} records in which both databases disagree"
    for key, what in result.differences.items():
        yield f"  {shown(key)} {what}"
    for key, data in result.lost.items():
        values = {name: value for name, value in data.items() if value is not None}
        kept = json.dumps(values, ensure_ascii=False, default=str)
        yield f"  {shown(key)} is not in Neon any more; the workspace keeps {kept}"
    yield "  `enrichment-worker reconcile --repair` brings them together; what is lost is booked as withdrawn"


def doctor(as_json: bool) -> None:
    """Check settings, connections, schema, triggers, privileges, LISTEN, security; each with its fix."""
    settings = read_settings()

    async def work() -> list[Finding]:
        found = []
        async for finding in examine(settings):
            found.append(finding)
            if not as_json:
                hint = f"\n{'':10}hint: {finding.hint}" if finding.hint else ""
                click.echo(f"{finding.level:8}  {finding.check}: {finding.text}{hint}")
        return found

    found = run_async(work)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    if any(finding.check.endswith(" connection") and finding.level is Level.PROBLEM for finding in found):
        sys.exit(3)
    sys.exit(any(finding.level is Level.PROBLEM for finding in found))
