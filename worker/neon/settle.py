"""Neon: promote, flag or push a batch, with its ledger and its log, in one transaction. Knows no rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.messages import LEDGER_NOTES
from worker.domain.model import Action, Data, NoteCode, Receipt, Requirement
from worker.domain.steps import Answer, Judged
from worker.entities.declaration import Entity, data_of, expression, key_sql
from worker.entities.names import plain_type
from worker.entities.worker_tables import LEDGER, LOG, RECEIPTS
from worker.neon.answers import answers_of
from worker.neon.books import EXECUTED_BY, LOCK_SECONDS, ONCE, ONCE_EACH, PLANNER, Run
from worker.neon.catalogue import Column
from worker.neon.demands import ALONE, WITH_DEMANDS, Demands, asking
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, begin, composed, transact

_BOOK = statement("worker.neon", "settle_book")
_LOCK = statement("worker.neon", "settle_lock")
_SETTLE = statement("worker.neon", "settle")


@dataclass(frozen=True)
class Settlement:
    """The composed statements that settle a batch of one entity, adapted to its master table."""

    entity: Entity
    lock: sql.SQL
    settle: sql.SQL
    settle_flags: sql.SQL
    """As ``settle``, after :func:`worker.neon.demands.asking`: what the master would refuse is told with the flags."""
    filled: frozenset[str]
    """The master columns that get a value."""
    demands: Demands

    def cannot_fill(self, error: psycopg.Error) -> bool:
        """Whether the master refused a record because of a NOT NULL column that nothing fills."""
        diag = error.diag
        return (
            isinstance(error, psycopg.errors.NotNullViolation)
            and (diag.schema_name, diag.table_name) == (self.entity.master_table.schema, self.entity.master_table.name)
            and diag.column_name not in self.filled
        )


# NOT NULL and CHECK are checked before ON CONFLICT can update: what the existing row keeps is taken from there.
_KEEP = {
    "S": sql.SQL("coalesce(({first})::text, ({second})::text)"),
    "N": sql.SQL("coalesce({first}, {second})"),
    # Of a date or a flag, the value's type may be another one than the column's.
    **dict.fromkeys("DBUAET", sql.SQL("coalesce(({first})::{type}, ({second})::{type})")),
}


def _written(value: sql.Composable, column: Column, *, kept: bool) -> sql.Composable:
    old = sql.SQL("(p.old).{}").format(sql.Identifier(column.name))
    first, second = (old, value) if kept else (value, old)
    return _KEEP[column.category].format(first=first, second=second, type=sql.SQL(column.type))


_NEVER_NULL = sql.SQL("{0} = coalesce(EXCLUDED.{0}, m.{0})")
_KEPT = sql.SQL("{0} = coalesce(m.{0}, EXCLUDED.{0})")


def settlement(entity: Entity, master_columns: Iterable[Column], demands: Demands) -> Settlement:
    """Compose the settlement of an entity.

    Args:
        entity: the declaration.
        master_columns: the master's columns that exist and can be written; others are not filled.
        demands: what the master demands.
    """
    there = {column.name: column for column in master_columns}
    values: dict[str, sql.Composable] = {
        column: sql.Identifier("r", source) for column, source in entity.mapping.items() if column in there
    }
    values |= {column: expression(text) for column, text in entity.computed.items() if column in there}
    updates: list[sql.Composable] = [
        (_KEPT if column in entity.kept else _NEVER_NULL).format(sql.Identifier(column)) for column in values
    ]
    if "updated_at" in there:
        updates.append(sql.SQL("updated_at = now()"))
    written = [
        _written(value, there[name], kept=name in entity.kept)
        if (there[name].not_null or name in demands.checked) and there[name].category in _KEEP
        else value
        for name, value in values.items()
    ]
    key = key_sql(entity)
    alone, with_demands = (
        composed(
            _SETTLE.format(
                **parts,
                book=_BOOK.format(ledger=LEDGER.sql),
                ledger=LEDGER.sql,
                receipts=RECEIPTS.sql,
                log=LOG.sql,
                once=ONCE,
                once_each=ONCE_EACH,
                kept=sql.Literal(LEDGER_NOTES[NoteCode.KEPT]),
                **key,
                invalid=entity.invalid_table.sql,
                master=entity.master_table.sql,
                data_i=data_of(entity, "i"),
                record=_record(entity),
                rewritten=sql.SQL("true" if _rewritten(entity) else "b.outcome <> 'promoted'"),
                waits_for=_of_requirement([one.waits_for for one in entity.requirements]),
                requirement=_first_unmet(entity.requirements),
                may_wait=sql.Literal(bool(entity.requirements)),
                altered=_altered(entity, there, demands),
                about=_of_requirement([one.about for one in entity.requirements]),
                master_columns=sql.SQL(", ").join(map(sql.Identifier, values)),
                master_values=sql.SQL(", ").join(written),
                master_updates=sql.SQL(", ").join(updates),
                invalid_updates=sql.SQL(", ").join(
                    sql.SQL("{0} = (t.r).{0}").format(sql.Identifier(column)) for column in entity.columns
                ),
            )
        )
        for parts in (ALONE, WITH_DEMANDS)
    )
    return Settlement(
        entity,
        composed(_LOCK.format(invalid=entity.invalid_table.sql, master=entity.master_table.sql, **key)),
        alone,
        with_demands,
        frozenset({entity.key, *values}),
        demands,
    )


def _rewritten(entity: Entity) -> list[str]:
    """The data columns whose value Postgres may keep in another form than it was sent."""
    return [name for name in entity.columns if name not in entity.verbatim]


def _record(entity: Entity) -> sql.Composable:
    """The data columns as they become, if no trigger of the invalid table changes them."""
    if not (names := _rewritten(entity)):
        return sql.SQL("t.sent")
    return sql.SQL("t.sent || (SELECT {} FROM (SELECT (t.r).*) r)").format(data_of(entity, "r", names))


def _altered(entity: Entity, there: Mapping[str, Column], demands: Demands) -> sql.Composable:
    """The data columns whose value the master has otherwise than it was written: rounded, cut, or changed by a trigger.
    Only those are compared that may be.
    """
    tests = []
    for name, source in entity.mapping.items():
        column, type_ = there.get(name), entity.column_types[source]
        if column is None or name in entity.kept:
            continue
        rounds = column.category in ("N", "D") and column.type.upper() != type_
        if not (rounds or name in demands.may_change) or plain_type(type_).startswith("JSON"):
            continue
        tests.append(
            sql.SQL(
                "CASE WHEN (b.master_after ->> {name})::{type} IS DISTINCT FROM (b.r).{source}"
                " AND (b.r).{source} IS NOT NULL THEN {said} END"
            ).format(
                name=sql.Literal(name), type=sql.SQL(type_), source=sql.Identifier(source), said=sql.Literal(source)
            )
        )
    if not tests:
        return sql.SQL("NULL::text[]")
    found = sql.SQL("array_remove(ARRAY[{}], NULL)").format(sql.SQL(", ").join(tests))
    return sql.SQL("CASE WHEN b.outcome = 'promoted' AND b.master_after IS NOT NULL THEN {} END").format(found)


def _first_unmet(requirements: Sequence[Requirement]) -> sql.Composable:
    """The number of the first requirement that is not met."""
    whens = [
        sql.SQL("WHEN {} THEN {}").format(expression(one.unmet), sql.Literal(number))
        for number, one in enumerate(requirements)
    ]
    return sql.SQL("CASE {} END").format(sql.SQL(" ").join(whens)) if whens else sql.SQL("NULL::integer")


def _of_requirement(texts: Sequence[str]) -> sql.Composable:
    """The text of the requirement whose number is ``q.requirement``."""
    whens = [sql.SQL("WHEN {} THEN {}").format(sql.Literal(n), expression(text)) for n, text in enumerate(texts)]
    return sql.SQL("CASE q.requirement {} END").format(sql.SQL(" ").join(whens)) if whens else sql.SQL("NULL::text")


async def settle(
    connection: Connection,
    how: Settlement,
    batch: Sequence[Judged],
    run: Run,
    known: Receipt | None = None,
) -> dict[str, Answer]:
    """Promote, flag or push the batch in one transaction and one round trip.

    A delivery takes effect only if Neon's row is still the one it was merged with, and only once.

    Args:
        connection: to Neon.
        how: the entity's statements.
        batch: merged and judged.
        run: the run that they are booked under.
        known: the latest ledger row whose outcome the workspace shows; Neon must have it.

    Returns:
        The answer to each delivery, by key.

    Raises:
        Restored: Neon has forgotten ``known``: nothing took effect.
        psycopg.Error: nothing took effect, or, if the connection broke, that is unknown: settle again.
            What did take effect is answered as a repeat.
    """
    if not batch:
        return {}
    asked = asking(how.demands, batch)
    *_, settled = await transact(
        connection,
        *((CHECK_AT_ONCE, *run.rehearsal) if run.rehearsal is not None else ()),
        locks(how, batch),
        *asked,
        (how.settle_flags if asked else how.settle, parameters(how, batch, run, known)),
        opening=begin(lock=LOCK_SECONDS, planner=PLANNER, planned_once=True),
        rehearse=run.rehearsal is not None,
    )
    return answers_of(how.entity, batch, settled.fetchall())


def locks(how: Settlement, batch: Sequence[Judged]) -> Step:
    """The step that locks what a settlement will touch.

    A statement of its own, so that the settlement's snapshot is newer than the locks.
    """
    return how.lock, {"keys": [judged.key for judged in batch]}


# A deferred constraint must fail while it is still known which record it was.
CHECK_AT_ONCE: Step = (sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"), None)


def parameters(how: Settlement, batch: Sequence[Judged], run: Run, known: Receipt | None = None) -> dict[str, Any]:
    """The parameters of the settling statement."""
    return {
        "known_id": known.id if known else None,
        "known_hash": known.hash if known else None,
        "records": Jsonb([_as_record(how.entity, judged) for judged in batch]),
        "rehearse": run.rehearsal is not None,
        "entity": how.entity.name,
        "run_id": run.run_id,
        "source": run.source,
        "target": run.target,
        "executed_by": EXECUTED_BY,
        "notes": run.notes,
        "rules_version": how.entity.rules.version(),
    }


def _changes(entity: Entity, judged: Judged) -> Data:
    """What a settlement changes in Neon's data columns."""
    neon, verbatim = judged.expected, entity.verbatim
    return {
        name: value
        for name, value in judged.merged.data.items()
        if name not in verbatim or name not in neon or value != neon[name]
    }


def _as_record(entity: Entity, judged: Judged) -> dict[str, Any]:
    claimed, merged, verdict = judged.claimed, judged.merged, judged.verdict
    record: dict[str, Any] = {
        "key": claimed.key,
        "hash": claimed.delivery_hash,
        "expected": judged.expected_hash,
        "action": judged.action,
        "changes": _changes(entity, judged),
        "enriched_by": claimed.enriched_by,
        "enriched_at": claimed.enriched_at,
        "enriched_fields": merged.enriched_fields,
    }
    if version := judged.as_of or claimed.version:
        record["version"] = version
    # Empty values are left out: they would be half of a record's bytes.
    if judged.action is Action.FLAG:
        record |= {"errors": dict(verdict.errors), "reason_code": verdict.reason_code}
    if verdict.warnings:
        record["warnings"] = dict(verdict.warnings)
    if merged.conflicts:
        record["conflicts"] = [asdict(conflict) for conflict in merged.conflicts]
    if code := NoteCode.PUSHED if judged.action is Action.PUSH else judged.note:
        record |= {"note": LEDGER_NOTES[code], "note_code": code}
    return record
