"""The statements that fix a table, ready for its owner to paste. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from worker.neon.catalogue import Column, Found, Unique

SETUP = "run `enrichment-worker setup`"
OURS = ("needs_attention", "enrichment_", "public.needs_attention", "public.enrichment_")
"""The names of what `setup` created, and creates again, begin with these."""

TYPES = {
    "text": "TEXT", "key": "TEXT", "integer": "INTEGER", "number": "BIGINT", "time": "TIMESTAMP", "json": "JSONB",
    "boolean": "BOOLEAN",
}  # fmt: skip
"""The type of a new column of a kind."""

# How a column's values are converted from another type: by the wanted kind, and by the old type's category.
_CASTS = {
    "text": {"A": "array_to_string({0}, ', ')", "": "{0}::text"},
    "integer": {"S": "nullif(btrim({0}), '')::integer", "N": "round({0})::integer", "B": "{0}::integer"},
    "number": {"S": "nullif(btrim({0}), '')::bigint", "N": "round({0})::bigint"},
    "time": {
        "S": "nullif(btrim({0}), '')::timestamp", "D": "{0}::timestamp", "N": "to_timestamp({0}) AT TIME ZONE 'UTC'",
    },
    "json": {"S": "nullif(btrim({0}), '')::jsonb", "": "to_jsonb({0})"},
    "boolean": {"S": "nullif(btrim({0}), '')::boolean", "N": "{0} <> 0"},
}  # fmt: skip


def alter(found: Found, *actions: str) -> str:
    """One statement with all actions."""
    return f"ALTER TABLE {found.sql} {', '.join(actions)};"


def nullable(found: Found, column: Column) -> str:
    """Make a column nullable."""
    drop = f"ALTER COLUMN {column.quoted} DROP NOT NULL"
    keys = [f"DROP CONSTRAINT {one.name}" for one in found.unique if one.primary and column.name in one.columns]
    if keys and column.base == "uuid":
        return alter(found, f"ALTER COLUMN {column.quoted} SET DEFAULT gen_random_uuid()")
    return alter(found, *keys, drop)


def retype(found: Found, column: Column, kind: str, default: str | None) -> str:
    """Change a column to the type that the worker needs, with its values; if the type cannot be converted, rename the
    column and add a new one.
    """
    quoted = column.quoted
    if kind == "time" and column.base in ("timestamp", "timestamptz"):
        return _drop_dependents(found, column) + alter(found, f"ALTER COLUMN {quoted} TYPE {column.base.upper()}")
    how = _CASTS["text" if kind == "key" else kind]
    cast = how.get(column.category) or how.get("")
    if cast is None or column.name == "id":
        return replaced(found, column, "BIGSERIAL" if column.name == "id" else TYPES[kind])
    actions = [f"ALTER COLUMN {quoted} TYPE {TYPES[kind]} USING {cast.format(quoted)}"]
    # A default that cannot be cast to the new type must be dropped. Without it, nobody may fill the column.
    if default and column.default:
        actions = [f"ALTER COLUMN {quoted} DROP DEFAULT", *actions, f"ALTER COLUMN {quoted} SET DEFAULT {default}"]
    elif column.default and not _casts_default(column, kind):
        loose = [f"ALTER COLUMN {quoted} DROP NOT NULL"] if column.not_null and kind != "key" else []
        actions = [f"ALTER COLUMN {quoted} DROP DEFAULT", *loose, *actions]
    return _drop_dependents(found, column) + alter(found, *actions)


def _casts_default(column: Column, kind: str) -> bool:
    return (
        kind in ("text", "key") or column.base == "json" or (column.category, kind) in (("D", "time"), ("N", "integer"))
    )


def _drop_dependents(found: Found, column: Column) -> str:
    """Drop what depends on a column's type and is created again by `setup`."""
    views = [f"DROP VIEW {view}; " for view in column.views if view.startswith(OURS)]
    triggers = [f"DROP TRIGGER {name} ON {found.sql}; " for name in column.triggers if name.startswith(OURS)]
    return "".join(views + triggers)


def held_by(column: Column) -> list[str]:
    """What prevents a change of a column's type, and only the owner can create again."""
    return [one for one in (*column.views, *column.triggers) if not one.startswith(OURS)]


