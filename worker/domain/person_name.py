"""A person's name and its parts: what is missing is filled in from the others, and what was edited is followed.

Pure: no I/O, no network, no clock.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from worker.domain.model import Data
from worker.domain.normalise import begins_with, name_parts, split_name, trim


@dataclass(frozen=True, slots=True)
class NameColumns:
    """The columns of a person's name."""

    full: str
    first: str
    last: str
    min_length: int
    """Characters that a full name has."""
    placeholders: frozenset[str]
    """Words that are no name, in lower case."""

    def fill_in(self, data: Data) -> None:
        """Fill in the missing parts of a name from the others, in place."""
        full, first, last = data.get(self.full), data.get(self.first), data.get(self.last)
        if full is None and isinstance(first, str) and isinstance(last, str):
            full = f"{first} {last}"
        elif isinstance(full, str) and full.casefold() not in self.placeholders:
            first, last = name_parts(full, first, last)
        for name, value in ((self.full, full), (self.first, first), (self.last, last)):
            if name in data:
                data[name] = value

    def follow(self, data: Data, edited: Set[str]) -> Data:
        """Of a name and its parts, what was edited counts, and the others follow.

        Args:
            data: JSON values by column name; not changed.
            edited: the columns whose value came from the enricher.
        """
        names = {self.full, self.first, self.last}
        full, first, last = data.get(self.full), data.get(self.first), data.get(self.last)
        changed = edited & data.keys() & names
        if not changed or not all(value is None or isinstance(value, str) for value in (full, first, last)):
            return data
        if self.full not in changed:
            # A part that nobody knew yet is in the name as it was. A name of one word is either of them.
            was_first, was_last = split_name(full) if full else (None, None)
            if was_last is None and was_first and was_first.casefold() != (first or "").casefold() and not last:
                was_last = was_first
            if self.first not in changed:
                first = first or (was_first if was_first != last else None)
            if self.last not in changed:
                last = last or was_last
            parts = {self.first: first, self.last: last}
            joined = " ".join(trim(part) for part in parts.values() if part and trim(part)) or None
            return data | {name: value for name, value in {**parts, self.full: joined}.items() if name in data}
        if not full or len(trim(full)) < self.min_length or trim(full).casefold() in self.placeholders:
            return data  # no name, to be refused: the parts stay
        # A first name that the new name still begins with stays: what follows it is the last name.
        stays = {self.first} if first and begins_with(full, first) else set()
        return data | {name: None for name in (self.first, self.last) if name in data and name not in changed | stays}
