"""Neon: what the master table demands of a record, read from the catalogue, and asked of the records that are to be
flagged, so that an enricher learns of every fault at once. Knows no rules.

What passes is not asked: its INSERT is the answer. What is told here is only told beside an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.model import Action, NoteCode
from worker.domain.steps import Judged
from worker.entities.declaration import Entity, key_sql
from worker.neon import words
from worker.neon.books import PLANNER
from worker.neon.wouldbe import ColumnRules, Row, Rules
from worker.postgres.connection import Connection
from worker.postgres.errors import NOT_ABOUT_RECORDS
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, begin, composed, fetch_first, transact

MOST_TRIES = 2000
"""A demand that raises is asked record by record, but no batch asks more often than this."""
_RULES = statement("worker.neon", "master_rules")
_LOOK = statement("worker.neon", "demands")
_DEMANDED = statement("worker.neon", "demanded")
_PASS_FLAGGED = sql.SQL("SELECT set_config('enrichment_worker.flagged', %(records)s::jsonb::text, true)")
_READ = sql.SQL("SELECT key, value FROM jsonb_each(current_setting('enrichment_worker.demands')::jsonb)")


ALONE = {
    "errors": sql.SQL("coalesce(errors, '{}')"),
    "warnings": sql.SQL("coalesce(warnings, '{}')"),
    **dict.fromkeys(("demanded", "told", "told_warnings"), sql.SQL("")),
}
"""Parts of the settling statement: what it books as a flag's errors and warnings, from where, and whether it answers
them.
"""
WITH_DEMANDS = {
    "errors": sql.SQL("coalesce(u.value -> 'errors', '{}') || coalesce(errors, '{}')"),
    # A field has one message.
    "warnings": sql.SQL("coalesce(warnings, '{}') - ARRAY(SELECT jsonb_object_keys(u.value -> 'errors'))"),
    "demanded": sql.SQL(
        "\n  LEFT JOIN jsonb_each(nullif(current_setting('enrichment_worker.demands', true), '')::jsonb) u USING (key)"
    ),
    "told": sql.SQL("CASE WHEN b.outcome = 'flagged' THEN b.errors END, "),
    "told_warnings": sql.SQL("CASE WHEN b.outcome = 'flagged' THEN b.warnings END, "),
}
"""The same after :func:`asking`."""


@dataclass(frozen=True)
class Demand:
    """Something that the master table refuses."""

    broken: str
    """SQL over ``v``, the master row as it would be, ``d`` and ``w``: true if it refuses the record."""
    said: Mapping[str, str]
    """Data column, or ``record`` → what the enricher reads."""
    state: str
    """The SQLSTATE of the refusal."""
    still: Mapping[str, Any]
    """Where the catalogue has it: it may be dropped while the worker runs."""
    parts_of: frozenset[str] = frozenset()
    """Data columns that are made of this one: an error there says it already."""


@dataclass(frozen=True)
class Demands:
    """What a master table demands of its records; by default nothing that is known."""

    look: sql.SQL | None = None
    """The statement that asks the records in ``enrichment_worker.flagged``."""
    checked: frozenset[str] = frozenset()
    """The master columns that a CHECK speaks of."""
    may_change: frozenset[str] = frozenset()
    """The master columns to which a trigger may give another value."""


@dataclass(frozen=True)
class Unmet:
    """What the master table would refuse of a record."""

    errors: Mapping[str, str]
    """Data column, or ``record`` → message; without those that the record had."""
    states: frozenset[str] = field(default_factory=frozenset)
    """The SQLSTATEs of all its refusals."""


async def read(connection: Connection, entity: Entity) -> Demands:
    """What the master table of an entity demands, as its catalogue says now: one round trip.

    Args:
        connection: to Neon.
        entity: whose master table; it exists.
    """
    table = entity.master_table.sql.as_string(connection)
    found = await fetch_first(connection, _RULES.format(table=sql.Literal(table)))
    return _composed(entity, Rules.of(found)) if found else Demands()


def _composed(entity: Entity, rules: Rules) -> Demands:
    row = Row(entity, rules)
    demands = list(_demands(entity, rules, row))
    checked = frozenset(column for check in rules.checks for column in check["columns"])
    checked |= {column.name for column in rules.columns.values() if column.domains}
    may_change = frozenset(filter(rules.may_be_changed, rules.columns))
    if not demands:
        return Demands(checked=checked, may_change=may_change)
    query = _DEMANDED.format(
        **key_sql(entity),
        invalid=entity.invalid_table.sql,
        master=entity.master_table.sql,
        requirement=sql.SQL(row.requirement),
        values=sql.SQL(", ".join(f"{row.value(name)} AS {row.quoted(name)}" for name in _asked(demands, rules, row))),
    )
    listed = [
        {"broken": one.broken, "said": dict(one.said), "state": one.state, "still": dict(one.still),
         "parts_of": sorted(one.parts_of)}
        for one in demands
    ]  # fmt: skip
    look = _LOOK.format(
        demands=sql.Literal(Jsonb(listed)),
        query=sql.Literal(query.as_string()),
        not_about_records=sql.SQL(", ").join(map(sql.Literal, NOT_ABOUT_RECORDS)),
        most_tries=sql.Literal(MOST_TRIES),
    )
    return Demands(composed(look), checked, may_change)


def _asked(demands: Sequence[Demand], rules: Rules, row: Row) -> list[str]:
    """The columns that a demand speaks of: each costs planning."""
    return [name for name in rules.columns if any(f"v.{row.quoted(name)}" in one.broken for one in demands)]


def _demands(entity: Entity, rules: Rules, row: Row) -> list[Demand]:
    """In the order in which the database finds them."""
    known = [column for column in rules.columns.values() if column.name in row.filled and row.knows(column.name)]
    found: list[Demand] = []
    for column in known:
        found += _of_type(entity, rules, row, column)
    for column in known:
        if column.closed or column.domain_closed:
            name = row.shown(column.name)
            sentence = (
                words.leads_to_nothing(words.MASTER, [column.name])
                if column.name in entity.computed
                else words.missing(words.MASTER, [name])
            )
            broken = f"v.{row.quoted(column.name)} IS NULL" + (" AND NOT w.waits" if row.looks_up(column.name) else "")
            still = {**_column(rules, column), "closed": column.closed and not column.domain_closed}
            found.append(
                Demand(broken, {row.field(column.name): sentence}, "23502", still, row.parts_of([column.name]))
            )
    for check in rules.checks:
        columns = check["columns"]
        if all(map(row.knows, columns)) and row.is_filled(columns):
            scope = ", ".join(f"v.{row.quoted(name)}" for name in columns)
            alias = sql.Identifier(entity.master_table.name).as_string()
            broken = f"(SELECT NOT ({check['expression']}) FROM (SELECT {scope}) AS {alias})"  # noqa: S608 - the catalogue's
            if any(map(row.looks_up, columns)):
                broken += " AND NOT w.waits"
            said = words.of_check(words.MASTER, check, [row.shown(name) for name in columns], entity.columns)
            found.append(Demand(broken, said, "23514", {"rule": check["id"]}, row.parts_of(columns)))
    return found


def _of_type(entity: Entity, rules: Rules, row: Row, column: ColumnRules) -> list[Demand]:
    """What the column's type refuses: a long text, a large number, what its domain does not allow."""
    found: list[Demand] = []
    where, still, parts = (
        row.field(column.name),
        {**_column(rules, column), "closed": False},
        row.parts_of([column.name]),
    )
    if unfit := row.unfit(column.name):
        if column.most_characters is not None:
            sentence, state = words.too_long(words.MASTER, column.most_characters), "22001"
        else:
            sentence, state = words.out_of_range(words.MASTER, *column.range_in_words()), "22003"
        found.append(Demand(unfit, {where: sentence}, state, still, parts))
    for check in column.domains:
        broken = f"NOT ({_with_value(check['expression'], f'v.{row.quoted(column.name)}')})"
        said = words.of_check(words.MASTER, {**check, "columns": ["VALUE"]}, [row.shown(column.name)], entity.columns)
        found.append(Demand(broken, said, "23514", {"rule": check["id"]}, parts))
    return found


