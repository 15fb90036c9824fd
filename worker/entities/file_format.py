"""What an entity file may say: the keys, their types, and what has to fit together. docs/entities.md explains each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from worker.domain.formats import PersonName, WebAddress
from worker.domain.rule import Message
from worker.domain.vocabulary import AnyRule
from worker.entities.fitting import FITTING, TEXTS, fits
from worker.entities.names import KEY_TYPES, plain_type
from worker.entities.values import ColumnName, ColumnType, Expression, PosixPattern, PosixPatterns, TableName
from worker.entities.worker_tables import RESERVED_COLUMNS


def mistake(at: tuple[str | int, ...], text: str) -> PydanticCustomError:
    """A mistake at a place below the model that is being checked."""
    return PydanticCustomError("mistake", "{text}", {"text": text, "at": at})


class Part(BaseModel):
    """A part of an entity file: no key but its own, and no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _column_or(value: Any, form: str) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError(f"is {form}")  # noqa: TRY004 - pydantic reports a ValueError
    return {"column": value} if isinstance(value, str) else value


class Key(Part):
    """The column that identifies a record: the same in all three tables."""

    column: ColumnName
    type: ColumnType = "TEXT"

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return _column_or(value, 'the column\'s name, in quotes, or such as { column = "number", type = "BIGINT" }')

    @model_validator(mode="after")
    def _has_a_type_of_keys(self) -> Key:
        if self.type not in KEY_TYPES:
            raise mistake(("type",), f"a key is {', '.join(KEY_TYPES[:-1])} or {KEY_TYPES[-1]}, not {self.type}")
        return self


class Tables(Part):
    """The tables, with their schemas."""

    invalid: TableName
    master: TableName
    workspace: TableName
    reads: Annotated[tuple[TableName, ...], Field(strict=False)] = ()
    """Other tables in Neon that ``computed`` and ``unmet`` look at: ``setup`` and ``doctor`` check them, and the
    worker's role may read them.
    """
    raw: TableName | None = None
    """Where the invalid records come from: what ``source_table`` says where nobody fills it."""


class Mapped(Part):
    """A data column that is mapped to a master column in a form of its own."""

    column: ColumnName
    form: Literal["as_is", "e164"] = "as_is"
    """``e164``: a phone goes there in E.164 only."""

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return _column_or(value, 'a data column\'s name, in quotes, or such as { column = "phone", form = "e164" }')


class Master(Part):
    """How a master row is made of a record."""

    kept: Annotated[tuple[ColumnName, ...], Field(strict=False)] = ()
    mapping: dict[ColumnName, Mapped] = Field(min_length=1)
    computed: dict[ColumnName, Expression] = {}
    create: dict[ColumnName, Expression] = {}


class Wait(Part):
    """What must be in Neon before a record can be promoted; until then it waits."""

    field: ColumnName
    """The data column that names what it waits for."""
    entity: str | None = None
    """It waits for the master row of another entity, with the field's value as key."""
    format: PosixPattern | None = None
    """Values of another form are not waited for."""
    unmet: Expression | None = None
    """Or: SQL over ``r``, the record, that is true while it must wait."""
    note: Message

    @model_validator(mode="after")
    def _says_for_what(self) -> Wait:
        if (self.entity is None) == (self.unmet is None):
            raise ValueError("a wait is for another entity (entity), or while a condition holds (unmet): one of them")
        _check_template(self.note, "key")
        return self


def _check_template(text: str, *names: str) -> None:
    for name in re.findall(r"\{([^{}]*)\}", text):
        if name not in names:
            known = " or ".join(f"{{{one}}}" for one in names)
            raise mistake(("note",), f"{{{name}}} stands for nothing: use {known}")
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", text)):
        raise mistake(("note",), "has a brace without its other half")


class Role(Part):
    """A role that a title or a slot may name."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    titles: PosixPatterns
    """PostgreSQL's regular expressions, in any case: what a record's title says."""
    slots: PosixPatterns = ()
    """The same: what a slot may say beside that."""


class Slot(Part):
    """A row of another table that a record takes: the one whose role its title names."""

    master_column: ColumnName
    table: TableName
    key: ColumnName
    owner: ColumnName
    """The column in both tables that says whose slot it is."""
    owner_is: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    title: ColumnName
    named_by: Annotated[tuple[ColumnName, ...], Field(min_length=1, strict=False)]
    """The slot's columns that may name its role."""
    since: ColumnName | None = None
    roles: Annotated[tuple[Role, ...], Field(min_length=1, strict=False)]


class Alike(Part):
    """A column by which a record is compared with the master, and in which normal form."""

    field: ColumnName
    form: Literal["host", "email", "profile", "text"]
    ignore: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...], Field(strict=False)
    ] = ()
    """Values that several records may have."""


class Duplicates(Part):
    """What makes two records the same under two keys, and what follows."""

    policy: Literal["warn", "hold", "off"] = "warn"
    by: Annotated[tuple[Alike, ...], Field(min_length=1, strict=False)]


