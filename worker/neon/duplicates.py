"""Neon: the parts of a settlement that find out whether the master has a record under another key. Knows no rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from worker.domain import messages
from worker.domain.model import DUPLICATE_OF, MAX_REASON, Action
from worker.domain.steps import Judged
from worker.entities.declaration import Entity, expression, key_sql
from worker.entities.names import in_sql
from worker.postgres.binary import Texts
from worker.postgres.statements import load, statement

_FIND = statement("worker.neon", "settle_duplicates")
_LOCK = statement("worker.neon", "settle_lock")
_LOCK_IDENTITIES = sql.SQL(load("worker.neon", "settle_lock_identities").rstrip("\n"))
_NONE = sql.SQL("""), twin AS (
  SELECT NULL::text AS key, NULL::jsonb AS said, NULL::text AS code, false AS held WHERE false
), unsure AS (
  SELECT NULL::text AS key WHERE false
""")
_AMONG = sql.SQL(" WHERE d.action = 'promote' AND NOT EXISTS (SELECT FROM waits w WHERE w.key = d.key)")
_PLAIN = {
    **dict.fromkeys(("duplicates", "contended", "but", "flagged", "joined"), sql.SQL("")),
    "outcome": sql.SQL("'promoted'"),
    "errors": sql.SQL("'{}'"),
    "code": sql.SQL("NULL"),
    "warnings": sql.SQL("coalesce(t.warnings, '{}')"),
}
_PLAIN_COMPARED = {
    "joined": sql.SQL(" LEFT JOIN twin x USING (key)"),
    "warnings": sql.SQL("coalesce(t.warnings, '{}') || coalesce(x.said, '{}')"),
}
_PLAIN_HELD = {
    "but": sql.SQL(" EXCEPT SELECT key{key_cast} FROM twin EXCEPT SELECT key{key_cast} FROM unsure"),
    "flagged": sql.SQL(load("worker.neon", "settle_plain_flags")),
    "joined": sql.SQL(
        " LEFT JOIN twin x USING (key) LEFT JOIN kept k USING (key)"
        " WHERE NOT EXISTS (SELECT FROM unsure u WHERE u.key = t.key)"
    ),
    "outcome": sql.SQL("CASE WHEN x.key IS NULL THEN 'promoted' ELSE 'flagged' END"),
    "errors": sql.SQL("coalesce(x.said, '{{}}')"),
    "code": sql.SQL("x.code"),
    "warnings": sql.SQL("coalesce(t.warnings, '{{}}') - ARRAY(SELECT jsonb_object_keys(x.said))"),
}
"""Parts of the plain settlement: of one that compares nothing, of one that warns, and of one that holds."""
_IDENTITY = sql.SQL(
    "SELECT i.key, i.apart, {place} AS place, i.value FROM (SELECT d.key, d.apart, {form} AS value FROM todo d{among}"
    " OFFSET 0) i WHERE i.value <> ALL ({ignored})"
)
_OR = sql.SQL("\n  UNION ALL ")
_SAME = sql.SQL(
    "SELECT {place} AS place, m.{key}{key_text} AS key, {form} AS value FROM {master} m"
    " WHERE {indexed} = ANY (ARRAY(SELECT hash FROM identity WHERE place = {place}))"
)
_BUSY = sql.SQL(
    "\n  UNION ALL SELECT jsonb_array_elements_text("
    "nullif(current_setting('enrichment_worker.contended', true), '')::jsonb)"
)
_CONTENDED = sql.SQL(""",
  set_config('enrichment_worker.contended', (SELECT coalesce(jsonb_agg(DISTINCT i.key), '[]')
    FROM identity i JOIN tried t USING (hash) WHERE NOT t.locked)::text, true)""")
MOST = 1000
"""So many of these locks a settlement takes at most: the server has room for ``max_locks_per_transaction`` ×
``max_connections``, 6,400 by default, for everybody.
"""


def in_settlement(entity: Entity) -> dict[str, sql.Composable]:
    """What the settling statement has of them: its placeholders."""
    if not entity.alike:
        return {"duplicates": _NONE, "contended": sql.SQL("")}
    return {"duplicates": _found(entity, _AMONG), "contended": _BUSY}


def in_plain_settlement(
    entity: Entity, record: sql.Composable, updates: sql.Composable, data_i: sql.Composable
) -> dict[str, sql.Composable]:
    """What the plain settling statement has of them: its placeholders.

    Args:
        entity: the declaration.
        record: what is booked as the record.
        updates: the assignments to the invalid row's data columns.
        data_i: the data columns of the invalid row.
    """
    if not entity.alike:
        return {**_PLAIN, "booked": record}
    compared = {"duplicates": _found(entity, sql.SQL("")), "contended": _BUSY}
    if not entity.holds:
        return {**_PLAIN, **_PLAIN_COMPARED, **compared, "booked": record}
    names = {**key_sql(entity), "invalid": entity.invalid_table.sql, "invalid_updates": updates, "data_i": data_i}
    held = {name: part.format(**names) for name, part in _PLAIN_HELD.items()}
    return {**_PLAIN, **held, **compared, "booked": sql.SQL("coalesce(k.data, {})").format(record)}


def _found(entity: Entity, among: sql.SQL) -> sql.Composable:
    """The part that finds the duplicates among these of ``todo``."""
    identities = (
        _IDENTITY.format(
            place=sql.Literal(n), form=expression(one.of(f"(d.r).{in_sql(one.field)}")), among=among,
            ignored=expression(one.ignored),
        )
        for n, one in enumerate(entity.alike)
    )  # fmt: skip
    same = (
        _SAME.format(
            place=sql.Literal(n), **key_sql(entity), form=expression(one.of(f"m.{in_sql(one.master_column)}")),
            master=entity.master_table.sql, indexed=expression(one.indexed("m.")),
        )
        for n, one in enumerate(entity.alike)
    )  # fmt: skip
    return _FIND.format(
        identities=_OR.join(identities),
        same=_OR.join(same),
        fields=_texts([one.field for one in entity.alike]),
        says=_texts([messages.duplicate(one.form, held=entity.holds) for one in entity.alike]),
        holds=sql.Literal(entity.holds),
        code=sql.Literal(DUPLICATE_OF),
        most=sql.Literal(MAX_REASON),
    )


def lock_statement(entity: Entity) -> sql.Composed:
    """The statement that locks what a settlement will touch, and what records would be duplicates by."""
    return _LOCK.format(
        invalid=entity.invalid_table.sql, master=entity.master_table.sql, **key_sql(entity), **_in_lock(entity)
    )


def _in_lock(entity: Entity) -> dict[str, sql.Composable]:
    if not entity.alike:
        return {"identities": sql.SQL(""), "contended": sql.SQL("")}
    blank, numbered = sql.SQL(" "), list(enumerate(entity.alike))
    when, known = sql.SQL("WHEN {} THEN {}"), sql.SQL("WHEN {} THEN v.value <> ALL ({})")
    identities = _LOCK_IDENTITIES.format(
        seeds=sql.Literal([one.seed for one in entity.alike]) + sql.SQL("::bigint[]"),
        forms=blank.join(when.format(sql.Literal(n), expression(one.of("k.text"))) for n, one in numbered),
        known=blank.join(known.format(sql.Literal(n), expression(one.ignored)) for n, one in numbered),
    )
    return {"identities": identities, "contended": _CONTENDED}


def _texts(texts: Sequence[str]) -> sql.Composable:
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(map(sql.Literal, texts)))


def identities(entity: Entity, batch: Sequence[Judged]) -> Mapping[str, Any]:
    """The parameters of the locking statement: what the records that are to be promoted are compared by."""
    if not entity.alike:
        return {}
    found = [
        (one.key, place, value)
        for one in batch
        if one.action is Action.PROMOTE
        for place, alike in enumerate(entity.alike)
        if (value := one.merged.data.get(alike.field)) is not None
    ]
    return {
        "promoted": Texts.of([key for key, _, _ in found]),
        "places": [place for _, place, _ in found],
        "texts": Texts.of([str(text) for _, _, text in found]),
    }


def parts_of(entity: Entity, batch: Sequence[Judged]) -> list[Sequence[Judged]]:
    """The batch in parts for which the server has room for the locks; nearly always one."""
    size = MOST // len(entity.alike) if entity.alike else len(batch)
    return [batch[start : start + size] for start in range(0, len(batch), max(1, size))]
