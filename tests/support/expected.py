"""What the people of the state machine know: what each of them wrote, and what the workspace must show of it.

The workspace's part is remembered with each backup of it, and Neon's part with each copy of that, so that a restore
takes back of this what it takes back of the database.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from declared import ENTITIES
from oracle import Known

from worker.entities.declaration import Entity

DERIVED = {"domain", "full_name", "first_name", "last_name"}
"""Columns that normalising fills in from others."""

HOSTS = {"good.example", "better.example"}
"""Domains that a website brings with it."""


class _Nothing(Enum):
    """An enumeration's member stays itself when it is copied."""

    NOTHING = "nothing"


NOTHING = _Nothing.NOTHING


@dataclass
class Cell:
    """A cell of the workspace."""

    typed: Any = NOTHING
    """What an enricher typed last, if nothing of Neon's has replaced it."""
    maybe: set[Any] = field(default_factory=set)
    """What else may stand there: Neon's values; of a cell in which nobody typed, what must stand there."""
    before: Cell | None = None
    """What a restored workspace had here, if it does not yet show what Neon knows of the enricher's."""
    reached: Any = NOTHING
    """What Neon knows, whatever was typed here since the restore."""
    earlier: set[Any] = field(default_factory=set)
    """What was typed here since the last quiet moment: it may have reached Neon without an acknowledgement."""
    since: list[Any] = field(default_factory=list)
    """What was typed here after the backup from which the workspace was restored: an older Neon may know any of it."""

    def accepts(self, entity: Entity, name: str, value: Any) -> bool:
        if name in DERIVED and (self.typed is NOTHING or None in self.maybe):
            return True
        if name == "domain" and value in HOSTS:
            return True
        wanted = self.maybe if self.typed is NOTHING else {self.typed, *self.maybe}
        return any(fits(entity, name, value, one) for one in wanted)


def fits(entity: Entity, name: str, value: Any, wanted: Any) -> bool:
    """Whether it is the value, as it was typed or as it is when it was normalised."""
    return value == wanted or value == entity.rules.normalise({name: wanted})[name]


Cells = dict[str, dict[str, Cell]]


@dataclass
class Typed:
    """What an enricher typed into a row."""

    values: Mapping[str, Any]
    base: Mapping[str, Any]
    """What the row knew Neon to hold."""


@dataclass
class Theirs:
    """What Neon's people wrote there: what they know of each record."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Key → the values that they gave the record last. Who has no entry was never there."""
    deleted: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)
    """Records that were brought into the invalid table a second time."""
    foreign: set[str] = field(default_factory=set)
    """Records that somebody else put into the master table."""
    pruned: set[str] = field(default_factory=set)
    """Records whose ledger rows are so old that retention removes them."""


@dataclass
class Backup:
    """What was known when the workspace was copied, and what was typed since."""

    cells: Cells
    theirs: Theirs
    forgotten: set[str]
    """Records of which Neon was made to forget since what the rows of this backup were told."""
    since: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    """What was typed after it. What Neon knows of another history, from before an earlier restore, is in ``ever_typed``."""


def entity_of(key: str) -> Entity:
    return ENTITIES["company" if key.startswith("04.04.01.") else "people"]


