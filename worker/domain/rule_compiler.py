"""What makes a record good enough for the master table: the rules of an entity, compiled once into tests of
its columns.

Pure: no I/O, no network, no clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import Any

from worker.domain.formats import Email, PersonName, Phone, Placeholder, WebAddress, placeholders_of
from worker.domain.model import Data
from worker.domain.normalise import BLANKS, MAX_PHONE, e164, fitting_domain, host_name, web_address
from worker.domain.person_name import NameColumns
from worker.domain.rule import ColumnRules, Rule, Test, default_code
from worker.domain.steps import Verdict

REVISION = "2"
"""To be raised with every change of a verdict, a message or a normal form that the code makes, not a file."""
_DECIDING = ("email-validator", "idna", "phonenumberslite", "regex")
"""Libraries whose release may change a verdict."""

_TEXT = str, "is not text: enter text"
_NUMBER = int, "is not a whole number: enter digits only"
_FLAG = bool, "is neither true nor false: enter one of them"

# The exact type of a value, and what is said of another. Columns of other types are carried as they come.
_TYPES: Mapping[str, tuple[type, str]] = {
    "TEXT": _TEXT, "VARCHAR": _TEXT, "CHARACTER VARYING": _TEXT, "SMALLINT": _NUMBER, "INTEGER": _NUMBER,
    "BIGINT": _NUMBER, "BOOLEAN": _FLAG,
}  # fmt: skip

Step = Callable[[Data], None]


class Rules:
    """The rules of an entity: normalise, follow and judge a record.

    What a column's type or a rule refuses is an error and blocks promotion. A rule brings its reason code and message;
    what the type refuses is ``INVALID_<COLUMN>``. The order of the rules is the order in which errors are reported.
    """

    def __init__(self, columns: Mapping[str, str], rules: Sequence[Rule], also: object = None) -> None:
        """Compile the rules.

        Args:
            columns: data column → SQL type, in capitals, without length.
            rules: in the order in which errors are reported.
            also: what else decides a verdict, as JSON: it is part of the version.
        """
        self.columns, self._also = dict(columns), also
        self.rules = tuple(rules)
        of = {name: ColumnRules([rule for rule in rules if name in rule.field]) for name in columns}
        self._steps = [step for name, column in of.items() for step in _placeholder_steps(name, column)]
        for name, column in of.items():
            self._steps += _format_steps(name, column)
        self._phones = [(name, phone.region) for name, column in of.items() if (phone := column.first(Phone))]
        self._names = [
            NameColumns(name, it.first_name, it.last_name, it.min_length, placeholders_of(column))
            for name, column in of.items()
            if (it := column.first(PersonName))
        ]
        self._steps += [names.fill_in for names in self._names]
        warnings = {name: _Tests.of(name, column, "warning") for name, column in of.items()}
        self._warnings = [(name, tests) for name, tests in warnings.items() if tests.present or tests.missing]
        self._codes = _codes(rules)
        self._errors = _error_tests(columns, of, rules)
        self._version = self._hash()

    def version(self) -> str:
        """The version of these rules: twelve hex digits that change whenever a verdict might. The ledger keeps it
        with each outcome.

        A hash of what the file says, of `REVISION`, and of the versions of the libraries that decide: the same on every
        machine, wherever the code lies, and whatever the file's comments and the order of its tables and keys are.
        """
        return self._version

    def _hash(self) -> str:
        parts = {
            "columns": self.columns,
            "rules": [rule.model_dump(mode="json") for rule in self.rules],
            "revision": REVISION,
            "libraries": {name: installed(name) for name in _DECIDING},
            **({"also": self._also} if self._also else {}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def normalise(self, data: Data) -> Data:
        """Return a new record with the same keys and tidied values. Idempotent.

        Text loses the blanks around it, blank text becomes None, phones go to E.164, a bare host gets ``https://``, and
        a placeholder that is only a warning becomes None. Values of other types stay as they are.

        Args:
            data: JSON values by column name; not changed.
        """
        # As `trim`, without a call for each value.
        tidy = {name: value.strip(BLANKS) or None if type(value) is str else value for name, value in data.items()}
        for name, region in self._phones:
            # Longer ones are no numbers, and not worth a place in the cache.
            if isinstance(phone := tidy.get(name), str) and len(phone) <= MAX_PHONE:
                tidy[name] = e164(phone, region)
        for step in self._steps:
            step(tidy)
        return tidy

    def follow(self, data: Data, edited: Set[str]) -> Data:
        """Bring columns that say the same in line with those that the enricher edited.

        Args:
            data: JSON values by column name; not changed.
            edited: the columns whose value came from the enricher.
        """
        for names in self._names:
            data = names.follow(data, edited)
        return data

    def judge(self, data: Data) -> Verdict:
        """Judge a normalised record; a missing key counts as empty. Only a function that a file names may raise on a
        JSON value.

        Args:
            data: JSON values by column name, as `normalise` returns them.
        """
        errors: dict[str, str] = {}
        first: tuple[int, str] = (len(self._codes) + 1, "")
        for name, expected, tests in self._errors:
            value = data.get(name)
            refused: tuple[str, str] | None
            if value is not None and expected and type(value) is not expected[0]:
                refused = "", expected[1]
            else:
                try:
                    refused = tests.refuse(value, data)
                except ValueError as error:  # such as text that no encoding knows
                    refused = "", f"cannot be read: {error}"
            if refused:
                errors[name] = refused[1]
                at = self._codes.get(refused[0]) or (len(self._codes), default_code("INVALID", name))
                first = min(first, at)
        warnings: dict[str, str] = {}
        for name, tests in self._warnings:
            if name not in errors and (refused := tests.refuse(data.get(name), data)):
                warnings[name] = refused[1]
        return Verdict(errors, warnings, first[1] or None)


def _is_there(value: Any) -> bool:
    return value is not None and value not in ("", [])


@dataclass(frozen=True, slots=True)
class _Tests:
    """The tests of a column: most values are there, and most tests pass."""

    present: tuple[tuple[str, Test], ...]
    """The rule's token and its test: for a value that is there."""
    missing: tuple[tuple[str, Test], ...]
    """For an empty one."""

    @classmethod
    def of(cls, name: str, column: ColumnRules, severity: str) -> _Tests:
        rules = [rule for rule in column.rules if rule.severity == severity and not is_dropped(rule)]
        tests = [(rule, (_token(rule, name), rule.test(name, column))) for rule in rules]
        return cls(
            tuple(test for rule, test in tests if rule.looks_at_present()),
            tuple(test for rule, test in tests if rule.looks_at_missing(column)),
        )

    def refuse(self, value: Any, record: Data) -> tuple[str, str] | None:
        """Token and message of the first test that refuses the value."""
        for code, test in self.present if value or _is_there(value) else self.missing:
            if message := test(value, record):
                return code, message
        return None


