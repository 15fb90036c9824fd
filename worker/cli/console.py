"""Output of the commands besides their results."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

LONGEST_SHOWN = 100
LONGEST_REASON = 2000


def fail(text: str, status: int) -> NoReturn:
    """Print each line of the text to stderr, and exit."""
    for line in text.splitlines():
        click.echo(f"enrichment-worker: {line}", err=True)
    sys.exit(status)


def say(text: str) -> None:
    """Print a message to stderr, apart from the results."""
    click.echo(text, err=True)


def shown(text: str, *, longest: int = LONGEST_SHOWN) -> str:
    """Foreign text, shortened and safe for a terminal."""
    text = text if len(text) <= longest else text[:longest] + "…"
    return text if text.isprintable() else repr(text)[1:-1]


def shown_reason(text: str) -> str:
    """Everything that is wrong with a record, safe for a terminal: a part of it would be repaired one by one."""
    return shown(text, longest=LONGEST_REASON)
