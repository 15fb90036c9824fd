"""What a trigger does to a row, read from its source."""

from __future__ import annotations

import re
from collections.abc import Mapping

_STATEMENT = r"(?:^|;|\bbegin\b|\bthen\b|\belse\b|\bloop\b|>>|\*/|--[^\n]*\n)\s*"


def assigns(trigger: Mapping[str, str], column: str) -> bool:
    """Whether a trigger that sees a row before it is written may give the column another value.

    Args:
        trigger: its ``language``, ``source`` and ``arguments``.
        column: the column's name.
    """
    source = trigger["source"]
    if trigger["language"] != "plpgsql":
        return column in source or column in trigger["arguments"]
    name = rf'"?{re.escape(column)}"?'
    written = (
        rf"\bnew\s*\.\s*{name}\s*:=", rf"{_STATEMENT}new\s*\.\s*{name}\s*=", rf"\binto\b[^;]*\bnew\s*\.\s*{name}",
        # The row as a whole.
        r"\bnew\s*:=", rf"{_STATEMENT}new\s*=", r"\binto\s+(?:strict\s+)?new\b(?!\s*\.)",
        # Another row than NEW.
        r"\breturn\s+(?!new\b|old\b|null\b)",
    )  # fmt: skip
    return any(re.search(pattern, source, re.IGNORECASE) for pattern in written)
