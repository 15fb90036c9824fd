"""The vocabulary of the rules: what an entity file may ask of a column. A rule is data: a field, a kind with its
parameters, a severity, a message and a reason code. :class:`worker.domain.rule_compiler.Rules` compiles those of an
entity.

Pure: no I/O, no network, no clock. Messages are read by enrichers next to the field's name: what is wrong, then what to
do. To add a kind of rule: a subclass of `Rule` here, its name in `KINDS` and in `AnyRule`, the types that it is for in
`worker/entities/fitting.py`, and its cases in `tests/unit/test_vocabulary.py`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from worker.domain.formats import Email, PersonName, Phone, Placeholder, WebAddress
from worker.domain.function import Function
from worker.domain.model import Data
from worker.domain.rule import MAX_CHARACTERS, ColumnRules, Rule, Test, Texts

PATTERN_SECONDS = 1.0
"""After this a pattern is given up, and the record flagged: the rules could not judge it."""


class Required(Rule):
    """There is a value."""

    rule: Literal["required"]
    or_zero: bool = False
    """Whether zero counts as missing."""

    CODE = "EMPTY"

    def looks_at_missing(self, column: ColumnRules) -> bool:
        return True

    def looks_at_present(self) -> bool:
        return self.or_zero

    def test(self, field: str, column: ColumnRules) -> Test:
        missing = "is empty: enter it" if self.severity == "error" else "is missing: enter it if you can find it"
        said, or_zero = self._says(missing), self.or_zero

        def test(value: Any, _record: Data) -> str | None:
            if or_zero and _is_zero(value):
                return said
            return None if value or value is False or value == 0 else said

        return test


def _is_zero(value: Any) -> bool:
    # A NUMERIC travels as text.
    return (isinstance(value, int | float) and not isinstance(value, bool) and value == 0) or (
        isinstance(value, str) and bool(_ZERO.fullmatch(value))
    )


_ZERO = re.compile(r"[-+]?0+(?:\.0*)?")


class _Length(Rule):
    """Text, or a list, has a length."""

    length: int = Field(ge=1, le=MAX_CHARACTERS)

    WRONG: ClassVar[Callable[[int, int], bool]]
    """Compares what the value has with ``length``."""
    SAYS: ClassVar[str]

    def test(self, field: str, column: ColumnRules) -> Test:
        said, length, wrong = self._says(self.SAYS.format(self.length)), self.length, type(self).WRONG

        def test(value: Any, _record: Data) -> str | None:
            return said if isinstance(value, str | list) and wrong(len(value), length) else None

        return test


class MinLength(_Length):
    """Text has at least so many characters."""

    rule: Literal["min_length"]

    CODE = "SHORT"
    WRONG = operator.lt
    SAYS = "is too short: enter at least {} characters"


class MaxLength(_Length):
    """Text has at most so many characters."""

    rule: Literal["max_length"]

    CODE = "LONG"
    WRONG = operator.gt
    SAYS = "is too long: enter at most {} characters"


class OneOf(Rule):
    """One of some values."""

    rule: Literal["one_of"]
    values: Texts
    ignore_case: bool = False

    def test(self, field: str, column: ColumnRules) -> Test:
        fold = str.casefold if self.ignore_case else str
        allowed = frozenset(map(fold, self.values))
        default = f"is none of {', '.join(self.values)}: enter one of them"

        def test(value: Any, _record: Data) -> str | None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            return None if fold(text) in allowed else self._says(default, value)

        return test


def _compiled(pattern: str) -> Any:
    import regex  # noqa: PLC0415 - only where there is a pattern: it takes a thirtieth of a second

    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern[:80]} is no regular expression of Python's: {error}") from None


def _compiles(pattern: str) -> str:
    _compiled(pattern)
    return pattern


class Pattern(Rule):
    """Text that matches a regular expression (Python's) as a whole.

    ``re`` has no limit of time, and a pattern such as ``(a+)+`` takes ages on some text: that would stop every task.
    """

    rule: Literal["pattern"]
    pattern: Annotated[str, AfterValidator(_compiles)]

    def test(self, field: str, column: ColumnRules) -> Test:
        matches = _compiled(self.pattern).fullmatch

        def test(value: Any, _record: Data) -> str | None:
            fits = matches(str(value), timeout=PATTERN_SECONDS)
            return None if fits else self._says("does not have the form that is asked for", value)

        return test


class _Text(Rule):
    text: Texts
    """One text, or several, of which one is enough."""
    ignore_case: bool = False

    WORDS: ClassVar[str]
    HOLDS: ClassVar[Callable[[str, str], bool]]

    def test(self, field: str, column: ColumnRules) -> Test:
        fold, holds = str.casefold if self.ignore_case else str, type(self).HOLDS
        texts = tuple(map(fold, self.text))
        default = f"does not {self.WORDS} {' or '.join(self.text)}: correct it"

        def test(value: Any, _record: Data) -> str | None:
            folded = fold(str(value))
            return None if any(holds(folded, text) for text in texts) else self._says(default, value)

        return test


class Contains(_Text):
    """Text that contains another."""

    rule: Literal["contains"]
    WORDS = "contain"
    HOLDS = str.__contains__


class StartsWith(_Text):
    """Text that starts with another."""

    rule: Literal["starts_with"]
    WORDS = "start with"
    HOLDS = str.startswith


class EndsWith(_Text):
    """Text that ends with another."""

    rule: Literal["ends_with"]
    WORDS = "end with"
    HOLDS = str.endswith


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is a number")  # noqa: TRY004 - pydantic reports a ValueError
    if not -MAX_NUMBER <= value <= MAX_NUMBER:  # nor is it NaN
        raise ValueError("is a number of at most 18 digits")
    return value


MAX_NUMBER = 10**18
Number = Annotated[int | float, PlainValidator(_number)]


class NumberRange(Rule):
    """A number within a range, its ends included."""

    rule: Literal["number_range"]
    min: Number | None = None
    max: Number | None = None

    CODE = "OUT_OF_RANGE"

    @model_validator(mode="after")
    def _has_an_end(self) -> NumberRange:
        if self.min is None and self.max is None:
            raise ValueError("a number_range has a min, a max, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no number is from {self.min} to {self.max}: exchange min and max")
        return self

    def test(self, field: str, column: ColumnRules) -> Test:
        # As text, a fraction is what was written in the file.
        least = None if self.min is None else Decimal(str(self.min))
        most = None if self.max is None else Decimal(str(self.max))
        default = (
            f"enter a number of {least} or more" if most is None
            else f"enter a number of {most} or less" if least is None
            else f"enter a number from {least} to {most}"
        )  # fmt: skip

        def test(value: Any, _record: Data) -> str | None:
            try:
                number = Decimal(str(value))
                good = (least is None or number >= least) and (most is None or number <= most)
            except InvalidOperation:  # no number, or NaN
                good = False
            return None if good else self._says(default, value)

        return test


KINDS: tuple[type[Rule], ...] = (
    Required, MinLength, MaxLength, Placeholder, WebAddress, Email, Phone, PersonName, OneOf, Pattern, Contains,
    StartsWith, EndsWith, NumberRange, Function,
)  # fmt: skip
AnyRule = Annotated[
    Required
    | MinLength
    | MaxLength
    | Placeholder
    | WebAddress
    | Email
    | Phone
    | PersonName
    | OneOf
    | Pattern
    | Contains
    | StartsWith
    | EndsWith
    | NumberRange
    | Function,
    Field(discriminator="rule"),
]
"""A rule of any kind, told by its ``rule``."""


def name_of(kind: type[Rule]) -> str:
    """What a file calls a kind of rule."""
    return str(kind.model_fields["rule"].annotation.__args__[0])  # type: ignore[union-attr]
