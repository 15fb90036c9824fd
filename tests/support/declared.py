"""The entities that come with the worker, and rules as a file would declare them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from worker.domain.rule_compiler import Rules
from worker.domain.vocabulary import AnyRule
from worker.entities.loader import load_entities

ENTITIES = load_entities()
COMPANY, PEOPLE = ENTITIES["company"], ENTITIES["people"]
_RULES = TypeAdapter(tuple[AnyRule, ...])


def rules_of(columns: dict[str, str], *declared: dict[str, Any]) -> Rules:
    """Rules over columns with types."""
    return Rules(columns, _RULES.validate_python(declared))
