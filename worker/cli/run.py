"""The daemon as a command. A separate module: it loads a quarter more code than other commands need."""

from __future__ import annotations

from worker.cli.common import read_settings, run_async
from worker.cli.console import say
from worker.daemon.run import run as run_daemon
from worker.settings import Settings
from worker.sync.databases import open_databases


def run(*, check: bool) -> None:
    """Listen, deliver and pull until stopped."""
    settings = read_settings()
    if check:
        run_async(_check, settings)
        say("both databases have what this release needs")
    else:
        run_async(run_daemon, settings, handle_signals=False)


async def _check(settings: Settings) -> None:
    """All that a start asks of the databases. `deploy/install` asks it before it replaces a worker that runs."""
    async with open_databases(settings):
        pass
