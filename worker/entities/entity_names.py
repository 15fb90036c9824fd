"""The entities' names, for those who need no more: the help of a command loads no declaration."""

from __future__ import annotations

NAMES = ("company", "people")
"""In the order of the declarations: companies first."""
