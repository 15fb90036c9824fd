"""``undo``: take promotions back, from the ledger's before-images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from worker.domain.model import new_run_id
from worker.domain.progress import NO_PROGRESS, Progress
from worker.entities.declaration import ENTITIES, Entity
from worker.entities.tables import LEDGER, Table
from worker.neon.dependents import Dependent, Dependents, Hidden, Relation, RowLocation, SimulatedUndo, dependents
from worker.neon.reversal import AS_IT_WAS, REMOVED, Refused, check_unchanged, read_promoted, restore
from worker.postgres.connection import Connection
from worker.postgres.errors import Kind, in_one_line, kind_of
from worker.postgres.transaction import COMMIT, ROLLBACK, fetch_all, fetch_first, send
from worker.sync.catch_up import CaughtUp, catch_up_rows
from worker.sync.databases import Databases


@dataclass
class Undone:
    """What was taken back, or would be, and what was refused and why; by key."""

    run_id: str = field(default_factory=partial(new_run_id, "undo"))
    undone: dict[str, str] = field(default_factory=dict)
    """Key → what became of the master row."""
    refused: dict[str, str] = field(default_factory=dict)
    dependents: dict[str, list[Dependent]] = field(default_factory=dict)
    """Of what was refused: the rows that hang on the master row."""
    hidden: dict[str, list[Hidden]] = field(default_factory=dict)
    """Of what was refused: the tables that may hold such rows and cannot be looked into."""


async def keys_of_run(databases: Databases, run_id: str) -> list[str]:
    """The keys that a run promoted, none where there is no such run."""
    statement = sql.SQL("SELECT key FROM {} WHERE run_id = %(run)s AND outcome = 'promoted' ORDER BY id DESC").format(
        LEDGER.sql
    )
    async with databases.neon.connection() as neon:
        rows = await fetch_all(neon, statement, {"run": run_id})
        return [row["key"] for row in rows]


async def undo(
    databases: Databases,
    keys: Sequence[str],
    done: Undone,
    *,
    run_id: str | None = None,
    dry_run: bool = False,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Take the last promotion of each record back: master row and invalid row as they were, workspace row
    ``pending`` with what the enricher had typed. Each record in one Neon transaction. What was promoted last goes
    first: nothing that came later, a company's people say, hangs on what goes then.

    Args:
        databases: both databases.
        keys: which records.
        done: what was taken back and refused; after a fault, call again with the same.
        run_id: only where this run promoted them.
        dry_run: write nothing.
        progress: told of every record.

    Raises:
        psycopg.Error: what was taken back stays so; call again for the rest.
    """
    simulated: dict[Table, SimulatedUndo] | None = None
    if dry_run:
        # It begins anew: what it says of a record follows from what it said of those before.
        simulated = {}
        for said in (done.undone, done.refused, done.dependents, done.hidden):
            said.clear()
    todo = [key for key in dict.fromkeys(keys) if key not in done.undone and key not in done.refused]
    if progress.shown:
        progress.expect(len(todo))
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        for key in await _newest_first(neon, todo, run_id):
            progress.advance(1)
            try:
                done.undone[key] = await _undo(databases, neon, supabase, key, run_id, done.run_id, simulated)
            except Refused as refusal:
                done.refused[key] = str(refusal)
                if isinstance(refusal, _Held):
                    done.dependents[key], done.hidden[key] = refusal.hanging.rows, refusal.hanging.hidden
            except psycopg.Error as error:
                if kind_of(error) is not Kind.REFUSED:
                    raise
                done.refused[key] = f"the database refuses: {in_one_line(error)}"
            if key in done.refused:
                await send(neon, ROLLBACK)


async def _undo(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    key: str,
    of_run: str | None,
    run_id: str,
    simulated: dict[Table, SimulatedUndo] | None,
) -> str:
    """Take the last promotion of one record back, and tell its row.

    Returns:
        What became of the master row.

    Raises:
        Refused: it cannot be taken back.
    """
    entity, entry = await _last_promotion(neon, key, of_run)
    if entity is None or entry is None:
        raise Refused(await _why_not_on_record(neon, key, of_run))
    if entry["undone_in"] and entry["undone_in"] != run_id:
        # A row is told also where the one that took it back had died before it could.
        late = simulated is None and not entry["promoted_again"]
        told = await _tell(databases, neon, supabase, entity, key, entry["undone_in"]) if late else ""
        raise Refused("it was taken back before" + told)
    if entry["undone_in"]:  # by this very run, where a connection broke that should have said so
        said = AS_IT_WAS if entry["master_before"] else REMOVED
    else:
        said = await _take_back(neon, entity, entry, run_id, simulated)
    return said + (await _tell(databases, neon, supabase, entity, key, run_id) if simulated is None else "")


