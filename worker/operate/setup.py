"""``setup``: bring both databases to what ``sql/`` defines, and report what changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from psycopg import sql

from worker.entities.declaration import Entity
from worker.entities.worker_tables import LEDGER, LOG, POSITION
from worker.postgres.connection import Connection, within
from worker.postgres.errors import SchemaProblem, SetupMissing
from worker.postgres.hints import with_hint
from worker.postgres.pool import Database
from worker.postgres.statements import statement
from worker.postgres.transaction import COMMIT, begin, begin_and_fetch, fetch_all, fetch_one, send
from worker.schema.examination import examine, problems_of
from worker.schema.mismatches import SEQUENCE
from worker.schema.scripts import scripts
from worker.schema.shape import NEON, SUPABASE, shapes
from worker.settings import SettingsError

SECONDS = 600.0


_OTHERS = {
    NEON: (POSITION.sql.as_string(), SUPABASE),
    SUPABASE: (LEDGER.sql.as_string(), NEON),
}
"""Database → a table that only the other one has, and that one's name."""
_GUARD = """DO $$ BEGIN
  IF to_regclass('{table}') IS NOT NULL THEN
    RAISE EXCEPTION 'this is the database of {other}''s part: run the part for {database} in {database}';
  END IF;
END $$;"""


def script(database: str, entities: Iterable[Entity]) -> str:
    """What setup runs in ``Neon`` or ``Supabase``, as one transaction that psql can run, too.

    In the other database it refuses to run. It says so again at the end: psql goes on after an error unless it is told
    to stop, and what is read is the end.
    """
    table, other = _OTHERS[database]
    guard = _GUARD.format(table=table, other=other, database=database)
    parts = [f"-- {one.name}\n{one.text}" for one in scripts(database, entities)]
    return "\n".join([f"-- {database}", "BEGIN;", guard, *parts, "COMMIT;", guard, ""])


_INVENTORY = statement("worker.operate", "inventory")


@dataclass(frozen=True)
class Change:
    """One change that setup made."""

    what: str
    """``created``, ``added`` or ``changed``."""
    thing: str


_TAKEN = sql.SQL(
    "SELECT n.name FROM unnest(%(names)s::text[], %(quoted)s::text[]) n (name, quoted)"
    " JOIN pg_class c ON c.oid = to_regclass(n.quoted)"
    " WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgname = 'enrichment_lay_over')"
)
"""Tables with the names of those that repairs are imported into, and not made by `setup`."""


async def require_adoptable(
    neon: Database, supabase: Database, entities: Collection[Entity]
) -> dict[str, list[Change]]:
    """Compare both databases with what the worker needs, before anything is written in either.

    Returns:
        Database → the sequences that `setup` will advance past their rows.

    Raises:
        SettingsError: the two addresses are swapped.
        SetupMissing: something is wrong that `setup` neither creates nor adds.
    """
    wanted = shapes(entities, announces=True)
    async with neon.connection() as neon_connection, supabase.connection() as supabase_connection:
        mismatches, found = await examine(neon_connection, NEON, wanted, entities, {})
        more, _ = await examine(supabase_connection, SUPABASE, wanted, entities, found)
        repairs = [one.repairs_table for one in entities]
        params = {"names": list(map(str, repairs)), "quoted": [one.sql.as_string() for one in repairs]}
        taken = await fetch_all(supabase_connection, _TAKEN, params)
        await _require_right_way_round(neon_connection, supabase_connection)
    left = problems_of([mismatch for mismatch in (*mismatches, *more) if not mismatch.by_setup])
    left += [
        SchemaProblem(
            f"Supabase's {row['name']} is a table of somebody else's, and `setup` needs the name for imports of"
            " repairs",
            "rename it",
        )
        for row in taken
    ]
    if left:
        raise SetupMissing(left)
    ahead: dict[str, list[Change]] = {neon.name: [], supabase.name: []}
    for mismatch in (*mismatches, *more):
        if mismatch.by_setup == SEQUENCE:
            ahead[mismatch.shape.database].append(Change("changed", f"sequence of {mismatch.shape.table}"))
    return ahead


async def _require_right_way_round(neon: Connection, supabase: Connection) -> None:
    for connection, database, other in ((neon, NEON, SUPABASE), (supabase, SUPABASE, NEON)):
        if await _is_set_up_as(connection, other) and not await _is_set_up_as(connection, database):
            text = f"{database.upper()}_DATABASE_URL leads to a database that was set up as {other}"
            raise SettingsError([with_hint(text, "are the two addresses swapped?")])


async def _is_set_up_as(connection: Connection, database: str) -> bool:
    table = LEDGER if database == NEON else POSITION
    row = await fetch_one(connection, sql.SQL("SELECT to_regclass({}) IS NOT NULL AS there").format(
        sql.Literal(table.sql.as_string())
    ))  # fmt: skip
    return bool(row["there"])


async def setup(database: Database, entities: Collection[Entity]) -> list[Change]:
    """Run the scripts in one transaction: all of it takes effect, or nothing.

    Returns:
        What is new or different; empty if everything was in place.

    Raises:
        psycopg.Error: nothing was changed.
    """
    inventory = _INVENTORY.format(schemas=sql.Literal(_schemas(entities)))
    async with database.connection() as connection:
        rows = await begin_and_fetch(connection, begin(statement=SECONDS, idle=60.0), (inventory, None))
        before = {row["thing"]: row["shape"] for row in rows}
        with within(connection, SECONDS):
            for one in scripts(database.name, entities):
                await connection.execute(one.text.encode())
        found, _ = await send(connection, (inventory, None), COMMIT)
        after = {row["thing"]: row["shape"] for row in found.fetchall()}
    return _changes(before, after)


def _schemas(entities: Iterable[Entity]) -> list[str]:
    """The schemas in which the scripts create something."""
    tables = (table for e in entities for table in (e.invalid_table, e.master_table, e.workspace_table))
    return list(dict.fromkeys([LEDGER.schema, LOG.schema, POSITION.schema, *(table.schema for table in tables)]))


def _changes(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    new_tables = {thing.removeprefix("table ") for thing in after if thing.startswith("table ") and thing not in before}
    changes = []
    for thing, shape in after.items():
        if before.get(thing) == shape:
            continue
        # The parts of a new table are not listed.
        kind, _, name = thing.partition(" ")
        table = name.rsplit(".", 1)[0] if kind == "column" else name.rpartition(" on ")[2]
        if kind in ("column", "index", "constraint") and table in new_tables:
            continue
        if thing in before:
            now = f": {shape or 'closed to strangers'}" if kind == "table" else ""
            changes.append(Change("changed", thing + now))
        else:
            changes.append(Change("added" if kind == "column" else "created", thing))
    return changes
