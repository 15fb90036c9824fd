"""How the commands speak to the user beside their results."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

LONGEST_SHOWN = 100


def fail(text: str, status: int) -> NoReturn:
    """Say why on stderr, one line each, and exit."""
    for line in text.splitlines():
        click.echo(f"enrichment-worker: {line}", err=True)
    sys.exit(status)


def say(text: str) -> None:
    """Say something beside the results, on stderr."""
    click.echo(text, err=True)


def shown(text: str) -> str:
    """What somebody else wrote, in short, and harmless to a terminal."""
    text = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    return text if text.isprintable() else repr(text)[1:-1]