def replaced(found: Found, column: Column, type_: str) -> str:
    """Rename a column, and add a new one under its name."""
    aside = next(name for name in _names(column.name) if name not in found.columns)
    quoted = _quoted(aside)
    statement = f"ALTER TABLE {found.sql} RENAME COLUMN {column.quoted} TO {quoted};"
    actions = [f"ADD COLUMN {column.quoted} {type_}"]
    keys = [one for one in found.unique if one.primary and column.name in one.columns]
    if column.needed and column.base == "uuid":
        actions.append(f"ALTER COLUMN {quoted} SET DEFAULT gen_random_uuid()")
    elif column.not_null and not column.default:
        actions = [*(f"DROP CONSTRAINT {one.name}" for one in keys), f"ALTER COLUMN {quoted} DROP NOT NULL", *actions]
    return f"{statement} {alter(found, *actions)}"


def _names(name: str) -> Iterable[str]:
    yield f"{name[:50]}_old"
    yield from (f"{name[:50]}_old{number}" for number in range(2, 2000))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def numbered(found: Found, column: Column) -> str:
    """Make a column an identity column."""
    table, quoted = found.sql, column.quoted
    literal = table.replace("'", "''")
    last = f"(SELECT coalesce(max({quoted}), 0) + 1 FROM {table})"  # noqa: S608 - names are quoted by the server
    return (
        f"ALTER TABLE {table} ALTER COLUMN {quoted} SET NOT NULL;"
        f" ALTER TABLE {table} ALTER COLUMN {quoted} ADD GENERATED BY DEFAULT AS IDENTITY;"
        f" SELECT setval(pg_get_serial_sequence('{literal}', '{column.name}'), {last}, false);"
    )


def numbered_anew(found: Found, column: Column, start: int) -> str:
    """Make a column an identity column, in place of its own default."""
    if column.sequence:
        return caught_up(found, column)
    actions = (f"ALTER COLUMN {column.quoted} DROP DEFAULT", f"ALTER COLUMN {column.quoted} SET NOT NULL")
    identity = f"ALTER COLUMN {column.quoted} ADD GENERATED BY DEFAULT AS IDENTITY (START WITH {start})"
    return f"{alter(found, *actions)} {alter(found, identity)}"


def caught_up(found: Found, column: Column) -> str:
    """Advance a sequence past the highest id of its rows."""
    sequence = (column.sequence or "").replace("'", "''")
    last = f"(SELECT max({column.quoted}) FROM {found.sql})"  # noqa: S608 - names are quoted by the server
    return f"SELECT setval('{sequence}', {last});"


def by_default(found: Found, column: Column) -> str:
    """Let an identity column take values."""
    return alter(found, f"ALTER COLUMN {column.quoted} SET GENERATED BY DEFAULT")


def plain(found: Found, column: Column, kind: str, *, required: bool) -> str:
    """Make a generated column a plain column; one that is not required may be NULL."""
    quoted, type_ = column.quoted, TYPES.get(kind, column.type)
    if column.generated == "s":
        return alter(found, f"ALTER COLUMN {quoted} DROP EXPRESSION")
    if column.generated:
        return alter(found, f"DROP COLUMN {quoted}", f"ADD COLUMN {quoted} {type_}")
    steps = [f"ALTER COLUMN {quoted} DROP IDENTITY", *([] if required else [f"ALTER COLUMN {quoted} DROP NOT NULL"])]
    return f"{alter(found, *steps)} {alter(found, f'ALTER COLUMN {quoted} TYPE {type_} USING {quoted}::{type_}')}"


def unique(found: Found, column: Column, instead: Iterable[Unique] = ()) -> str:
    """Make a column unique, in place of constraints that ON CONFLICT cannot use."""
    old = [(one, "PRIMARY KEY" if one.primary else "UNIQUE") for one in instead]
    dropped = [f"DROP CONSTRAINT {one.name}" for one, _ in old]
    return alter(found, *dropped, f"ADD {old[0][1] if old else 'UNIQUE'} ({column.quoted})")


_RENAMED = {"v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE", "S": "SEQUENCE", "c": "TYPE", "i": "INDEX"}
KINDS = {kind: f"{'an' if name == 'INDEX' else 'a'} {name.lower()}" for kind, name in _RENAMED.items()}


def aside(found: Found) -> str:
    """Rename a table, with its indexes, so that `setup` can create its own under these names."""
    schema = found.sql.rpartition(".")[0]
    indexes = [f" ALTER INDEX {schema}.{name} RENAME TO {_aside(name)};" for name in found.indexes]
    statement = f"ALTER {_RENAMED.get(found.kind, 'TABLE')} {found.sql} RENAME TO {found.spare_name};"
    return f"let `setup` make its own after {statement}{''.join(indexes)}"


def _aside(name: str) -> str:
    return f'{name[:-1]}_old"' if name.endswith('"') else f"{name}_old"


def policy(found: Found) -> str:
    """Let this role see every row."""
    return f"CREATE POLICY enrichment_worker ON {found.sql} FOR ALL TO {found.role} USING (true) WITH CHECK (true);"
