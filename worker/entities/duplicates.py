"""What makes two records the same under two keys: their normal forms, as SQL. The master's column, its index and the
record are compared by one expression. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from worker.entities.file_format import Duplicates
from worker.entities.names import MAX_NAME, in_sql, literal

_TEXT = '({value})::text COLLATE pg_catalog."default"'
# Each is NULL for a text that names nothing. All functions are immutable: an index can be built over them.
_FORMS: Mapping[str, str] = {
    # Without scheme, user, www., port, path, and the dot at the end.
    "host": (
        r"nullif(rtrim(substring(lower({text}) from"
        r" '^\s*(?:[a-z][a-z0-9+.-]*://)?(?:[^/?#@\s]*@)?(?:www\.)?([^/?#:@\s]+)'), '.'), '')"
    ),
    "email": r"substring(lower({text}) from '^\s*(?:mailto:)?([^\s@]+@[^\s@]+)\s*$')",
    # Host and path: without scheme, query, slashes at the end, and the part of the host that says the language.
    "profile": (
        r"substring(lower({text}) from"
        r" '^\s*(?:https?://)?(?:(?:www|m|[a-z][a-z])\.(?=[^/?#\s]+\.))?([^/?#\s]+/[^?#\s]*[^/?#\s])')"
    ),
    "text": r"nullif(btrim(regexp_replace(lower({text}), '\s+', ' ', 'g')), '')",
}
"""Form → SQL over ``{text}``."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """A column by which records are compared, and how."""

    field: str
    """The data column."""
    master_column: str
    form: str
    ignore: Sequence[str]
    """Normal forms that several records may have."""
    seed: int
    """Keeps its advisory locks apart from those of other columns."""

    def index(self, master: str) -> str:
        """The name of the master's index.

        Args:
            master: the table's name.
        """
        name = f"{master}_{self.master_column}_{self.form}_idx"
        return name if len(name.encode()) <= MAX_NAME else f"enrichment_alike_{crc32(name.encode()):08x}_idx"

    def of(self, value: str) -> str:
        """SQL: the normal form of a value, which is SQL too; NULL if it has none."""
        return _FORMS[self.form].replace("{text}", _TEXT.replace("{value}", value))

    def indexed(self, row: str) -> str:
        """SQL: what the master's index has of a row. A number: a long text would not fit, and its owner's INSERT would
        fail.
        """
        return f"hashtextextended({self.of(f'{row}{in_sql(self.master_column)}')}, 0)"

    @property
    def ignored(self) -> str:
        """SQL: the ignored forms, in normal form."""
        return f"ARRAY[{', '.join(self.of(literal(one)) for one in self.ignore)}]::text[]"


def likenesses(entity: str, duplicates: Duplicates | None, mapping: Mapping[str, str]) -> tuple[Likeness, ...]:
    """The columns by which an entity's records are compared; none if they are not.

    Args:
        entity: its name.
        duplicates: what the file says.
        mapping: master column → data column.
    """
    if duplicates is None or duplicates.policy == "off":
        return ()
    columns = {field: column for column, field in reversed(list(mapping.items()))}
    return tuple(
        Likeness(
            one.field, columns[one.field], one.form, one.ignore, crc32(f"{entity}.{one.field}.{one.form}".encode())
        )
        for one in duplicates.by
    )
