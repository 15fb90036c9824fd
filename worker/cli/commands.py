"""The declarations of the commands: names, arguments, help. A command's code is loaded when it runs, so that help, the
version, completion and usage errors are fast. Nothing here may import slow modules.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from typing import Any

import click
import click.shell_completion

from worker import __version__
from worker.daemon import signals
from worker.entities import folder

WORK: dict[str, str] = {}
"""Command → the function that runs it, as ``module:function``. It takes the command's arguments by name."""


class EntityName(click.ParamType[str]):
    """The name of an entity: that of a file, which is looked for when a name is given."""

    name = "NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a name that no file has."""
        try:
            known = _entity_names()
        except folder.NoEntityFiles:
            return value  # told when the files are loaded
        if value not in known:
            near = get_close_matches(value, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            self.fail(f"there is no entity {value[:60]!r}; {hint}", param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """The names that begin like this."""
        try:
            known = _entity_names()
        except folder.NoEntityFiles:
            known = []
        return [click.shell_completion.CompletionItem(name) for name in known if name.startswith(incomplete)]


def _entity_names() -> list[str]:
    return [path.stem for path in folder.entity_files(folder.entity_folder())]


entity_option = click.option("--entity", type=EntityName(), help="Only this kind of record; default all.")
batch_option = click.option(
    "--batch-size", type=click.IntRange(1, 100_000), metavar="N", help="Records handled at a time."
)
dry_option = click.option("--dry-run", is_flag=True, help="Write nothing; say what would happen.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="enrichment-worker")
def commands() -> None:
    """Carry repaired records from the Supabase workspace to Neon, the moment they are complete."""


def command(work: str, group: click.Group = commands) -> Callable[[Callable[[], None]], click.Command]:
    """Declare a command from a function's name, options and docstring; ``work`` names the function that runs it."""

    def declare(declared: Callable[[], None]) -> click.Command:
        @wraps(declared)
        def run(**arguments: Any) -> Any:
            return load(work)(**arguments)

        made: click.Command = group.command()(run)
        WORK[" ".join(filter(None, ("" if group is commands else group.name, made.name)))] = work
        return made

    return declare


def load(work: str) -> Callable[..., Any]:
    """Load a command's code. From then on, Ctrl-C stops it cleanly; before, there is nothing to clean up."""
    module, _, function = work.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    signals.interruptible()
    return loaded


@command("worker.cli.setup:setup")
@click.option("--dry-run", is_flag=True, help="Print the SQL and write nothing.")
@click.option(
    "--migrations", metavar="DIR", type=click.Path(),
    help="Write Supabase's part as a file for supabase/migrations; needs no database.",
)  # fmt: skip
def setup() -> None:
    """Bring both databases to what the worker needs. Twice is harmless."""


@command("worker.cli.run:run")
@click.option(
    "--check", is_flag=True, help="Only say whether it would start: reach both databases and look at the tables."
)
def run() -> None:
    """Listen, deliver and pull until stopped. This is what the service runs."""


@command("worker.cli.demo:demo")
@click.option("--keep", is_flag=True, help="Stay up and print the connection strings: be the enricher.")
def demo() -> None:
    """Run the whole loop on two embedded Postgres servers, with invented records."""


@command("worker.cli.stages:pull")
@entity_option
@batch_option
@dry_option
@json_option
@click.option("--full", is_flag=True, help="Compare every record, not only what changed since.")
def pull() -> None:
    """Copy new and changed invalid records from Neon to the workspace."""


@command("worker.cli.stages:push")
@entity_option
@batch_option
@dry_option
@json_option
def push() -> None:
    """Carry repaired records to Neon's invalid tables, without judging them."""


@command("worker.cli.stages:revalidate")
@entity_option
@batch_option
@dry_option
@json_option
@click.option("--stale", is_flag=True, help="Only records that another version of the rules refused.")
def revalidate() -> None:
    """Judge the pushed records in Neon. Prints the keys that passed, one a line."""


@command("worker.cli.stages:promote")
@entity_option
@batch_option
@dry_option
@json_option
@click.option(
    "--passed-ids-file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="Keys to promote, one a line; default stdin.",
)  # fmt: skip
def promote() -> None:
    """Move records that pass to the master tables: keys from FILE, or from stdin."""


@command("worker.cli.stages:pipeline")
@entity_option
@batch_option
@dry_option
@click.option("--yes", is_flag=True, help="Do not pause for the enrichment.")
def pipeline() -> None:
    """Pull, pause for the enrichment, push, revalidate, promote."""


@command("worker.cli.operator:status")
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every two seconds until stopped.")
def status() -> None:
    """Where the records stand. Asks Supabase only; Neon's totals are those of the last pull."""


@command("worker.cli.operator:history")
@entity_option
@json_option
@click.argument("key")
def history() -> None:
    """The life of one record across both databases, from the ledger."""


@command("worker.cli.operator:undo")
@entity_option
@dry_option
@json_option
@click.option("--run", "run_id", metavar="RUN_ID", help="Everything that this run promoted.")
@click.argument("keys", nargs=-1, metavar="KEY…")
def undo() -> None:
    """Take promotions back: master row and invalid row as they were, workspace row pending. The last one goes first.

    Refused where somebody has changed the master row since, or where other rows hang on it: those are named.
    """


@command("worker.cli.operator:reconcile")
@entity_option
@json_option
@click.option("--repair", is_flag=True, help="Bring both databases together.")
def reconcile() -> None:
    """Compare both databases with the ledger, record by record, and say where they disagree."""


@command("worker.cli.pause:pause")
@click.argument("entity", type=EntityName(), metavar="ENTITY")
def pause() -> None:
    """Stop all workers from claiming or pulling an entity's records, until `resume`. A batch on its way is finished."""


@command("worker.cli.pause:resume")
@click.argument("entity", type=EntityName(), metavar="ENTITY")
def resume() -> None:
    """Let a paused entity go on, in all workers."""


@command("worker.cli.operator:doctor")
@json_option
def doctor() -> None:
    """Check settings, connections, schema, triggers, privileges, LISTEN, security; each with its fix."""


@commands.group(invoke_without_command=True)
@json_option
@click.pass_context
def entities(context: click.Context, as_json: bool) -> None:
    """List the entities and their files; check a file, or draft one."""
    if context.invoked_subcommand is None:
        load(WORK["entities"])(as_json=as_json)


WORK["entities"] = "worker.cli.entities:listed"


@command("worker.cli.entities:check", entities)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
def check() -> None:
    """Check an entity file: every mistake with its line; against both databases if they can be reached."""


@command("worker.cli.entities:new", entities)
@click.argument("name", metavar="NAME")
@click.option("--invalid", required=True, metavar="SCHEMA.TABLE", help="The invalid table in Neon.")
@click.option("--master", required=True, metavar="SCHEMA.TABLE", help="The master table in Neon.")
@click.option("--out", type=click.Path(dir_okay=False), metavar="FILE", help="Default NAME.toml in WORKER_ENTITIES.")
def new() -> None:
    """Write an entity file from an existing invalid and master table."""
