"""Which kinds of rules are for which types of columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping

TEXTS = {"TEXT", "VARCHAR", "CITEXT", "CHAR", "CHARACTER"}
_NUMBERS = {"SMALLINT", "INTEGER", "BIGINT", "NUMERIC", "REAL", "DOUBLE PRECISION"}
FITTING: Mapping[str, set[str]] = {
    **dict.fromkeys(("web_address", "email", "phone", "person_name", "contains", "starts_with", "ends_with"), TEXTS),
    **dict.fromkeys(("min_length", "max_length"), TEXTS),
    "number_range": _NUMBERS,
}
"""Kind of rule → the types that it is for; other kinds are for all."""


def fits(rule: str, type_: str) -> bool:
    """Whether a rule may ever refuse a value of a type. A list has a length; nobody knows the owner's own types."""
    if type_.endswith("[]") and rule in ("min_length", "max_length"):
        return True
    return "." in type_ or type_ in FITTING.get(rule, {type_})
