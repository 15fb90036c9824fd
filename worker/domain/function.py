"""A rule that is a Python function, where no other kind fits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from worker.domain.model import Data
from worker.domain.rule import ColumnRules, Rule, Test


class FunctionFailed(Exception):
    """A rule's function failed on a record."""


def _callable(name: str) -> str:
    function_of(name)
    return name


def function_of(name: str) -> Callable[[Any, Data], str | None]:
    """The function of a rule, by its name.

    Args:
        name: ``package.module:function``.

    Raises:
        ValueError: there is none.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"{name} names no function: write package.module:function")
    try:
        loaded = import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the module does wrong
        raise ValueError(f"the module {module} cannot be loaded ({type(error).__name__}: {error})") from None
    found = getattr(loaded, function, None)
    if found is None:
        raise ValueError(f"the module {module} has no function {function}")
    if not callable(found):
        raise ValueError(f"{name} is no function")  # noqa: TRY004 - pydantic reports a ValueError
    called: Callable[[Any, Data], str | None] = found
    return called


class Function(Rule):
    """A Python function where no other kind of rule fits.

    It takes the value and the record (both as they will be carried), and returns the message if it refuses the value,
    else None. It must be pure. Its code is no part of the rules' version: its ``revision`` is.
    """

    rule: Literal["function"]
    function: Annotated[str, AfterValidator(_callable)]
    """``package.module:function``. A module beside the entity files is found, too."""
    revision: str = "1"
    """To be changed with every change of a verdict of the function."""

    def looks_at_missing(self, column: ColumnRules) -> bool:
        return True

    def test(self, field: str, column: ColumnRules) -> Test:
        function = function_of(self.function)

        def test(value: Any, record: Data) -> str | None:
            try:
                said = function(value, record)
            except Exception as error:  # noqa: BLE001 - whatever the function does wrong
                # Of its own kind: pydantic takes a ValueError for a refusal. Its text may quote the value.
                raise FunctionFailed(f"{self.function} raised {type(error).__name__}") from None
            return self._says(said, value) if said else None

        return test