class EntityFile(Part):
    """An entity file."""

    singular: Annotated[str, StringConstraints(min_length=1, max_length=60)] | None = None
    plural: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    key: Key
    label: ColumnName
    tables: Tables
    columns: dict[ColumnName, ColumnType] = Field(min_length=1)
    rules: Annotated[tuple[AnyRule, ...], Field(strict=False)] = ()
    waits: Annotated[tuple[Wait, ...], Field(strict=False)] = ()
    slot: Slot | None = None
    duplicates: Duplicates | None = None
    master: Master

    @property
    def awaited(self) -> set[str]:
        """The names of the entities whose records its own wait for."""
        return {wait.entity for wait in self.waits if wait.entity}

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What does not fit together: the place in the file, and the mistake."""
        yield from self._mistakes_of_columns()
        yield from self._mistakes_of_rules()
        yield from self._mistakes_of_master()
        for number, wait in enumerate(self.waits):
            yield from self._unknown(("waits", number, "field"), [wait.field])
        if self.slot:
            yield from self._unknown(("slot", "owner"), [self.slot.owner])
            yield from self._unknown(("slot", "title"), [self.slot.title])
        yield from self._mistakes_of_duplicates()

    def _mistakes_of_duplicates(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        by = self.duplicates.by if self.duplicates else ()
        mapped = {one.column for one in self.master.mapping.values() if one.form == "as_is"}
        for number, one in enumerate(by):
            at = ("duplicates", "by", number, "field")
            yield from self._unknown(at, [one.field])
            type_ = plain_type(self.columns.get(one.field, "TEXT"))
            if type_ not in TEXTS:
                yield at, f"{one.field} is {self.columns[one.field]}: records are compared by text"
            elif one.field in self.columns and one.field not in mapped:
                yield at, f"{one.field} is mapped to no master column as it is: there is nothing to compare it with"
            if one.field in [other.field for other in by[:number]]:
                yield at, f"{one.field} is compared already: leave out one of them"

    def _unknown(self, at: tuple[str | int, ...], names: Iterable[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for name in names:
            if name not in self.columns:
                yield at, f"{name} is none of the columns: {', '.join(self.columns)}"

    def _mistakes_of_columns(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for name in self.columns:
            if name in RESERVED_COLUMNS:
                yield (
                    ("columns", name),
                    f"{name} {_RESERVED}: carry it by another name",
                )
            if name == self.key.column:
                yield ("columns", name), f"{name} is the key, which is always carried: leave it out here"
        if self.key.column in RESERVED_COLUMNS:
            yield (
                ("key",),
                f"{self.key.column} {_RESERVED}: it cannot be the key",
            )
        yield from self._unknown(("label",), [self.label])
        if self.label in self.columns and plain_type(self.columns[self.label]) not in ("TEXT", "VARCHAR"):
            yield ("label",), f"{self.label} is {self.columns[self.label]}: a label is a TEXT column"

    def _mistakes_of_rules(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for number, rule in enumerate(self.rules):
            yield from self._unknown(("rules", number, "field"), rule.field)
            for field in rule.field:
                type_ = plain_type(self.columns.get(field, ""))
                if type_ and not fits(rule.rule, type_):
                    them = ", ".join(sorted(FITTING[rule.rule]))
                    yield (
                        ("rules", number, "rule"),
                        f"{rule.rule} is for {them}, and {field} is {self.columns[field]}",
                    )
            if isinstance(rule, PersonName):
                yield from self._unknown(("rules", number, "first_name"), [rule.first_name])
                yield from self._unknown(("rules", number, "last_name"), [rule.last_name])
            if isinstance(rule, WebAddress) and rule.domain is not None:
                yield from self._unknown(("rules", number, "domain"), [rule.domain])

    def _mistakes_of_master(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        filled = {self.key.column, *self.master.mapping, *self.master.computed}
        if self.slot:
            filled.add(self.slot.master_column)
        for name, mapped in self.master.mapping.items():
            yield from self._unknown(("master", "mapping", name), [mapped.column])
            if name in self.master.computed:
                yield ("master", "computed", name), f"{name} is mapped and computed: leave out one of them"
        for part, names in (("mapping", self.master.mapping), ("computed", self.master.computed)):
            if self.key.column in names:
                text = f"{self.key.column} is the key, which is always carried: leave it out here"
                yield ("master", part, self.key.column), text
            if self.slot and self.slot.master_column in names:
                text = f"{self.slot.master_column} takes the slot: leave it out here"
                yield ("master", part, self.slot.master_column), text
        for name in self.master.kept:
            if name not in filled:
                yield ("master", "kept"), f"{name} is filled by nothing: it is neither mapped nor computed"
        if self.master.create:
            for name in sorted(filled - self.master.create.keys()):
                yield ("master", "create"), f"{name} is filled, but is no column of the master table that would be made"


_RESERVED = "is a column that the worker's tables have for something else"
