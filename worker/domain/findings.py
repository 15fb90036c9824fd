"""The findings of ``doctor``: one for each check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check found, and the fix if something is wrong."""

    level: Level
    check: str
    text: str
    hint: str = ""


def ok(check: str, text: str) -> Finding:
    """The check passed."""
    return Finding(Level.OK, check, text)


def warning(check: str, text: str, hint: str) -> Finding:
    """Something is not as it should be, or could not be proved."""
    return Finding(Level.WARNING, check, text, hint)


def problem(check: str, text: str, hint: str) -> Finding:
    """Something stops the worker from working, or exposes records."""
    return Finding(Level.PROBLEM, check, text, hint)
