"""The declarations of the commands: names, arguments, help. A command's code is loaded when it runs, so that help, the
version, completion and usage errors are fast. Nothing here may import slow modules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import click

from worker import __version__
from worker.daemon import signals
from worker.entities.entity_names import NAMES

WORK: dict[str, str] = {}
"""Command → the function that runs it, as ``module:function``. It takes the command's arguments by name."""

entity_option = click.option("--entity", type=click.Choice(NAMES), help="Only this kind of record; default both.")
batch_option = click.option(
    "--batch-size", type=click.IntRange(1, 100_000), metavar="N", help="Records handled at a time."
)
dry_option = click.option("--dry-run", is_flag=True, help="Write nothing; say what would happen.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="enrichment-worker")
def commands() -> None:
    """Carry repaired records from the Supabase workspace to Neon, the moment they are complete."""


def command(work: str) -> Callable[[Callable[[], None]], click.Command]:
    """Declare a command from a function's name, options and docstring; ``work`` names the function that runs it."""

    def declare(declared: Callable[[], None]) -> click.Command:
        @wraps(declared)
        def run(**arguments: Any) -> Any:
            return load(work)(**arguments)

        made: click.Command = commands.command()(run)
        WORK[made.name or ""] = work
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
def setup() -> None:
    """Bring both databases to what the worker needs. Twice is harmless."""


@command("worker.cli.run:run")
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
@json_option
@click.argument("key")
def history() -> None:
    """The life of one record across both databases, from the ledger."""


@command("worker.cli.operator:undo")
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


@command("worker.cli.operator:doctor")
@json_option
def doctor() -> None:
    """Check settings, connections, schema, triggers, privileges, LISTEN, security; each with its fix."""
