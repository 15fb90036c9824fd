"""An entity as the rest of the worker knows it: made of an entity file, frozen."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from psycopg import sql

from worker.domain.model import Data, Requirement
from worker.domain.normalise import E164, trim
from worker.domain.rule_compiler import Rules
from worker.entities.duplicates import Likeness
from worker.entities.names import plain_type
from worker.entities.worker_tables import Table


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Entity:
    """One kind of record: where it lives, what is carried, how it maps to the master, what judges it.

    ``mapping`` and ``computed`` say how a master row is made. A computed column is SQL over ``r``, the
    invalid row with the merged data laid over it, and ``d``, the delivery (``d.enriched_by``). Two declarations
    are never equal: statements are composed once for each.
    """

    name: str
    plural: str
    key: str
    invalid_table: Table
    master_table: Table
    workspace_table: Table
    column_types: Mapping[str, str]
    """Data column → its SQL type: the same in the invalid and the workspace table."""
    label: str
    """The data column, a text, that names a record in a list."""
    master_columns: Mapping[str, str]
    """Master column → the rest of its definition, as CREATE TABLE takes it where there is no master table yet."""
    mapping: Mapping[str, str]
    """Master column → data column."""
    computed: Mapping[str, str]
    """Master column → SQL expression."""
    rules: Rules
    singular: str = ""
    key_type: str = "TEXT"
    dialled: tuple[str, ...] = ()
    """Data columns whose phone the master takes only in E.164."""
    kept: tuple[str, ...] = ()
    """Master columns that a record which is in the master already keeps: where it came from, and its place."""
    requirements: tuple[Requirement, ...] = ()
    alike: tuple[Likeness, ...] = ()
    """The columns by which a record is compared with the master under other keys; none if it is not."""
    holds: bool = False
    """Whether a duplicate is held; else it is promoted with a warning."""
    releases: tuple[Entity, ...] = ()
    """Entities that may wait for a record of this one."""
    reads: Mapping[Table, Mapping[str, str]] = field(default_factory=dict)
    """Other tables in Neon that ``computed`` and ``requirements`` look at: column → its type, empty if any will do."""
    patterns: tuple[str, ...] = ()
    """PostgreSQL's regular expressions in ``computed`` and ``requirements``."""
    raw_table: Table | None = None
    """Where the records come from that turned out invalid: what ``source_table`` says where nobody fills it."""
    file: Path | None = None
    """The entity file."""
    columns: tuple[str, ...] = field(init=False)
    """The data columns' names, in order."""
    numeric: tuple[str, ...] = field(init=False)
    """Those of type NUMERIC, whose values travel as text."""
    verbatim: frozenset[str] = field(init=False)
    """Those that keep a value as it is written, so that equal values in Python are equal in Postgres."""

    def __repr__(self) -> str:
        return f"Entity({self.name!r})"

    def __post_init__(self) -> None:
        # Kept, not made anew: they are asked for with every record.
        object.__setattr__(self, "columns", tuple(self.column_types))
        numeric = (name for name, type_ in self.column_types.items() if plain_type(type_) == "NUMERIC")
        object.__setattr__(self, "numeric", tuple(numeric))
        verbatim = (name for name, type_ in self.column_types.items() if plain_type(type_) in _VERBATIM)
        object.__setattr__(self, "verbatim", frozenset(verbatim))

    @property
    def repairs_table(self) -> Table:
        """Supabase: the table through which repairs are imported. It stays empty."""
        return Table(self.workspace_table.schema, f"{self.name}_repairs")

    def not_carried(self, typed: Data, carried: Data) -> tuple[str, ...]:
        """The data columns whose value does not reach the master as it was typed: a placeholder, or a phone with an
        extension.
        """
        # Nearly every value is carried: nothing is looked at twice.
        lost = [name for name in self.columns if carried.get(name) is None and typed.get(name) is not None]
        lost += [
            name for name in self.dialled if carried.get(name) is not None and not E164.fullmatch(str(carried[name]))
        ]
        return tuple(name for name in lost if isinstance(value := typed.get(name), str) and trim(value)) if lost else ()

    def is_key(self, text: str) -> bool:
        """Whether a record may have this key: a number is written in one way."""
        if self.key_type == "TEXT":
            return True
        size = _SIZES[self.key_type]
        return bool(_NUMBER.fullmatch(text)) and text != "-0" and -size <= int(text) < size

    @property
    def has_exact_numbers(self) -> bool:
        """Whether a column may hold a number of more digits than a float has."""
        return any(plain_type(one).startswith(("NUMERIC", "JSON")) for one in self.column_types.values())

    def count(self, number: int) -> str:
        """``1 company``, ``85 companies``."""
        return f"{number} {(self.singular or self.name) if number == 1 else self.plural}"


_VERBATIM = frozenset({"TEXT", "VARCHAR", "CHARACTER VARYING", "SMALLINT", "INTEGER", "BIGINT", "BOOLEAN"})
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_SIZES = {"SMALLINT": 2**15, "INTEGER": 2**31, "BIGINT": 2**63}


def key_sql(entity: Entity) -> dict[str, sql.Composable]:
    """What a statement says of the key. Between the databases and in the ledger, every key is a text.

    Returns:
        ``key``, the column; ``key_text``, behind it where it is returned; ``key_cast`` and ``keys_cast``, behind a text
        or an array of texts that it is compared with.
    """
    text = entity.key_type == "TEXT"
    return {
        "key": sql.Identifier(entity.key),
        "key_text": sql.SQL("" if text else "::text"),
        "key_cast": sql.SQL("" if text else f"::{entity.key_type.lower()}"),
        "keys_cast": sql.SQL("" if text else f"::{entity.key_type.lower()}[]"),
    }


def pages(template: sql.SQL, entity: Entity, row: str, **names: sql.Composable) -> dict[bool, sql.Composed]:
    """A statement that returns rows in key order, page by page: of the first page, and of one after ``%(after)s``.

    Args:
        template: with ``{beyond}``, the condition.
        entity: whose rows.
        row: their alias.
        names: the template's other placeholders, beside those of :func:`key_sql`.
    """
    key = key_sql(entity)
    first = sql.SQL("{}.{} IS NOT NULL").format(sql.SQL(row), key["key"])
    later = sql.SQL("{}.{} > %(after)s{}").format(sql.SQL(row), key["key"], key["key_cast"])
    return {is_first: template.format(beyond=b, **key, **names) for is_first, b in ((True, first), (False, later))}


def expression(text: str) -> sql.SQL:
    """An entity's SQL, within a statement with parameters: its percent signs are no placeholders."""
    return sql.SQL(text.replace("%", "%%"))


def data_of(entity: Entity, row: str, columns: Collection[str] | None = None) -> sql.Composed:
    """The data columns of ``row``, or these of them, as one JSONB value.

    JSONB has one text for one value whatever the session's settings, so its MD5 is the same on both sides.
    """
    pairs = (
        sql.SQL("{}, {}").format(sql.Literal(column), _value(sql.Identifier(row, column), type_))
        for column, type_ in entity.column_types.items()
        if columns is None or column in columns
    )
    return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs))


def _value(column: sql.Identifier, type_: str) -> sql.Composable:
    # As a JSON number, a NUMERIC would lose digits in Python.
    return sql.SQL("{}::text").format(column) if plain_type(type_) == "NUMERIC" else column