def _token(rule: Rule, name: str) -> str:
    """What stands for a rule of a column: two rules may have one reason code."""
    return f"{id(rule)} {name}"


def _codes(rules: Sequence[Rule]) -> dict[str, tuple[int, str]]:
    """Token → the place of the rule, of which the first gives a record's reason code, and the code."""
    errors = [(rule, name) for rule in rules if rule.severity == "error" for name in rule.field]
    return {_token(rule, name): (place, rule.code_of(name)) for place, (rule, name) in enumerate(errors)}


def is_dropped(rule: Rule) -> bool:
    """Whether what the rule finds is dropped: a placeholder where only a warning would follow is as good as nothing."""
    return isinstance(rule, Placeholder) and rule.severity == "warning"


def _error_tests(
    columns: Mapping[str, str], of: Mapping[str, ColumnRules], rules: Sequence[Rule]
) -> list[tuple[str, tuple[type, str] | None, _Tests]]:
    """The columns that may be refused, with the type of their values: those with rules first, in the rules' order."""
    with_rules = dict.fromkeys(name for rule in rules if rule.severity == "error" for name in rule.field)
    names = (*with_rules, *(name for name in columns if name not in with_rules))
    return [
        (name, _TYPES.get(columns[name]), _Tests.of(name, of[name], "error"))
        for name in names
        if name in with_rules or columns[name] in _TYPES
    ]


def _placeholder_steps(name: str, column: ColumnRules) -> list[Step]:
    """A placeholder where only a warning would follow is as good as nothing."""
    steps: list[Step] = []
    for rule in column.rules:
        if is_dropped(rule):
            test = rule.test(name, column)

            def drop(data: Data, test: Test = test) -> None:
                if isinstance(value := data.get(name), str) and test(value, data):
                    data[name] = None

            steps.append(drop)
    return steps


def _format_steps(name: str, column: ColumnRules) -> list[Step]:
    """Bring web addresses and e-mail addresses to their normal form."""
    steps: list[Step] = []
    if rule := column.first(WebAddress):
        domain, placeholders = rule.domain, placeholders_of(column)

        def web(data: Data) -> None:
            if address := web_address(data.get(name)):
                data[name] = address.text
                # Of a website that is refused nothing better is known.
                if domain and domain in data and address.bare not in placeholders:
                    data[domain] = fitting_domain(data[domain], address.host)

        steps.append(web)
    if column.first(Email):

        def email(data: Data) -> None:
            if isinstance(value := data.get(name), str):
                local, _, domain = value.rpartition("@")
                if local and (host := host_name(domain)):
                    data[name] = f"{local}@{host.shown}"

        steps.append(email)
    return steps
