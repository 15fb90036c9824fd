"""The guide's scripts as commands: pull, push, revalidate, promote, pipeline."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from worker.cli.common import (
    all_entities,
    check_keys,
    entities_named,
    one_by_one,
    open_in_words,
    progress,
    with_databases,
)
from worker.cli.console import say, shown, shown_reason
from worker.domain.pulled import Pulled
from worker.entities.declaration import Entity
from worker.observe import output
from worker.supabase.pause import require_running
from worker.sync import stages
from worker.sync.databases import Databases
from worker.sync.dry_run import rehearse_pipeline
from worker.sync.pull import pull as pull_entity
from worker.sync.pull_run import STAGE_ROWS
from worker.sync.rehearsal import Revalidated


def pull(entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool, full: bool) -> None:
    """Copy new and changed invalid records from Neon to the workspace."""
    results = _pull(entity, batch_size, dry_run=dry_run, full=full)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results if result]))
        return
    for one, result in zip(entities_named(entity), results, strict=True):
        click.echo(_pulled_in_words(one, result, dry_run))


async def _require_running(databases: Databases, entity: str | None, *, dry_run: bool) -> None:
    """Refuse all where one of several entities is paused, before anything is done. A dry run does nothing.

    Raises:
        Paused: some are paused.
    """
    if not dry_run:
        async with databases.supabase.connection() as supabase:
            await require_running(supabase, entities_named(entity))


def _pull(entity: str | None, batch_size: int | None, *, dry_run: bool, full: bool) -> list[Pulled | None]:
    async def work(databases: Databases) -> list[Pulled | None]:
        await _require_running(databases, entity, dry_run=dry_run)
        with progress("pulling") as bar:
            return [
                await pull_entity(
                    databases, one, full=full, dry_run=dry_run, batch_size=batch_size or STAGE_ROWS, progress=bar
                )
                for one in entities_named(entity)
            ]

    return with_databases(work)


def _pulled_in_words(entity: Entity, result: Pulled | None, dry_run: bool) -> str:
    if result is None:
        return f"{entity.plural}: another worker is pulling; nothing to do here"
    would = "would pull" if dry_run else "pulled"
    parts = [f"{would} {entity.count(result.new)}", f"{result.changed} changed"]
    if result.withdrawn:
        parts.append(f"{result.withdrawn} withdrawn")
    if result.orphaned:
        parts.append(f"{result.orphaned} kept with a note, their record left Neon")
    if result.refused:
        parts.append(f"{result.refused} that the workspace does not take (see the log)")
    if result.judged:
        parts.append(f"{result.judged} judged that somebody had pushed by hand")
    if result.told:
        parts.append(f"{result.told} told what had become of them")
    lines = [", ".join(parts) + ("" if dry_run else f" ({result.run_id})")]
    lines += map(open_in_words, result.open_transactions)
    if result.restored:
        lines.append(f"  {result.restored}")
    if result.lost:
        lines.append(
            f"  {entity.count(len(result.lost))} not in Neon any more, kept in the workspace:"
            " `enrichment-worker reconcile` lists them"
        )
    return "\n".join(lines + one_by_one(result.keys))


def push(entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool) -> None:
    """Carry repaired records to Neon's invalid tables, without judging them."""
    results = _push(entity, batch_size, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({name: asdict(result) for name, result in results.items()}))
        return
    for name, result in results.items():
        click.echo(_pushed_in_words(all_entities()[name], result, dry_run))


def _push(entity: str | None, batch_size: int | None, *, dry_run: bool) -> dict[str, stages.Pushed]:
    done = {one.name: stages.Pushed() for one in entities_named(entity)}

    async def work(databases: Databases) -> None:
        await _require_running(databases, entity, dry_run=dry_run)
        with progress("pushing") as bar:
            for name, counts in done.items():
                await stages.push(databases, databases.entities[name], counts, dry_run=dry_run, progress=bar)

    with_databases(work, batch_size)
    return done


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
    return "\n".join(lines + one_by_one(result.keys))


def revalidate(entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool, stale: bool) -> None:
    """Judge the pushed records in Neon. Prints the keys that passed, one a line."""
    results = _revalidate(entity, batch_size, dry_run=dry_run, stale=stale)
    if as_json:
        click.echo(json.dumps({name: asdict(result) for name, result in results.items()}))
    else:
        for result in results.values():
            for key in result.passed:
                click.echo(key)
    _say_judged(results, dry_run)


def _revalidate(
    entity: str | None, batch_size: int | None, *, dry_run: bool, stale: bool = False
) -> dict[str, Revalidated]:
    async def work(databases: Databases) -> dict[str, Revalidated]:
        results: dict[str, Revalidated] = {}
        await _require_running(databases, entity, dry_run=dry_run)
        with progress("judging") as bar:
            for one in entities_named(entity):
                passed = {key for result in results.values() for key in result.passed}
                results[one.name] = await stages.revalidate(
                    databases, one, stale=stale, dry_run=dry_run, assumed=passed, progress=bar
                )
        return results

    return with_databases(work, batch_size)


