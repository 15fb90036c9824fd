"""The master row that a record would become, as SQL, from what the catalogue says of the master. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg import sql

from worker.entities.declaration import Entity, key_sql
from worker.neon.triggers import assigns
from worker.neon.words import first_field

_INTEGERS = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_PLAIN_DEFAULT = re.compile(r"(?:NULL|'(?:[^']|'')*'|-?[0-9.]+|true|false|now\(\)|CURRENT_\w+)(?:::[a-z ]+(?:\[\])?)?")
"""A default that is worth the same whenever it is asked: a sequence's would be used up."""


@dataclass(frozen=True)
class ColumnRules:
    """A column of the master: what its type takes, and how it gets a value if the worker fills none."""

    name: str
    type: int
    """The type's oid, and its modifier: by these a later change is seen."""
    modifier: int
    closed: bool
    """NOT NULL, and the same for its domain."""
    domain_closed: bool
    holds: str
    """The base type's short name, its modifier and category."""
    limit: int
    category: str
    cast: str
    """The base type as SQL writes it; a text's without its length."""
    expression: str | None
    """Its default, or what it is generated from."""
    generated: bool
    domains: Sequence[Mapping[str, Any]]
    """The CHECKs of its domain, and of those below."""

    @property
    def most_characters(self) -> int | None:
        """The longest text that fits; None if it is no such type."""
        return self.limit - 4 if self.holds in ("varchar", "bpchar") and self.limit > 3 else None

    @property
    def digits(self) -> tuple[int, int] | None:
        """Of a ``numeric(p, s)``: how many digits there are, and how many of them after the point."""
        if self.holds != "numeric" or self.limit < 4:
            return None
        packed = self.limit - 4
        return packed >> 16 & 0xFFFF, (packed & 0x7FF ^ 1024) - 1024

    def range_in_words(self) -> tuple[str, str]:
        """The smallest and the largest number that fits."""
        if self.holds in _INTEGERS:
            return str(-_INTEGERS[self.holds]), str(_INTEGERS[self.holds] - 1)
        precision, scale = self.digits or (0, 0)
        nines = "9" * precision + "0" * -scale
        most = nines if scale <= 0 else f"{nines.zfill(scale + 1)[:-scale]}.{nines.zfill(scale + 1)[-scale:]}"
        return f"-{most}", most


@dataclass(frozen=True)
class Rules:
    """What the catalogue says that the master asks of a row."""

    id: int
    """The table's oid."""
    columns: Mapping[str, ColumnRules]
    checks: Sequence[Mapping[str, Any]]
    """Its CHECKs in the order of their names, as the database asks them."""
    triggers: Sequence[Mapping[str, str]]
    """The functions that see a row before it is inserted."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Rules:
        """The rules from the catalogue's row."""
        columns = {one["name"]: ColumnRules(**one) for one in row["columns"] or ()}
        return cls(row["id"], columns, row["checks"], row["triggers"])

    def may_be_changed(self, column: str) -> bool:
        """Whether a trigger may give the column another value before it is checked."""
        return any(assigns(trigger, column) for trigger in self.triggers)


