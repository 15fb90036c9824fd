"""The sentences that an enricher reads where a table refuses a value: one fault has one sentence, whether it is
foreseen or found by the refusal. No SQL in them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from worker.entities.names import fields_in

MASTER = "the master table"


def first_field(expression: str) -> str | None:
    """The data field that a computed column is made of, the first where there are several; None if there is none."""
    return next(iter(fields_in(expression)), None)


def missing(its: str, fields: Sequence[str]) -> str:
    """A column that must have a value has none.

    Args:
        its: the table, in words.
        fields: what the column is filled from, as the enricher sees it.
    """
    return f"{its} needs a value for {', '.join(fields) or 'the record'}"


def leads_to_nothing(its: str, columns: Sequence[str]) -> str:
    """A column whose value is looked up by this one must have a value, and the look-up found none."""
    return f"leads to no {', '.join(columns)}, which {its} needs: check this value"


def too_long(its: str, most: int) -> str:
    """A text has more characters than the column holds."""
    return f"is too long for {its}: enter at most {most} characters"


def out_of_range(its: str, least: str, most: str) -> str:
    """A number is none that the column's type holds."""
    return f"{its} refuses this value: enter a number from {least} to {most}"


def of_check(its: str, check: Mapping[str, Any], shown: Sequence[str], fields: Collection[str]) -> dict[str, str]:
    """What the enricher reads at each data column that a CHECK speaks of, or at ``record``.

    Args:
        its: the table, in words.
        check: its ``name``, its expression ``pretty`` as the catalogue prints it, ``columns``, the owner's ``comment``.
        shown: the columns as the enricher sees them.
        fields: the entity's data columns.
    """
    said = list(dict.fromkeys(shown))
    places = [name for name in said if name in fields]
    if not places:
        return {"record": _rule(its, check, [])}
    return {one: _rule(its, check, [other for other in said if other != one]) for one in places}


def _rule(its: str, check: Mapping[str, Any], others: Sequence[str]) -> str:
    columns, comment = check["columns"], check["comment"] or ""
    together = f" together with {' and '.join(others)}" if others else ""
    # A comment of the owner's on the constraint is meant for people.
    wanted = " ".join(comment.split())[:500] or (_wanted(check["pretty"], columns[0]) if len(columns) == 1 else None)
    return f"{its} refuses this value{together}: {wanted or 'ask the operator about its rule ' + check['name']}"


_NUMBER = r"'?(-?[0-9]+(?:\.[0-9]+)?)'?(?:::[a-z ]+(?:\([0-9, ]+\))?)?"
_LOW = {">=": "{0} or more", ">": "more than {0}"}
_HIGH = {"<=": "{0} or less", "<": "less than {0}"}


def _wanted(pretty: str, column: str) -> str | None:
    """What a CHECK over one column asks for; None if it is none of the usual ones."""
    name = rf'\(?(?:"{re.escape(column)}"|{re.escape(column)})\)?(?:::[a-z ]+(?:\([0-9, ]+\))?)?'
    text = _without_brackets(" ".join(pretty.split()))
    if empty := re.fullmatch(rf"(?:{name} IS NULL OR (?P<then>.+)|(?P<first>.+) OR {name} IS NULL)", text):
        text = _without_brackets(empty["then"] or empty["first"])
    if re.fullmatch(rf"{name} IS NOT NULL|{name} <> ''(?:::[a-z ]+)?", text):
        return "enter a value"
    if listed := re.fullmatch(rf"{name} = ANY \(+ARRAY\[(.+)\]\)?(?:::[a-z \[\]]+)?\)?", text):
        values = [value.replace("''", "'") for value in re.findall(r"'((?:[^']|'')*)'", listed[1])]
        return f"enter one of {', '.join(values)}" if values else None
    if re.fullmatch(rf"{name} ~\*? .+", text) and " AND " not in text and " OR " not in text:
        return "it is not in the form that is asked for there"
    length = rf"(?:char_|character_)?length\((?:TRIM\(BOTH FROM |btrim\()?{name}\)?\)"
    for subject, unit in ((name, "a number of {}"), (length, "text whose number of characters is {}")):
        bounds = []
        for part in map(_without_brackets, text.split(" AND ")):
            if not (bound := re.fullmatch(rf"{subject} (>=|>|<=|<) \(?{_NUMBER}\)?", part)):
                break
            bounds.append((_LOW | _HIGH)[bound[1]].format(bound[2]))
        else:
            return f"enter {unit.format(' and '.join(bounds))}"
    return None


def _without_brackets(text: str) -> str:
    """The text without brackets that go around all of it."""
    while text.startswith("(") and text.endswith(")"):
        depth = 0
        for at, sign in enumerate(text):
            depth += (sign == "(") - (sign == ")")
            if not depth and at < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text
