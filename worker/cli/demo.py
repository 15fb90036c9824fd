"""The demo as a command. A separate module, because no other command needs it."""

from __future__ import annotations

import sys

import click

from worker.demo import demo as show
from worker.observe import logs


def demo(keep: bool) -> None:
    """Run the whole loop on two embedded servers."""
    logs.configure("console")
    sys.exit(show.main(keep=keep, echo=click.echo))
