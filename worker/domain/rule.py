"""What all rules are: data, which an entity file declares. The kinds are in :mod:`worker.domain.vocabulary`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from worker.domain.model import Data

Test = Callable[[Any, Data], str | None]
"""What a rule says about a value and its record: the message if it refuses the value, else None."""

Severity = Literal["error", "warning"]


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Texts = Annotated[
    tuple[Annotated[str, StringConstraints(min_length=1)], ...], Field(min_length=1), BeforeValidator(_listed)
]
"""One text, or a list of them."""
MAX_CODE = 40
"""Characters of a reason code, in an invalid table's column as well."""
ReasonCode = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=MAX_CODE)]
Message = Annotated[str, StringConstraints(min_length=1, max_length=500)]


MAX_CHARACTERS = 10**9
"""More than Postgres stores in a value."""


def default_code(what: str, field: str) -> str:
    """A reason code made of what is wrong and the column, which may have a name of any kind."""
    return re.sub(r"[^A-Z0-9_]", "_", f"{what}_{field.upper()}")[:MAX_CODE]


class Rule(BaseModel):
    """A rule. An error blocks promotion; a warning is stored and lets pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rule: str
    """The kind of rule."""
    field: Texts
    """The column, or several."""
    severity: Severity = "error"
    message: Message | None = None
    """What the enricher reads; ``{value}`` stands for the value. By default, the words of the kind of rule."""
    reason_code: ReasonCode | None = None
    """By default made of the kind of rule and the column, such as ``EMPTY_WEBSITE``."""

    CODE: ClassVar[str] = "INVALID"

    def code_of(self, field: str) -> str:
        """The reason code for a column."""
        return self.reason_code or default_code(self.CODE, field)

    def test(self, field: str, column: ColumnRules) -> Test:
        """Compile the rule.

        Args:
            field: the column.
            column: all rules of the column.
        """
        raise NotImplementedError

    def looks_at_missing(self, column: ColumnRules) -> bool:
        """Whether the test is made for an empty value, too; other rules pass it."""
        return False

    def looks_at_present(self) -> bool:
        """Whether the test may refuse a value that is there."""
        return True

    def _says(self, default: str, value: object = "") -> str:
        return (self.message or default).replace("{value}", str(value))


R = TypeVar("R", bound=Rule)


class ColumnRules:
    """All rules of one column: what a placeholder is depends on what the column holds."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Take the rules in their order."""
        self.rules = tuple(rules)

    def first(self, kind: type[R]) -> R | None:
        """The first rule of a kind."""
        return next((rule for rule in self.rules if isinstance(rule, kind)), None)
