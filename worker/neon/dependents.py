"""Neon: which rows reference a row by foreign keys, at any depth. Knows no entities and no rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from worker.entities.worker_tables import LEDGER, Table
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import Step, send

Event = frozenset[str] | None
"""What happens to a row: these columns get other values, or, if None, it is deleted."""
MOST = 100_000
"""The search ends after this many rows."""
NAMED = 20
"""At most this many rows of a table are named in the text; the data list all."""

_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT", "r": "RESTRICT", "a": "NO ACTION"}
"""https://www.postgresql.org/docs/current/catalog-pg-constraint.html; the most destructive comes first."""
_RANK = {action: rank for rank, action in enumerate(_ACTIONS)}


@dataclass(frozen=True)
class Dependent:
    """A row that would be deleted or changed, or that forbids the change."""

    table: str
    key: Mapping[str, str | None]
    """Its primary key; without one, the columns that refer, and the ``ctid``."""
    action: str
    """Such as ``ON DELETE CASCADE``."""
    constraint: str


@dataclass(frozen=True)
class Hidden:
    """A table that may hold such rows, but that this role cannot read."""

    table: str
    hint: str


@dataclass
class Dependents:
    """The rows that reference a row."""

    rows: list[Dependent] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    all: bool = True
    """Whether these are all; else there are more than ``MOST``."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.hidden)

    def in_words(self) -> str:
        """One line: the keys of the first rows of each table, and how many more there are."""
        parts = []
        if self.rows:
            count = f"{len(self.rows):,}" if self.all else f"more than {MOST:,}"
            hang = "row hangs" if len(self.rows) == 1 else "rows hang"
            parts.append(f"{count} {hang} on its master row: {_listed(self.rows)}")
        parts += [f"it cannot see what hangs on it in {one.table}: {one.hint}" for one in self.hidden]
        return "; ".join(parts)


def _listed(rows: Iterable[Dependent]) -> str:
    by_table: dict[tuple[str, str], list[Dependent]] = {}
    for one in rows:
        by_table.setdefault((one.table, one.action), []).append(one)
    parts = []
    for (table, action), group in by_table.items():
        names = ", ".join(_named(one.key) for one in group[:NAMED])
        more = f" and {len(group) - NAMED:,} more" if len(group) > NAMED else ""
        parts.append(f"{_plain(table)}, {_becomes(action)}: {names}{more}")
    return "; ".join(parts)


def _becomes(action: str) -> str:
    if action.endswith(("NO ACTION", "RESTRICT")):
        return f"for which {action} refuses"
    return f"which {action} would {'delete' if action == 'ON DELETE CASCADE' else 'change'}"


def _named(key: Mapping[str, str | None]) -> str:
    return " ".join(f"{_plain(name)}={_plain(value)}" for name, value in key.items())


def _plain(text: str | None) -> str:
    """Foreign text, shortened and safe for a terminal."""
    if text is None:
        return "NULL"
    text = text if len(text) <= 100 else text[:100] + "…"
    return text if text.isprintable() else repr(text)


@dataclass(frozen=True)
class Relation:
    """A table as statements name it; for a partition, its parent, because that is what the role may read."""

    table: Table
    partitioned: bool

    @property
    def sql(self) -> sql.Composed:
        """For FROM. A child table that is no partition does not take part in its parent's foreign keys."""
        return sql.SQL("{}" if self.partitioned else "ONLY {}").format(self.table.sql)


@dataclass(frozen=True)
class RowLocation:
    """The physical location of a row."""

    relation: Relation
    leaf: int
    """Its ``tableoid``: in a partitioned table, the partition."""
    ctid: str


@dataclass
class SimulatedUndo:
    """What a dry run has undone so far in a table: the rows that would be gone, or back to their old values."""

    key: str
    """The name of the key column."""
    keys: list[str] = field(default_factory=list)
    restored: list[int] = field(default_factory=list)
    """The ids of the ledger rows that hold the old values."""


SimulatedUndos = Mapping[Table, SimulatedUndo]


