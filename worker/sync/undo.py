"""``undo``: take promotions back, from the ledger's before-images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from worker.domain.model import new_run_id
from worker.domain.progress import NO_PROGRESS, Progress
from worker.entities.declaration import Entity, key_sql
from worker.entities.worker_tables import LEDGER, Table
from worker.neon.dependents import Dependent, Dependents, Hidden, Relation, RowLocation, SimulatedUndo, dependents
from worker.neon.reversal import AS_IT_WAS, REMOVED, Refused, Reversal
from worker.postgres.connection import Connection
from worker.postgres.errors import Kind, in_one_line, kind_of
from worker.postgres.transaction import COMMIT, ROLLBACK, fetch_all, fetch_first, send
from worker.sync.catch_up import CatchUp
from worker.sync.databases import Databases
from worker.sync.stages import is_ambiguous


@dataclass
class Undone:
    """What was undone, or would be, and what was refused and why; by key."""

    run_id: str = field(default_factory=partial(new_run_id, "undo"))
    undone: dict[str, str] = field(default_factory=dict)
    """Key → what became of the master row."""
    refused: dict[str, str] = field(default_factory=dict)
    dependents: dict[str, list[Dependent]] = field(default_factory=dict)
    """For refused keys: the rows that reference the master row."""
    hidden: dict[str, list[Hidden]] = field(default_factory=dict)
    """For refused keys: the tables that may hold such rows and cannot be read."""


async def keys_of_run(databases: Databases, run_id: str) -> list[str]:
    """The keys that a run promoted; none if there is no such run."""
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
    entity: str | None = None,
    dry_run: bool = False,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Undo the last promotion of each record: master row and invalid row as they were, workspace row ``pending`` with
    what the enricher had typed. Each record in one Neon transaction. The latest promotion is undone first, so that
    later records, such as a company's people, no longer reference an earlier one.

    Args:
        databases: both databases.
        keys: which records.
        done: what was undone and refused; after a fault, call again with the same.
        run_id: only promotions of this run.
        entity: only of this entity; several may have a record with the same key.
        dry_run: write nothing.
        progress: informed of every record.

    Raises:
        psycopg.Error: what was undone stays undone; call again for the rest.
    """
    simulated: dict[Table, SimulatedUndo] | None = None
    if dry_run:
        # A dry run starts again: its answer for a record depends on the answers for earlier ones.
        simulated = {}
        for answers in (done.undone, done.refused, done.dependents, done.hidden):
            answers.clear()
    todo = [key for key in dict.fromkeys(keys) if key not in done.undone and key not in done.refused]
    if progress.shown:
        progress.expect(len(todo))
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        among = {name: one for name, one in databases.entities.items() if entity in (None, name)}
        undoing = _Undoing(databases, among, neon, supabase, done.run_id, run_id, simulated)
        for key in await _newest_first(neon, list(among), todo, run_id):
            progress.advance(1)
            try:
                done.undone[key] = await undoing.undo(key)
            except Refused as refusal:
                done.refused[key] = str(refusal)
                if isinstance(refusal, _Referenced):
                    done.dependents[key], done.hidden[key] = refusal.found.rows, refusal.found.hidden
            except psycopg.Error as error:
                if kind_of(error) is not Kind.REFUSED:
                    raise
                done.refused[key] = f"the database refuses: {in_one_line(error)}"
            if key in done.refused:
                await send(neon, ROLLBACK)


