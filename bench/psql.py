"""psql, of the embedded servers' programs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.lab import NEON_VERSION
from bench.process import Failed, TimedOut
from worker.demo.embedded import binaries

PATIENCE = 1800.0
"""Seconds after which a pipe is given up."""


def psql(url: str, *statements: str) -> list[str]:
    """The command line that runs the statements in one transaction, in silence, and stops at the first error."""
    commands = [part for statement in statements for part in ("-c", statement)]
    return [str(binaries(NEON_VERSION) / "psql"), "-XqAt", "-1", "-v", "ON_ERROR_STOP=1", "-d", url, *commands]


def psql_file(url: str, script: Path) -> list[str]:
    """The command line that runs a script, and stops at the first error."""
    return [str(binaries(NEON_VERSION) / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", str(script)]


def pipe(source: Sequence[str], sink: Sequence[str]) -> None:
    """Run two commands with a pipe between them, to their ends.

    Raises:
        Failed: one of them ended with an error.
    """
    with subprocess.Popen(source, stdout=subprocess.PIPE) as one:
        try:
            other = subprocess.run(
                sink, stdin=one.stdout, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            one.kill()
            raise TimedOut(f"psql: not within {PATIENCE:.0f} s") from None
    if one.returncode or other.returncode:
        raise Failed(f"psql: {other.stderr.strip()[:300] or 'the source ended with an error'}")
