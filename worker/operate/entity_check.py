"""``entities``: compare entity files with the databases, and draft one from the catalogue."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from worker.entities.declaration import Entity
from worker.entities.draft import NoDraft, TableColumn, draft
from worker.entities.worker_tables import Table
from worker.neon import catalogue
from worker.neon.catalogue import Found
from worker.postgres.errors import SchemaProblem
from worker.postgres.pool import Database
from worker.schema.examination import examine
from worker.schema.mismatches import Mismatch
from worker.schema.shape import NEON, SUPABASE, Shape, shapes


async def compared(
    neon: Database, supabase: Database, entities: Collection[Entity], checked: Collection[str]
) -> list[Mismatch]:
    """What the databases do not have as these entities say: what `setup` would make, too.

    Args:
        neon: Neon.
        supabase: Supabase.
        entities: all that the worker would carry.
        checked: the names of those that are asked about.
    """
    wanted = [shape for shape in shapes(entities) if shape.subject.partition(": ")[0] in checked]
    its = [entity for entity in entities if entity.name in checked]
    async with neon.connection() as neon_connection, supabase.connection() as supabase_connection:
        mismatches, found = await examine(neon_connection, NEON, wanted, its, {})
        more, _ = await examine(supabase_connection, SUPABASE, wanted, its, found)
    unfilled = [one for entity in its for one in _not_there(entity, found[entity.master_table], wanted)]
    return [*mismatches, *more, *unfilled]


def _not_there(entity: Entity, master: Found, wanted: Iterable[Shape]) -> Iterator[Mismatch]:
    """Master columns that the file fills and the table does not have: a running worker leaves them out."""
    shape = next(shape for shape in wanted if shape.table == entity.master_table)
    for name in (*entity.mapping, *entity.computed):
        if master.kind and name not in master.columns:
            text = f"Neon's {entity.master_table} has no column {name}, which the file fills"
            yield Mismatch(shape, SchemaProblem(text, f"take it out of [master] in {entity.file}, or add the column"))


async def drafted(neon: Database, name: str, invalid: Table, master: Table) -> str:
    """A draft of an entity file.

    Raises:
        NoDraft: a table is not there, or they have no key in common.
    """
    async with neon.connection() as connection:
        found = await catalogue.read(connection, [invalid, master])
    for table in (invalid, master):
        if found[table].kind not in ("r", "p"):
            raise NoDraft(f"Neon has no table {table}: check the name and its schema")
    return draft(name, invalid, master, _columns(found[invalid]), _columns(found[master]))


def _columns(found: Found) -> list[TableColumn]:
    unique = {one.columns[0] for one in found.unique if len(one.columns) == 1}
    return [
        TableColumn(one.name, one.type, one.needed, one.writable, one.name in unique) for one in found.columns.values()
    ]