@dataclass(frozen=True, slots=True)
class _Undoing:
    """Undoes promotions, each in one Neon transaction."""

    databases: Databases
    among: Mapping[str, Entity]
    """The entities whose promotions are undone."""
    neon: Connection
    supabase: Connection
    run_id: str
    """The run that they are undone in."""
    of_run: str | None
    """Only promotions of this run."""
    simulated: dict[Table, SimulatedUndo] | None
    """In a dry run, what it would have undone so far."""

    async def undo(self, key: str) -> str:
        """Undo the last promotion of one record, and acknowledge that in its row.

        Returns:
            What became of the master row.

        Raises:
            Refused: it cannot be undone.
        """
        entity, entry = await _last_promotion(self.neon, self.among, key, self.of_run)
        if entity is None or entry is None:
            raise Refused(await _why_not_on_record(self.neon, self.among, key, self.of_run))
        if len(entry["entities"]) > 1:
            raise Refused(f"it {is_ambiguous(entry['entities'])}")
        if entry["undone_in"] and entry["undone_in"] != self.run_id:
            # Acknowledge the row also if the process that undid it died before it could.
            unacknowledged = self.simulated is None and not entry["promoted_again"]
            note = await self._acknowledge(entity, key, entry["undone_in"]) if unacknowledged else ""
            raise Refused("it was taken back before" + note)
        if entry["undone_in"]:  # by this same run, before a connection broke and the answer was lost
            master = AS_IT_WAS if entry["master_before"] else REMOVED
        else:
            master = await self._undo_promotion(entity, entry)
        if self.simulated is not None:
            return master
        return master + await self._acknowledge(entity, key, self.run_id)

    async def _undo_promotion(self, entity: Entity, entry: dict[str, Any]) -> str:
        """Undo a promotion in one transaction; in a dry run only return what would happen.

        Returns:
            What became of the master row.

        Raises:
            Refused: it cannot be undone.
        """
        neon, simulated, reversal = self.neon, self.simulated, Reversal(self.neon, entity, entry)
        now = await reversal.read(dry_run=simulated is not None)
        master = await reversal.check_unchanged(now)
        before = entry["master_before"]
        # If the row is put back, not deleted, only references to columns that change are affected.
        event = frozenset(name for name in master if master[name] != before.get(name)) if before else None
        location = RowLocation(Relation(entity.master_table, now.partitioned), now.leaf, now.ctid)
        found = await dependents(neon, location, event, simulated or {})
        if found:
            raise _Referenced(found)
        if simulated is None:
            return await reversal.restore(self.run_id)
        await send(neon, COMMIT)
        simulation = simulated.setdefault(entity.master_table, SimulatedUndo(entity.key))
        simulation.keys.append(entry["key"])
        if before:
            simulation.restored.append(entry["id"])
        return AS_IT_WAS if before else REMOVED

    async def _acknowledge(self, entity: Entity, key: str, run_id: str) -> str:
        """Reopen the workspace row, and announce the undo. Returns a clause for the user if there is no row.

        If this fails, the next pull does it from Neon's ledger.
        """
        catching_up = CatchUp(self.databases.routes[entity.name], self.neon, self.supabase, run_id)
        await catching_up.rows([key], wait=True)
        gone = key in catching_up.done.absent
        return "; its workspace row is gone: the next pull brings it back" if gone else ""


async def _newest_first(
    neon: Connection, entities: Sequence[str], keys: Sequence[str], run_id: str | None
) -> list[str]:
    """The keys in the order of their promotions, latest first; then those without a promotion on record."""
    statement = sql.SQL(
        "SELECT key FROM {} WHERE entity = ANY(%(entities)s) AND key = ANY(%(keys)s) AND outcome = 'promoted'"
        " AND (%(run)s::text IS NULL OR run_id = %(run)s) GROUP BY key ORDER BY max(id) DESC"
    ).format(LEDGER.sql)
    params = {"entities": list(entities), "keys": list(keys), "run": run_id}
    rows = await fetch_all(neon, statement, params)
    return list(dict.fromkeys([*(row["key"] for row in rows), *keys]))


async def _why_not_on_record(neon: Connection, entities: Mapping[str, Entity], key: str, run_id: str | None) -> str:
    masters = [
        sql.SQL("SELECT 1 AS there FROM {table} WHERE {key} = %(key)s{key_cast}").format(
            table=entity.master_table.sql, **key_sql(entity)
        )
        for entity in entities.values()
        if entity.is_key(key)
    ]
    statement = sql.SQL(" UNION ALL ").join(masters)
    if masters and await fetch_first(neon, statement, {"key": key}) and not run_id:
        return (
            "it is in the master table, but the ledger has no backup of it: retention removed that, or somebody"
            " else promoted it"
        )
    return "no promotion is on record" + (f" in {run_id}" if run_id else "")


async def _last_promotion(
    neon: Connection, entities: Mapping[str, Entity], key: str, run_id: str | None
) -> tuple[Entity | None, dict[str, Any] | None]:
    statement = sql.SQL(
        "SELECT l.*, l.xmin::text AS written_in, later.undone_in, later.promoted_again, ARRAY("
        "   SELECT DISTINCT e.entity FROM {ledger} e WHERE e.entity = ANY(%(entities)s) AND e.key = %(key)s"
        "   AND e.outcome = 'promoted' AND (%(run)s::text IS NULL OR e.run_id = %(run)s)) AS entities FROM {ledger} l"
        " CROSS JOIN LATERAL ("
        "   SELECT min(u.run_id) FILTER (WHERE u.outcome = 'undone') AS undone_in,"
        "     coalesce(bool_or(u.outcome = 'promoted'), false) AS promoted_again"
        "   FROM {ledger} u WHERE u.entity = l.entity AND u.key = l.key AND u.id > l.id) later"
        " WHERE l.entity = ANY(%(entities)s) AND l.key = %(key)s AND l.outcome = 'promoted'"
        " AND (%(run)s::text IS NULL OR l.run_id = %(run)s) ORDER BY l.id DESC LIMIT 1"
    ).format(ledger=LEDGER.sql)
    params = {"entities": list(entities), "key": key, "run": run_id}
    row = await fetch_first(neon, statement, params)
    return (entities[row["entity"]], row) if row else (None, None)


class _Referenced(Refused):
    """Other rows reference the master row."""

    def __init__(self, found: Dependents) -> None:
        super().__init__(found.in_words())
        self.found = found