@dataclass(frozen=True)
class _ForeignKey:
    """A foreign key, seen from the referenced table."""

    name: str
    relation: Relation
    on_delete: str
    on_update: str
    columns: Sequence[str]
    referenced: Sequence[str]
    cleared: Sequence[str]
    """Set by ON DELETE SET NULL or SET DEFAULT, if that is not all columns."""
    operators: Sequence[str]
    collations: Sequence[str | None]
    key: Sequence[str]
    hints: Sequence[str]
    """What would let this role see the rows; empty if it can."""

    def action(self, event: Event) -> str | None:
        """Its action when this happens to a referenced row; None for no action."""
        if event is None:
            return self.on_delete
        return self.on_update if event.intersection(self.referenced) else None

    def follows(self, event: Event) -> Event | bool:
        """What then happens to the referencing rows; False for nothing."""
        action = self.action(event)
        if action == "c" and event is None:
            return None
        if action == "c" and event is not None:
            pairs = zip(self.columns, self.referenced, strict=True)
            return frozenset(column for column, referenced in pairs if referenced in event)
        if action in ("n", "d"):
            return frozenset((self.cleared if event is None else ()) or self.columns)
        return False

    def dependent(self, row: Mapping[str, Any], event: Event) -> Dependent:
        names = self.key or [*self.columns, "ctid"]
        word = "DELETE" if event is None else "UPDATE"
        action = f"ON {word} {_ACTIONS[self.action(event) or 'a']}"
        return Dependent(str(self.relation.table), dict(zip(names, row["key"], strict=True)), action, self.name)

    def find_referencing(self, relation: Relation, leaf: int, rows: Sequence[str], simulated: SimulatedUndos) -> Step:
        """The step that finds the rows that reference these rows of a table."""
        joined = sql.SQL(" AND ").join(
            sql.SQL("{} {} {} {}").format(
                sql.Identifier("p", referenced),
                sql.SQL(operator),
                sql.Identifier("f", column),
                sql.SQL(f"COLLATE {collation}" if collation else ""),
            )
            for column, referenced, operator, collation in zip(
                self.columns, self.referenced, self.operators, self.collations, strict=True
            )
        )
        names = [sql.Identifier("f", name) for name in self.key or self.columns]
        texts = [sql.SQL("{}::text").format(name) for name in names] + ([] if self.key else [sql.SQL("f.f_row::text")])
        source, params = self._source(simulated)
        statement = sql.SQL(
            "SELECT f.f_leaf::bigint AS leaf, f.f_row::text AS ctid, ARRAY[{texts}] AS key"
            " FROM {relation} p JOIN {source} f ON {joined}"
            " WHERE p.tableoid = %(leaf)s::bigint::oid AND p.ctid = ANY (%(rows)s::tid[])"
            " ORDER BY {names} LIMIT %(most)s"
        ).format(
            texts=sql.SQL(", ").join(texts), relation=relation.sql, source=source, joined=joined,
            names=sql.SQL(", ").join(names),
        )  # fmt: skip
        return statement, {"leaf": leaf, "rows": list(rows), "most": MOST + 1, **params}

    def _source(self, simulated: SimulatedUndos) -> tuple[sql.Composable, dict[str, Any]]:
        """The rows that may reference: as they are, or as they would be after what a dry run has undone."""
        names = [sql.Identifier("f", name) for name in dict.fromkeys([*self.key, *self.columns])]
        listed = sql.SQL(", ").join(names)
        rows = sql.SQL("SELECT f.tableoid AS f_leaf, f.ctid AS f_row, {} FROM {} f").format(listed, self.relation.sql)
        simulation = simulated.get(self.relation.table)
        if simulation is None:
            return sql.SQL("({})").format(rows), {}
        source = sql.SQL(
            "({rows} WHERE f.{key}::text <> ALL (%(gone)s) UNION ALL SELECT o.tableoid, o.ctid, {listed}"
            " FROM {ledger} l JOIN {relation} o ON o.{key}::text = l.key"
            " CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, l.master_before) f"
            " WHERE l.id = ANY (%(restored)s))"
        ).format(
            rows=rows, listed=listed, ledger=LEDGER.sql, relation=self.relation.sql, table=self.relation.table.sql,
            key=sql.Identifier(simulation.key),
        )  # fmt: skip
        return source, {"gone": simulation.keys, "restored": simulation.restored}


_FOREIGN_KEYS = statement("worker.neon", "foreign_keys")


async def dependents(connection: Connection, root: RowLocation, event: Event, simulated: SimulatedUndos) -> Dependents:
    """Find the rows that a deletion or an update of ``root`` would touch, or that would forbid it, within the open
    transaction. If ``root`` is locked FOR UPDATE, no other row can start to reference it.

    Args:
        connection: to Neon.
        root: the row.
        event: what will happen to it.
        simulated: by table, what a dry run has undone before.

    Raises:
        psycopg.Error: the search failed.
    """
    found: dict[tuple[int, str], tuple[int, Dependent]] = {}
    hidden: dict[str, Hidden] = {}
    links: dict[int, list[_ForeignKey]] = {}
    visited: set[tuple[int, str, Event]] = {(root.leaf, root.ctid, event)}
    frontier: dict[tuple[Relation, int, Event], list[str]] = {(root.relation, root.leaf, event): [root.ctid]}
    while frontier and len(found) <= MOST:
        await _read_foreign_keys(connection, links, {leaf for _, leaf, _ in frontier})
        asked: list[tuple[_ForeignKey, Event, Step]] = []
        for (relation, leaf, happens), rows in frontier.items():
            for link in links[leaf]:
                if link.action(happens) is None:
                    continue
                if link.hints:
                    table = str(link.relation.table)
                    hidden[table] = Hidden(table, "; ".join(link.hints))
                    continue
                asked.append((link, happens, link.find_referencing(relation, leaf, rows, simulated)))
        results = await send(connection, *(step for *_, step in asked)) if asked else []
        frontier = {}
        for (link, happens, _), result in zip(asked, results, strict=True):
            follows, rank = link.follows(happens), _RANK[link.action(happens) or "a"]
            for row in result.fetchall():
                where = row["leaf"], row["ctid"]
                if where == (root.leaf, root.ctid):
                    continue
                if where not in found or found[where][0] > rank:
                    found[where] = rank, link.dependent(row, happens)
                if not isinstance(follows, bool) and (*where, follows) not in visited:
                    visited.add((*where, follows))
                    frontier.setdefault((link.relation, row["leaf"], follows), []).append(row["ctid"])
    all_rows = [one for _, one in found.values()]
    return Dependents(all_rows[:MOST], list(hidden.values()), all=len(all_rows) <= MOST)


async def _read_foreign_keys(
    connection: Connection, links: dict[int, list[_ForeignKey]], leaves: Iterable[int]
) -> None:
    """Read the foreign keys that reference these tables, unless they are known."""
    new = [leaf for leaf in leaves if leaf not in links]
    if not new:
        return
    links.update({leaf: [] for leaf in new})
    for link in (await send(connection, (_FOREIGN_KEYS, {"leaves": new})))[0].fetchall():
        relation = Relation(Table(link.pop("schema"), link.pop("table")), link.pop("partitioned"))
        links[link.pop("leaf")].append(_ForeignKey(relation=relation, **link))