class Expected:
    """What must be found."""

    def __init__(self) -> None:
        self.theirs = Theirs()
        self.cells: Cells = {}
        self.forgotten: set[str] = set()
        self.ever: set[str] = set()
        """All keys that there ever were."""
        self.old: set[str] = set()
        """Records whose rows leave the workspace if they had been promoted when time passed."""
        self.backups: dict[int, Backup] = {}
        self.ever_typed: dict[tuple[str, str], list[Any]] = {}
        self.written: list[tuple[str, str, Any]] = []
        """Key, column and value of all that Neon's people wrote, in order."""

    def known(self) -> Known:
        absent = (self.ever - self.theirs.values.keys()) | self.theirs.deleted
        return Known(absent, self.theirs.again, self.forgotten, self.theirs.pruned, self.theirs.foreign)

    # -- what people do ----------------------------------------------------------------------------

    def inserted(self, key: str, values: Mapping[str, Any]) -> None:
        """A record came into the invalid table, for the first time or again."""
        lost = key in self.ever and key not in self.theirs.values
        if key in self.theirs.values and key not in self.theirs.deleted:
            self.theirs.again.add(key)
        self.ever.add(key)
        self.theirs.deleted.discard(key)
        self.theirs.values[key] = dict.fromkeys(entity_of(key).columns) | dict(values)
        for name, value in self.theirs.values[key].items():
            self.written.append((key, name, value))
            cell = self.cells.setdefault(key, {}).setdefault(name, Cell())
            # Of a lost record all in which the row differs is the enricher's.
            if not (lost and cell.typed is not NOTHING):
                cell.maybe.add(value)

    def corrected(self, key: str, values: Mapping[str, Any]) -> None:
        """Neon's people wrote into a record."""
        self.theirs.values[key] |= values
        for name, value in values.items():
            self.written.append((key, name, value))
            if cell := self.cells.get(key, {}).get(name):
                cell.maybe.add(value)

    def theirs_now(self, key: str) -> None:
        """Somebody else put it into the master table."""
        self.theirs.foreign.add(key)
        self.theirs.deleted.discard(key)
        self.theirs.values.setdefault(key, {})
        self.ever.add(key)

    def time_passed(self) -> None:
        """All that happened is old: what was promoted leaves the workspace, and all the ledger."""
        self.theirs.pruned |= self.ever
        self.old |= self.ever

    def typed(self, key: str, it: Typed, status: str, since: int | None = None) -> None:
        """An enricher typed into a row, and it took effect.

        Args:
            key: the record.
            it: what was typed.
            status: the status that was set.
            since: how much had been written in Neon when it was typed, where it was committed later: what was written
                there in between is newer.
        """
        newer = [] if since is None else self.written[since:]
        for name, value in it.values.items():
            maybe = {other for one, of, other in newer if (one, of) == (key, name)}
            last = self.cells.get(key, {}).get(name, Cell())
            reached, earlier = last.reached, last.earlier | ({last.typed} - {NOTHING})
            if any(fits(entity_of(key), name, value, one) for one in (it.base.get(name), *earlier)):
                # He is back at what Neon held: what Neon has made of it since is no conflict.
                maybe.add(self.theirs.values.get(key, {}).get(name))
                # In a backup that is still to be told what had reached Neon, it is not told from a cell left alone.
                maybe |= {reached} - {NOTHING}
            self.cells.setdefault(key, {})[name] = Cell(value, maybe, reached=reached, earlier=earlier)
            self.ever_typed.setdefault((key, name), []).append(value)
            for backup in self.backups.values():
                backup.since.setdefault((key, name), []).append(value)
        for cell in self.cells.get(key, {}).values():
            # He goes on with a row of a backup before it is told what had reached Neon. What he sees there, typed and
            # not carried when the backup was made, is not told from what was typed since.
            older = cell.before
            while older:
                cell.maybe |= {older.typed} - {NOTHING}
                older = older.before
        if status == "complete":
            self.forgotten.discard(key)

    # -- what befalls the databases ----------------------------------------------------------------

    def neon_moment(self) -> Theirs:
        return copy.deepcopy(self.theirs)

    def workspace_moment(self) -> Backup:
        return Backup(copy.deepcopy(self.cells), copy.deepcopy(self.theirs), set(self.forgotten))

    def neon_restored(
        self, moment: Theirs, there: Mapping[str, Mapping[str, Any]], ledger: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Neon's people lost what they wrote since. What an enricher typed is to be there still.

        Args:
            moment: what they had written then.
            there: the records that lie in Neon's invalid tables now: key → values.
            ledger: what Neon knows to have been carried of each record after the version that its row has: this Neon
                was left in an earlier restore, and comes back.
        """
        before, self.theirs = self.theirs, copy.deepcopy(moment)
        for key, values in self.theirs.values.items():
            for name, value in values.items():
                cell = self.cells.get(key, {}).get(name)
                for one in (cell, *(backup.cells.get(key, {}).get(name) for backup in self.backups.values())):
                    if one and one.before:
                        # Neither knows it any more, unless the row was told in between; nor, where the backup was made
                        # of a row that had still to be told, what that was to be told.
                        one.maybe.add(value)
                        older: Cell | None = one.before
                        one.maybe |= set(one.since)
                        while older:
                            one.maybe |= older.maybe | {*older.since, older.typed} - {NOTHING}
                            older = older.before
                if cell and not cell.before and (cell.typed is NOTHING or cell.maybe):
                    cell.maybe |= {value, before.values.get(key, {}).get(name)}
        self.forgotten |= self.theirs.values.keys()
        for backup in self.backups.values():
            backup.forgotten |= self.theirs.values.keys()
        for key, cells in self.cells.items():
            for name, cell in cells.items():
                cells[name] = self._told(key, name, cell, there, ledger, cell.since)

    def workspace_restored(
        self, backup: Backup, here: Mapping[str, Any], there: Mapping[str, Mapping[str, Any]],
        ledger: Mapping[str, Mapping[str, Any]],
    ) -> None:  # fmt: skip
        """What was typed since the backup is gone where it had not reached Neon, and nothing else.

        Args:
            backup: what was known then, and what was typed since.
            here: the rows of the restored workspace, by key.
            there: the records that lie in Neon's invalid tables now: key → values.
            ledger: what was carried last of each record: key → values.
        """
        self.forgotten |= backup.forgotten
        newer, self.cells = self.cells, copy.deepcopy(backup.cells)
        for key in [key for key in self.cells if key not in here]:
            del self.cells[key]  # it is pulled anew, as Neon has it
        for key, cells in self.cells.items():
            for name, cell in list(cells.items()):
                now = there.get(key, {}).get(name, NOTHING)
                theirs = self.theirs.values.get(key, {}).get(name, NOTHING)
                told = self._told(key, name, cell, there, ledger, backup.since.get((key, name), []))
                if told is not cell:
                    cells[name] = told
                    continue
                cell.maybe |= {one for one in (now, theirs) if one is not NOTHING and cell.typed is NOTHING}
                written = theirs is not NOTHING and theirs != backup.theirs.values.get(key, {}).get(name, NOTHING)
                others = newer.get(key, {}).get(name, cell).maybe
                if written or others:
                    cell.maybe |= others | {one for one in (now, theirs) if one is not NOTHING}

    def _told(
        self, key: str, name: str, cell: Cell, there: Mapping[str, Mapping[str, Any]],
        ledger: Mapping[str, Mapping[str, Any]], since: list[Any],
    ) -> Cell:  # fmt: skip
        """The cell that is to be told what a newer version had carried to Neon; else the same cell."""
        entity, reached = entity_of(key), ledger.get(key, {}).get(name, NOTHING)
        now = there.get(key, {}).get(name, NOTHING)
        mine = [
            one
            for one in self.ever_typed.get((key, name), [])
            if reached is not NOTHING and fits(entity, name, reached, one)
        ]
        if not mine:
            return cell
        disagrees = now is not NOTHING and not fits(entity, name, now, mine[-1])
        return Cell(mine[-1], {now} if disagrees else set(), before=cell, reached=mine[-1], since=since)

    # -- what must hold ----------------------------------------------------------------------------

    def compare(self, here: Mapping[str, Mapping[str, Any]], there: Mapping[str, Mapping[str, Any]]) -> None:
        """Every cell shows what was typed there last, or what Neon's people wrote."""
        for key, cells in list(self.cells.items()):
            entity = entity_of(key)
            typed = {name: cell.typed for name, cell in cells.items() if cell.typed is not NOTHING and not cell.maybe}
            row = here.get(key)
            if row is None:  # withdrawn, or not pulled yet when the backup was made, or older than retention keeps
                assert key not in there or not there[key]["invalid"], f"{key} has no row"
                assert not typed or key in self.old, f"{key} was edited and is gone: {typed}"
                del self.cells[key]
                continue
            for name, cell in cells.items():
                value = row["data"][name]
                # Of a name, the enricher's first and Neon's last may both count: the whole follows its parts.
                whole = name == "full_name" and value == f"{row['data']['first_name']} {row['data']['last_name']}"
                assert whole or cell.accepts(entity, name, value), (
                    f"{key}: {name} is {value!r}: typed {cell.typed!r}, Neon's {cell.maybe}; {row}; {there.get(key)}"
                )
        # From here on: what stands there now.
        for key, row in here.items():
            entity = entity_of(key)
            cells = self.cells.setdefault(key, {})
            for name, value in row["data"].items():
                cell = cells.setdefault(name, Cell())
                if cell.typed is not NOTHING and fits(entity, name, value, cell.typed):
                    cell.maybe, cell.before, cell.reached, cell.earlier, cell.since = set(), None, NOTHING, set(), []
                else:
                    cells[name] = Cell(maybe={value})