def _say_judged(results: dict[str, Revalidated], dry_run: bool) -> None:
    for name, result in results.items():
        say(f"PASSED: {all_entities()[name].count(len(result.passed))}")
        still = "" if dry_run else " (validation_errors still present)"
        others = f", {len(result.otherwise)} for other reasons than before" if result.otherwise else ""
        say(f"FAILED: {all_entities()[name].count(len(result.failed))}{still if result.failed else ''}{others}")
        if dry_run:
            told = {key: f"would be flagged: {shown_reason(why)}" for key, why in result.failed.items()}
            warned = result.warned.items()
            told |= {key: f"would be promoted with a warning: {shown_reason(why)}" for key, why in warned}
            for line in one_by_one(told):
                say(line)
        for key, why in result.left.items():
            say(f"  {shown(key)} was left: {shown_reason(why)}")


def promote(
    entity: str | None, batch_size: int | None, dry_run: bool, as_json: bool, passed_ids_file: str | None
) -> None:
    """Move records that pass to the master tables: keys from FILE, or from stdin."""
    if passed_ids_file is None and (sys.stdin.isatty() or 0 in output.closed):
        raise click.UsageError(
            "promote reads keys from stdin: `enrichment-worker revalidate | enrichment-worker promote`,"
            " or give --passed-ids-file FILE"
        )
    try:
        with click.open_file(passed_ids_file or "-", encoding="utf-8-sig", errors="strict") as source:
            keys = list(dict.fromkeys(line.strip() for line in source if line.strip()))
    except UnicodeDecodeError:
        raise click.UsageError("the keys are not UTF-8 text: give one key a line") from None
    except OSError as error:
        raise click.UsageError(f"the keys cannot be read from {passed_ids_file or 'stdin'}: {error.strerror}") from None
    check_keys(keys)
    result = _promote(entity, batch_size, keys, dry_run=dry_run)
    sys.exit(_print_promoted(result, dry_run=dry_run, as_json=as_json))


def _promote(entity: str | None, batch_size: int | None, keys: Sequence[str], *, dry_run: bool) -> Revalidated:
    promotion = stages.Promotion(list(keys))

    async def work(databases: Databases) -> Revalidated:
        await _require_running(databases, entity, dry_run=dry_run)
        with progress("promoting") as bar:
            return await stages.promote(databases, entities_named(entity), promotion, dry_run=dry_run, progress=bar)

    return with_databases(work, batch_size)


def _print_promoted(result: Revalidated, *, dry_run: bool, as_json: bool) -> int:
    refused = {**result.failed, **result.left}
    if as_json:
        click.echo(json.dumps(asdict(result)))
    elif dry_run:
        click.echo(f"would promote {len(result.passed)} records")
        for line in one_by_one(dict.fromkeys(result.passed, "would be promoted")):
            click.echo(line)
    else:
        click.echo(f"promoted {len(result.promoted)} records")
    for key, why in refused.items():
        say(f"refused {shown(key)}: {shown_reason(why)}")
    return 1 if refused else 0


def pipeline(entity: str | None, batch_size: int | None, dry_run: bool, yes: bool) -> None:
    """Pull, pause for the enrichment, push, revalidate, promote."""
    if not yes and not dry_run and not sys.stdin.isatty():
        raise click.UsageError("pipeline pauses for the enrichment and has no terminal to wait at: add --yes")
    pulled = _pull(entity, batch_size, dry_run=dry_run, full=False)
    for one, its in zip(entities_named(entity), pulled, strict=True):
        click.echo(_pulled_in_words(one, its, dry_run))
    if not yes and not dry_run:
        click.prompt(
            "Complete the enrichment in Supabase, then press Enter", default="", show_default=False,
            prompt_suffix=" … ", err=True,
        )  # fmt: skip
    for name, result in _push(entity, batch_size, dry_run=dry_run).items():
        click.echo(_pushed_in_words(all_entities()[name], result, dry_run))
    if dry_run:
        would = with_databases(lambda databases: rehearse_pipeline(databases, entities_named(entity)), batch_size)
        _say_judged(would, dry_run)
        passed = Revalidated(passed=[key for one in would.values() for key in one.passed])
        sys.exit(_print_promoted(passed, dry_run=True, as_json=False))
    judged = _revalidate(entity, batch_size, dry_run=False)
    _say_judged(judged, dry_run=False)
    keys = [key for one in judged.values() for key in one.passed]
    if len(keys) == len(set(keys)):
        promoted = _promote(entity, batch_size, keys, dry_run=False)
    else:  # records of several entities have one key
        promoted = Revalidated()
        for name, its_own in judged.items():
            promoted.add(_promote(name, batch_size, its_own.passed, dry_run=False))
    sys.exit(_print_promoted(promoted, dry_run=False, as_json=False))
