"""Neon: the statements that settle a batch of one entity, composed once from its declaration and the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from worker.domain.messages import LEDGER_NOTES
from worker.domain.model import NoteCode, Requirement
from worker.entities.declaration import Entity, data_of, expression, key_sql
from worker.entities.names import plain_type
from worker.entities.worker_tables import LEDGER, LOG, RECEIPTS
from worker.neon import duplicates
from worker.neon.books import ONCE, ONCE_EACH
from worker.neon.catalogue import Column
from worker.neon.demands import ALONE, WITH_DEMANDS, Demands
from worker.postgres.statements import statement
from worker.postgres.transaction import composed

_BOOK = statement("worker.neon", "settle_book")
_SETTLE = statement("worker.neon", "settle")
_PLAIN = statement("worker.neon", "settle_plain")


@dataclass(frozen=True)
class Settlement:
    """The composed statements that settle a batch of one entity, adapted to its master table."""

    entity: Entity
    lock: sql.SQL
    plain: sql.SQL
    """Promotes the records of which nothing special is known; leaves what Neon knows more of."""
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
    invalid_updates = sql.SQL(", ").join(
        sql.SQL("{0} = (t.r).{0}").format(sql.Identifier(column)) for column in entity.columns
    )
    key, altered = key_sql(entity), _altered(entity, there, demands)
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
                altered=altered or sql.SQL("NULL::text[]"),
                **duplicates.in_settlement(entity),
                about=_of_requirement([one.about for one in entity.requirements]),
                master_columns=sql.SQL(", ").join(map(sql.Identifier, values)),
                master_values=sql.SQL(", ").join(written),
                master_updates=sql.SQL(", ").join(updates),
                invalid_updates=invalid_updates,
            )
        )
        for parts in (ALONE, WITH_DEMANDS)
    )
    plain = composed(
        _PLAIN.format(
            **key,
            ledger=LEDGER.sql,
            log=LOG.sql,
            invalid=entity.invalid_table.sql,
            master=entity.master_table.sql,
            data_i=data_of(entity, "i"),
            waits=_LEAVE_WAITING.format(_first_unmet(entity.requirements)) if entity.requirements else sql.SQL(""),
            master_columns=sql.SQL(", ").join(map(sql.Identifier, values)),
            master_values=sql.SQL(", ").join(values.values()),
            **duplicates.in_plain_settlement(entity, _record(entity), invalid_updates, data_of(entity, "i")),
            answers=_plain_answers(entity, altered),
        )
    )
    return Settlement(
        entity,
        composed(duplicates.lock_statement(entity)),
        plain,
        alone,
        with_demands,
        frozenset({entity.key, *values}),
        demands,
    )


# LIMIT: of what is asked once, the planner hashes no whole table.
_LEAVE_WAITING = sql.SQL(
    " CROSS JOIN LATERAL (SELECT {} AS unmet FROM (SELECT (d.r).*) r LIMIT 1) q WHERE q.unmet IS NULL"
)


def _rewritten(entity: Entity) -> list[str]:
    """The data columns whose value Postgres may keep in another form than it was sent."""
    return [name for name in entity.columns if name not in entity.verbatim]


def _record(entity: Entity) -> sql.Composable:
    """The data columns as they become, if no trigger of the invalid table changes them."""
    if not (names := _rewritten(entity)):
        return sql.SQL("t.sent")
    return sql.SQL("t.sent || (SELECT {} FROM (SELECT (t.r).*) r)").format(data_of(entity, "r", names))


def _plain_answers(entity: Entity, altered: sql.Composable | None) -> sql.Composable:
    """What the plain settlement returns of each record that it settled."""
    twins, said = sql.SQL(""), "NULL::jsonb AS said, NULL AS code"
    if entity.alike:
        twins, said = sql.SQL("LEFT JOIN twin x USING (key)"), "x.said, CASE WHEN x.held THEN x.code END AS code"
    plain = sql.SQL(f"k.key, k.id, now() AT TIME ZONE 'UTC' AS at, {said}")
    if altered is None and not _rewritten(entity):
        return sql.SQL("{}, NULL::jsonb AS record, NULL::text[] AS altered FROM booked k {}").format(plain, twins)
    return sql.SQL(
        "{}, CASE WHEN {record} <> t.sent THEN {record} END AS record, (SELECT {} FROM (SELECT 'promoted' AS outcome,"
        " m.row AS master_after, t.r) b) AS altered"
        " FROM booked k JOIN todo t USING (key) LEFT JOIN placed m USING (key) {}"
    ).format(plain, altered or sql.SQL("NULL::text[]"), twins, record=_record(entity))


def _altered(entity: Entity, there: Mapping[str, Column], demands: Demands) -> sql.Composable | None:
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
        return None
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