class Row:
    """The master row that a record would become: SQL over ``r``, the record, and ``d``, with ``d.old`` the row that is
    there, if ``d.there``.
    """

    def __init__(self, entity: Entity, rules: Rules) -> None:
        """Compose the row.

        Args:
            entity: whose row.
            rules: what the catalogue says of its master.
        """
        self._entity, self._rules = entity, rules
        self.filled: dict[str, str] = {
            column: how
            for column, how in {
                entity.key: "d.key" + key_sql(entity)["key_cast"].as_string(),
                **{column: f"r.{self.quoted(source)}" for column, source in entity.mapping.items()},
                **entity.computed,
            }.items()
            if column in rules.columns and not rules.columns[column].generated
        }
        """Column → SQL of the value that the worker writes."""

    @staticmethod
    def quoted(name: str) -> str:
        """The name as SQL writes it."""
        return sql.Identifier(name).as_string()

    @cached_property
    def requirement(self) -> str:
        """SQL: not NULL while the record waits for another."""
        unmet = " OR ".join(f"({one.unmet})" for one in self._entity.requirements)
        return f"CASE WHEN {unmet} THEN true END" if unmet else "NULL::boolean"

    def value(self, name: str) -> str:
        """SQL: the value that a column would have; it is known."""
        return self._value(self._rules.columns[name])

    def is_filled(self, names: Iterable[str]) -> bool:
        """Whether the worker fills one of these columns, or one that it is generated from."""
        columns = [self._rules.columns[name] for name in names]
        return any(
            self.is_filled(self._sources_of(one)) if one.generated else one.name in self.filled for one in columns
        )

    def knows(self, name: str) -> bool:
        """Whether the column's value is known before the row is inserted."""
        column = self._rules.columns.get(name)
        if column is None or self._rules.may_be_changed(name):
            return False
        if column.generated:
            return all(map(self.knows, self._sources_of(column)))
        default = column.expression
        return name in self.filled or default is None or _PLAIN_DEFAULT.fullmatch(default) is not None

    def unfit(self, name: str) -> str | None:
        """SQL: true if the value does not fit the column's type; None if every value fits."""
        column, value = self._rules.columns[name], f"({self.filled[name]})"
        if column.most_characters is not None:
            # Blanks at the end are cut off.
            broken = f"length(rtrim({value}::text, ' ')) > {column.most_characters}"
        elif fits := self._fits(column, value):
            broken = f"NOT ({fits})"
        else:
            return None
        return f"({self._own(column)}) IS NULL AND {broken}" if name in self._entity.kept else broken

    def _fits(self, column: ColumnRules, value: str) -> str | None:
        if column.holds in _INTEGERS:
            least, most = column.range_in_words()
            return f"round({value}::numeric) BETWEEN {least} AND {most}"
        if digits := column.digits:
            precision, scale = digits
            return f"abs(round({value}::numeric, {scale})) < 10::numeric ^ {precision - scale}"
        return None

    def _own(self, column: ColumnRules) -> str:
        return f"(d.old).{self.quoted(column.name)}::{column.cast}"

    def _value(self, column: ColumnRules) -> str:
        if column.generated:
            scope = ", ".join(
                f"{self._value(self._rules.columns[name])} AS {self.quoted(name)}" for name in self._sources_of(column)
            )
            return f"(SELECT {column.expression} FROM (SELECT {scope}) g)"  # noqa: S608 - the catalogue's
        own = self._own(column)
        if column.name not in self.filled:
            return f"CASE WHEN d.there THEN {own} ELSE ({column.expression or 'NULL'})::{column.cast} END"
        value = f"({self.filled[column.name]})"
        new = f"{value}::text::{column.cast}" if column.category == "S" else f"{value}::{column.cast}"
        if fits := self._fits(column, value):
            # A value that does not fit has its own demand, and must not raise.
            new = f"CASE WHEN {fits} THEN {new} END"
        return f"coalesce({own}, {new})" if column.name in self._entity.kept else f"coalesce({new}, {own})"

    def _sources_of(self, column: ColumnRules) -> list[str]:
        """The columns that a generated column is made of."""
        words = set(re.findall(r'"[^"]+"|\w+', re.sub(r"'(?:[^']|'')*'", "", column.expression or "")))
        return [name for name in self._rules.columns if {name, self.quoted(name)} & words and name != column.name]

    def looks_up(self, name: str) -> bool:
        """Whether the value is looked up in another table, so that it may come while the record waits."""
        return re.search(r"\bselect\b", self._entity.computed.get(name, ""), re.IGNORECASE) is not None

    def shown(self, name: str) -> str:
        """The column as the enricher sees it: the data column that fills it, if there is one."""
        entity = self._entity
        return entity.mapping.get(name) or first_field(entity.computed.get(name, "")) or name

    def field(self, name: str) -> str:
        """The data column that an error of this column is told at; ``record`` if there is none."""
        return shown if (shown := self.shown(name)) in self._entity.columns else "record"

    def parts_of(self, names: Iterable[str]) -> frozenset[str]:
        """The data columns that the master generates from one of these, such as a full name."""
        wanted = set(names)
        return frozenset(
            one.name
            for one in self._rules.columns.values()
            if one.generated and one.name in self._entity.columns and wanted & set(self._sources_of(one))
        )
