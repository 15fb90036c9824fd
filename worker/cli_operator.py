"""What the operator asks and takes back: history, undo, doctor."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import anyio
import click

from worker.bridge import Bridge
from worker.cli_base import (
    commands,
    dry_option,
    fail,
    json_option,
    read_settings,
    say,
    with_bridge,
)
from worker.doctor import Finding, Level, examine
from worker.history import History
from worker.history import history as life_of
from worker.undo import Undone, keys_of_run
from worker.undo import undo as take_back


@commands.command()
@json_option
@click.argument("key")
def history(key: str, as_json: bool) -> None:
    """The life of one record across both databases, from the ledger."""

    async def work(bridge: Bridge) -> History | None:
        return await life_of(bridge, key.strip())

    found = with_bridge(work)
    if found is None:
        fail(f"neither database knows {key!r}; keys look like 04.04.01.01.00101.101", 1)
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

    result = with_bridge(work)
    if run_id and not (result.undone or result.refused):
        fail(f"no run {run_id} promoted anything", 1)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        for key, what in result.undone.items():
            click.echo(f"{'would undo' if dry_run else 'undone'} {key}: {what}")
    for key, why in result.refused.items():
        say(f"refused {key}: {why}")
    sys.exit(1 if result.refused else 0)


@commands.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check settings, connections, schema, triggers, privileges, LISTEN, security; each with its mend."""
    settings = read_settings()

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
