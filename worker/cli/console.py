"""Output of the commands besides their results."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

LONGEST_SHOWN = 100


def fail(text: str, status: int) -> NoReturn:
    """Print each line of the text to stderr, and exit."""
    for line in text.splitlines():
        click.echo(f"enrichment-worker: {line}", err=True)
    sys.exit(status)


def say(text: str) -> None:
    """Print a message to stderr, apart from the results."""
    click.echo(text, err=True)


def shown(text: str) -> str:
    """Foreign text, shortened and safe for a terminal."""
    text = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    return text if text.isprintable() else repr(text)[1:-1]
