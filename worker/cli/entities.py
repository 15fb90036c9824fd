"""``entities``: list the entity files, check one, or draft one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import click

from worker.cli.common import read_settings, run_async
from worker.cli.console import fail, say, shown
from worker.entities.declaration import Entity
from worker.entities.draft import NoDraft
from worker.entities.folder import FOLDER, SETTING, NoEntityFiles, entity_folder
from worker.entities.loader import Declared, entities_of, load_entities, read_file, together
from worker.entities.mistakes import Mistake
from worker.entities.names import table_name
from worker.operate.entity_check import compared, drafted
from worker.postgres.pool import Database
from worker.schema.shape import NEON, SUPABASE
from worker.settings import Settings, SettingsError
from worker.sync.databases import Unreachable, opened


def listed(as_json: bool) -> None:
    """List the entities and their files."""
    entities = load_entities(entity_folder())
    rows = [
        {
            "name": one.name, "file": str(one.file), "invalid": str(one.invalid_table),
            "master": str(one.master_table), "workspace": str(one.workspace_table),
            "rules_version": one.rules.version(),
        }
        for one in entities.values()
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['name']}: {row['file']}")
        click.echo(
            f"  {row['invalid']} -> {row['workspace']} -> {row['master']}, rules of version {row['rules_version']}"
        )


def check(file: str) -> None:
    """Check an entity file: by itself, with those beside it, and against the databases if they can be reached."""
    path = Path(file)
    declared, mistakes = read_file(path)
    if not declared:
        _tell(mistakes)
    beside, mistakes = _beside(declared)
    needed = _needed(declared, beside)
    files = {str(one.source.path) for one in needed.values()}
    mistakes = mistakes or [one for one in together([*beside.values(), declared]) if one.file in files]
    if mistakes:
        _tell(mistakes)
    entities = entities_of(needed)
    compared = _compare(entities, declared.name)
    for column, filled in entities[declared.name].computed.items():
        if filled.strip().upper() == "NULL":
            say(f"{column} is filled with NULL: decide in [master.computed] or by [slot] what fills it")
    click.echo(f"{path}: {declared.name} is in order" + (", and the databases fit" if compared else ""))


def _beside(declared: Declared) -> tuple[dict[str, Declared], list[Mistake]]:
    """The sound files in the same folder, and the mistakes of those that the entity waits for; one of these may be a
    file that the worker reads now.
    """
    waited = declared.file.awaited
    folder = declared.source.path.parent
    others = {path.stem: path for path in sorted(folder.glob("*.toml")) if path.stem != declared.name}
    beside: dict[str, Declared] = {}
    mistakes: list[Mistake] = []
    ahead = [*others, *(waited - others.keys())]
    while ahead:
        name = ahead.pop(0)
        path = others.get(name, entity_folder() / f"{name}.toml")
        if name in (declared.name, *beside) or not path.is_file():
            continue
        one, found = read_file(path)
        mistakes += found if name in waited else []
        if one:
            beside[name] = one
            ahead += sorted(one.file.awaited)
    return beside, mistakes


def _needed(declared: Declared, beside: Mapping[str, Declared]) -> dict[str, Declared]:
    """An entity and all that it waits for in the end: the other files beside it are not asked about."""
    needed: dict[str, Declared] = {}
    ahead = [declared]
    while ahead:
        one = ahead.pop()
        needed[one.name] = one
        ahead += [beside[name] for name in one.file.awaited & (beside.keys() - needed.keys())]
    return needed


def _tell(mistakes: Iterable[object]) -> NoReturn:
    for mistake in mistakes:
        click.echo(str(mistake))
    raise SystemExit(1)


def _compare(entities: Mapping[str, Entity], name: str) -> bool:
    """Compare an entity with the databases; whether they could be reached."""
    try:
        wrong, added = run_async(_compared, read_settings(), entities, name)
    except (SettingsError, Unreachable) as error:
        say(f"not compared with the databases: {str(error).splitlines()[0]}")
        return False
    for line in dict.fromkeys(added):
        say(f"`setup` would add: {line}")
    if wrong:
        _tell(wrong)
    return True


async def _compared(settings: Settings, entities: Mapping[str, Entity], name: str) -> tuple[list[str], list[str]]:
    neon, supabase = Database(NEON, settings.neon_conninfo), Database(SUPABASE, settings.supabase_conninfo)
    async with opened(neon, supabase):
        mismatches = await compared(neon, supabase, list(entities.values()), [name])
    wrong = [str(one.problem) for one in mismatches if not one.by_setup]
    return wrong, [one.by_setup for one in mismatches if one.by_setup]


def new(name: str, invalid: str, master: str, out: str | None) -> None:
    """Write an entity file from an existing invalid and master table."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise click.UsageError(f"{shown(name)} names no entity: use lower-case letters, digits and underscores")
    try:
        tables = table_name(invalid), table_name(master)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    path = Path(out) if out else _own_folder() / f"{name}.toml"
    if path.exists():
        fail(f"{path} is there already: remove it, or write to another file (--out)", 1)
    try:
        text = run_async(_drafted, read_settings(), name, *tables)
    except NoDraft as error:
        fail(str(error), 1)
    path.write_text(text, encoding="utf-8")
    click.echo(f"{path} is written: decide where its comments say so, then `enrichment-worker entities check {path}`")


def _own_folder() -> Path:
    """Where new files belong; where nothing is set, the current folder."""
    folder = entity_folder()
    if folder == FOLDER:
        return Path()
    if not folder.is_dir():
        raise NoEntityFiles(f"{SETTING}: {folder} is no folder; make it, or write to another file (--out)")
    return folder


async def _drafted(settings: Settings, name: str, *tables: object) -> str:
    neon = Database(NEON, settings.neon_conninfo)
    async with opened(neon):
        invalid, master = tables
        return await drafted(neon, name, invalid, master)  # type: ignore[arg-type]