def _column(rules: Rules, column: ColumnRules) -> dict[str, Any]:
    return {"table": rules.id, "column": column.name, "type": column.type, "modifier": column.modifier}


def _with_value(expression: str, value: str) -> str:
    """A domain's expression over this value."""
    tokens = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\bVALUE\b"""
    return re.sub(tokens, lambda found: f"({value})" if found[0] == "VALUE" else found[0], expression)


def asking(demands: Demands, batch: Sequence[Judged]) -> list[Step]:
    """The steps that find out what the master would refuse of those records of a batch that are to be flagged; none if
    there are none. The answer is in ``enrichment_worker.demands``, for the settlement.
    """
    # What is kept out of Neon altogether is told for that reason.
    flags = [one for one in batch if one.action is Action.FLAG and one.note is not NoteCode.KEPT]
    if not flags or demands.look is None:
        return []
    records = [
        {"key": one.key, "data": one.merged.data, "enriched_by": one.claimed.enriched_by,
         "told": list(one.verdict.errors)}
        for one in flags
    ]  # fmt: skip
    return [(_PASS_FLAGGED, {"records": Jsonb(records)}), (demands.look, None)]


async def ask(connection: Connection, demands: Demands, batch: Sequence[Judged]) -> dict[str, Unmet]:
    """What the master would refuse of the records of a batch that are to be flagged, by key: one round trip.

    Raises:
        psycopg.Error: nothing was written; ask again.
    """
    if not (steps := asking(demands, batch)):
        return {}
    # It reads: only who alters the table can make it wait.
    opening = begin(planner=PLANNER)
    *_, said = await transact(connection, *steps, (_READ, None), opening=opening, rehearse=True)
    return {row["key"]: Unmet(row["value"]["errors"], frozenset(row["value"]["states"])) for row in said.fetchall()}


def with_unmet(judged: Judged, unmet: Mapping[str, Unmet]) -> Judged:
    """The record with everything that is wrong with it; the errors that it has come first."""
    more = unmet.get(judged.key)
    return with_errors(judged, {**judged.verdict.errors, **more.errors}) if more and more.errors else judged


def with_errors(judged: Judged, errors: Mapping[str, str]) -> Judged:
    """The record with these errors. A field that has one has no warning beside it."""
    warnings = {name: message for name, message in judged.verdict.warnings.items() if name not in errors}
    return replace(judged, verdict=replace(judged.verdict, errors=errors, warnings=warnings))


async def with_all_reasons(
    connection: Connection, demands: Demands, flags: Sequence[Judged], states: Mapping[str, str]
) -> list[Judged]:
    """Refused records with everything that the master refuses of them: a refusal names one fault, and not always where.

    Args:
        connection: to Neon.
        demands: what the master demands.
        flags: the records, flagged for what the database said.
        states: key → SQLSTATE of that.

    Raises:
        psycopg.Error: nothing was written.
    """
    unmet = await ask(connection, demands, flags)
    found: list[Judged] = []
    for flag in flags:
        errors = flag.verdict.errors
        said = unmet.get(flag.key)
        if said and said.errors and states[flag.key] in said.states:
            # What was refused somewhere in the record is told where it is.
            errors = {name: message for name, message in errors.items() if name != "record"}
        found.append(with_unmet(with_errors(flag, errors), unmet))
    return found
