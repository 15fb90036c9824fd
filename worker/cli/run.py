"""The daemon as a command. A separate module: it loads a quarter more code than other commands need."""

from __future__ import annotations

from worker.cli.common import read_settings, run_async
from worker.daemon.run import run as run_daemon


def run() -> None:
    """Listen, deliver and pull until stopped."""
    run_async(run_daemon, read_settings(), handle_signals=False)