async def _newest_first(neon: Connection, keys: Sequence[str], run_id: str | None) -> list[str]:
    """The keys by their promotions, the last one first; at the end those of which none is on record."""
    statement = sql.SQL(
        "SELECT key FROM {} WHERE entity = ANY(%(entities)s) AND key = ANY(%(keys)s) AND outcome = 'promoted'"
        " AND (%(run)s::text IS NULL OR run_id = %(run)s) GROUP BY key ORDER BY max(id) DESC"
    ).format(LEDGER.sql)
    params = {"entities": list(ENTITIES), "keys": list(keys), "run": run_id}
    rows = await fetch_all(neon, statement, params)
    return list(dict.fromkeys([*(row["key"] for row in rows), *keys]))


async def _tell(
    databases: Databases, neon: Connection, supabase: Connection, entity: Entity, key: str, run_id: str
) -> str:
    """Reopen the workspace row, and announce that the promotion was taken back; says so where no row is there.

    Where this does not come about, the next pull does it: Neon's ledger says so.
    """
    caught_up = CaughtUp()
    await catch_up_rows(databases, neon, supabase, entity, [key], run_id, caught_up, wait=True)
    gone = key in caught_up.absent
    return "; its workspace row is gone: the next pull brings it back" if gone else ""


async def _why_not_on_record(neon: Connection, key: str, run_id: str | None) -> str:
    statement = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT 1 AS there FROM {} WHERE {} = %(key)s").format(
            entity.master_table.sql, sql.Identifier(entity.key)
        )
        for entity in ENTITIES.values()
    )
    if await fetch_first(neon, statement, {"key": key}) and not run_id:
        return (
            "it is in the master table, but the ledger has no backup of it: retention removed that, or somebody"
            " else promoted it"
        )
    return "no promotion is on record" + (f" in {run_id}" if run_id else "")


async def _last_promotion(
    neon: Connection, key: str, run_id: str | None
) -> tuple[Entity | None, dict[str, Any] | None]:
    statement = sql.SQL(
        "SELECT l.*, l.xmin::text AS written_in, later.undone_in, later.promoted_again FROM {ledger} l"
        " CROSS JOIN LATERAL ("
        "   SELECT min(u.run_id) FILTER (WHERE u.outcome = 'undone') AS undone_in,"
        "     coalesce(bool_or(u.outcome = 'promoted'), false) AS promoted_again"
        "   FROM {ledger} u WHERE u.entity = l.entity AND u.key = l.key AND u.id > l.id) later"
        " WHERE l.entity = ANY(%(entities)s) AND l.key = %(key)s AND l.outcome = 'promoted'"
        " AND (%(run)s::text IS NULL OR l.run_id = %(run)s) ORDER BY l.id DESC LIMIT 1"
    ).format(ledger=LEDGER.sql)
    params = {"entities": list(ENTITIES), "key": key, "run": run_id}
    row = await fetch_first(neon, statement, params)
    return (ENTITIES[row["entity"]], row) if row else (None, None)


async def _take_back(
    neon: Connection, entity: Entity, entry: dict[str, Any], run_id: str, simulated: dict[Table, SimulatedUndo] | None
) -> str:
    """Take it back in one transaction; with ``simulated``, a dry run's, only say what would come of it.

    Returns:
        What became of the master row.

    Raises:
        Refused: it cannot be taken back.
    """
    now = await read_promoted(neon, entity, entry["key"], dry_run=simulated is not None)
    await check_unchanged(neon, entity, entry, now)
    assert now.master is not None
    before, there_now = entry["master_before"], now.master
    # Put back, only what refers to a column that gets another value is touched.
    event = frozenset(name for name in there_now if there_now[name] != before.get(name)) if before else None
    location = RowLocation(Relation(entity.master_table, now.partitioned), now.leaf, now.ctid)
    hanging = await dependents(neon, location, event, simulated or {})
    if hanging:
        raise _Held(hanging)
    if simulated is None:
        return await restore(neon, entity, entry, run_id)
    await send(neon, COMMIT)
    simulation = simulated.setdefault(entity.master_table, SimulatedUndo(entity.key))
    simulation.keys.append(entry["key"])
    if before:
        simulation.restored.append(entry["id"])
    return AS_IT_WAS if before else REMOVED


class _Held(Refused):
    """Other rows hang on the master row."""

    def __init__(self, hanging: Dependents) -> None:
        super().__init__(hanging.in_words())
        self.hanging = hanging
