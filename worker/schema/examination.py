"""Compare the tables of a database with what the worker needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from worker.entities.declaration import Entity
from worker.entities.worker_tables import Table
from worker.neon import catalogue
from worker.neon.catalogue import Found
from worker.postgres.connection import Connection
from worker.postgres.errors import SchemaProblem, SetupMissing
from worker.schema import fixes, probes
from worker.schema.mismatches import SEQUENCE, Mismatch, compare, hidden
from worker.schema.shape import NEON, Kind, Shape


async def examine(
    connection: Connection,
    database: str,
    wanted: Iterable[Shape],
    entities: Iterable[Entity],
    sources: Mapping[Table, Found],
) -> tuple[list[Mismatch], dict[Table, Found]]:
    """Compare a database's tables with what the worker needs: two round trips if they are right.

    Args:
        connection: to it.
        database: its name.
        wanted: the shapes of both databases; those of the other are ignored.
        entities: whose tables.
        sources: what was found in Neon, if that is known.

    Returns:
        The mismatches, and what was found.
    """
    shapes = [shape for shape in wanted if shape.database == database]
    found = await catalogue.read(connection, [shape.table for shape in shapes])
    mismatches: list[Mismatch] = []
    for shape in shapes:
        its = found[shape.table]
        duplicates = None
        if shape.key in its.columns and its.kind in ("r", "p"):
            open_ = not its.columns[shape.key].not_null or not any(u.columns == (shape.key,) for u in its.unique)
            duplicates = await probes.duplicates(connection, shape.table, shape.key) if open_ else None
        mismatches += compare(shape, its, sources.get(shape.source) if shape.source else None, duplicates)
        mismatches += [hidden(shape, its)] if its.blind else []
    at_fault = {mismatch.shape.subject for mismatch in mismatches if not mismatch.by_setup}
    if database == NEON:
        sound = [entity for entity in entities if f"{entity.name}: Neon's tables" not in at_fault]
        unfit = await probes.unfit(connection, sound, found)
        mismatches += [
            Mismatch(shape, _unfit(shape, found[shape.table], name, value))
            for shape in shapes
            for name, value in unfit.types.get(shape.table, {}).items()
        ]
        of_table = {shape.table: shape for shape in shapes}
        mismatches += [Mismatch(of_table[master], problem) for master, problem in unfit.faults if master in of_table]
    numbered = [
        shape
        for shape in shapes
        if shape.numbered and shape.subject not in at_fault and "id" in found[shape.table].columns
    ]
    mismatches += await _behind(connection, numbered, found)
    return mismatches, found


async def require(connection: Connection, wanted: Sequence[Shape]) -> None:
    """Check these tables and no others.

    Raises:
        SetupMissing: one has a mismatch.
    """
    found = await catalogue.read(connection, [shape.table for shape in wanted])
    if mismatches := [mismatch for shape in wanted for mismatch in compare(shape, found[shape.table])]:
        raise SetupMissing(problems_of(mismatches))


def _unfit(shape: Shape, found: Found, name: str, value: str) -> SchemaProblem:
    column = found.columns[name]
    text = f"{shape.database}'s {shape.table}.{name} is of type {column.type}, and has to take {value}"
    kind = Kind.TIME if value.startswith("timestamp") else Kind.INTEGER if value == "integer" else Kind.TEXT
    return SchemaProblem(text, fixes.retype(found, column, kind, None))


async def _behind(connection: Connection, shapes: Sequence[Shape], found: Mapping[Table, Found]) -> list[Mismatch]:
    """The tables whose sequence would assign an id that is taken."""
    ids = {shape.table: found[shape.table].columns["id"] for shape in shapes}
    numbers = await probes.numbering(
        connection, [(table, column.sequence) for table, column in ids.items() if column.sequence]
    )
    return [
        Mismatch(shape, SchemaProblem(
            f"{shape.database}'s {shape.table} has rows up to id {numbers[shape.table].highest}, and its sequence goes"
            f" on with {numbers[shape.table].next}: new {'rows' if shape.own else 'records'} would be refused",
            fixes.SETUP if shape.own else fixes.caught_up(found[shape.table], ids[shape.table]),
        ), by_setup=SEQUENCE if shape.own else "", harmless=True)
        for shape in shapes
        if shape.table in numbers and numbers[shape.table].next <= numbers[shape.table].highest
    ]  # fmt: skip


def problems_of(mismatches: Sequence[Mismatch]) -> list[SchemaProblem]:
    """A line for each mismatch, and a single line for everything that `setup` adds."""
    problems = [mismatch.problem for mismatch in mismatches if not mismatch.by_setup]
    adds = [mismatch for mismatch in mismatches if mismatch.by_setup]
    if len(adds) > 1:
        text = "; ".join(dict.fromkeys(mismatch.problem.text for mismatch in adds))
        return [*problems, SchemaProblem(text, fixes.SETUP)]
    return [*problems, *(mismatch.problem for mismatch in adds)]
