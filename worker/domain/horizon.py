"""How far the pull of an entity has read in Neon: the next pull reads what changed since, and what committed late.

A pull finds rows by their ``updated_at`` and ``id``. A transaction sets these when it begins or writes, but the rows
become visible only when it commits. So each pull remembers which transactions were open while it read. Once one of them
has ended, the next pull finds what was written since by the rows' ``xmin``, whatever their dates and ids. Every role
can see which transactions are open. Few can see their age and queries, and nothing here depends on these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

MARGIN = timedelta(seconds=2)
"""At most this long passes between a transaction's start time and the moment when others see it as open."""
XIDS = 2**32
"""Rows and locks show only the low 32 bits of a transaction id."""


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """An open transaction in Neon. What it has written is not visible to others yet."""

    who: str
    """Identifies it among all transactions, past and future."""
    xid: int
    """The rows that it writes have this ``xmin`` or a later one."""
    name: str
    """For the operator, as in ``pg_stat_activity`` and ``pg_prepared_xacts``: no user names, no query text."""
    since: str
    """It was open at this time or earlier. ISO 8601."""
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What Neon showed at one moment."""

    at: datetime
    last_id: int
    next_xid: int
    """No transaction had this id yet, or a later one."""
    open: tuple[OpenTransaction, ...]


@dataclass(frozen=True, slots=True)
class Horizon:
    """Where the next incremental pull starts."""

    position: datetime
    """A transaction that begins from now on gives its rows later dates. UTC."""
    last_id: int
    """It gives its rows higher ids."""
    next_xid: int = 0
    open: tuple[OpenTransaction, ...] = ()
    """The transactions that began before, of which nothing was read."""

    def as_json(self) -> dict[str, Any]:
        """What is stored about the transactions, as JSON."""
        return {"next_xid": self.next_xid, "open": [asdict(one) for one in self.open]}

    def listed(self, *, excluding: Iterable[OpenTransaction] = ()) -> list[dict[str, str]]:
        """The open transactions as the operator sees them, except some."""
        others = {one.who for one in excluding}
        return [{"transaction": one.name, "since": one.since} for one in self.open if one.who not in others]

    def to_repeat(self, before: Horizon | None) -> Horizon | None:
        """Where the next pull starts if it must repeat this one, which started at ``before``."""
        if before is None:
            return None
        both = {one.who: one for one in (*self.open, *before.open)}
        return replace(before, next_xid=self.next_xid, open=tuple(both.values()))


@dataclass(frozen=True, slots=True)
class Since:
    """What an incremental pull reads."""

    position: datetime
    last_id: int
    xid: int | None = None
    """If a transaction that was open has ended: also read all that was written since it got this id."""


def recall(position: datetime | None, last_id: int | None, kept: Mapping[str, Any]) -> Horizon | None:
    """The horizon from its stored form."""
    if position is None:
        return None
    found = tuple(
        OpenTransaction(one["who"], one["xid"], one["name"], one["since"], one["prepared"])
        for one in kept.get("open", ())
    )
    return Horizon(position, last_id or 0, kept.get("next_xid", 0), found)


def advance(before: Horizon | None, first: Observation, last: Observation) -> tuple[Since | None, Horizon]:
    """What this pull reads, and where the next pull starts. Pure.

    Args:
        before: where this pull starts; None if that is not known.
        first: observed before the pull reads a row.
        last: the same observation or a later one, also before it reads a row.

    Returns:
        None as the first value means all rows.
    """
    began = {one.who for one in first.open}
    was = {one.who: one for one in before.open} if before else {}
    # A transaction that was prepared in between now has another name, and may have begun before.
    still = tuple(
        replace(one, since=was[one.who].since) if one.who in was else one
        for one in last.open
        if one.who in began or one.prepared
    )
    horizon = Horizon(first.at - MARGIN, first.last_id, last.next_xid, still)
    if before is None or first.next_xid < before.next_xid:  # ids are given again: Neon was restored
        return None, horizon
    gone = was.keys() - {one.who for one in still}
    return Since(before.position, before.last_id, min((was[who].xid for who in gone), default=None)), horizon


def list_open(
    server: str,
    at: datetime,
    next_xid: int,
    running: Iterable[int],
    holders: Sequence[Mapping[str, Any]],
    prepared: Iterable[Mapping[str, Any]],
) -> tuple[OpenTransaction, ...]:
    """The open transactions of this database, from what Neon shows. Pure.

    Args:
        server: identifies this run of the server: after a restart, names are given again.
        at: now, by Neon's clock.
        next_xid: the id that the next writing transaction gets.
        running: the ids of the running transactions that have one, in all databases.
        holders: the sessions that hold a lock on their own transaction, read after the ids.
        prepared: the prepared transactions of this database, read after the holders.
    """
    known = {_full_xid(xid, next_xid) for one in holders for xid in one["xids"]}
    # A transaction that has an id but not yet the lock on it may be any of those without an id.
    unnumbered = min((xid for xid in running if xid not in known), default=next_xid)
    return (
        *(
            OpenTransaction(
                who=f"{server} {one['pid']} {one['vxid']}",
                xid=min((_full_xid(xid, next_xid) for xid in one["xids"]), default=unnumbered),
                name=f"process {one['pid']}",
                since=_iso(one["since"] or at),
            )
            for one in holders
            if one["here"]
        ),
        *(
            OpenTransaction(
                who=f"prepared {one['xid']} {one['gid']}",
                xid=_full_xid(one["xid"], next_xid),
                name=f"prepared transaction {one['xid']}",
                since=_iso(one["since"]),
                prepared=True,
            )
            for one in prepared
        ),
    )


def _full_xid(xid: int, next_xid: int) -> int:
    """The full id of a running transaction from its low 32 bits: it is less than 2^31 ids away."""
    behind = (next_xid - xid) % XIDS
    return next_xid - behind + (XIDS if behind >= XIDS // 2 else 0)


def _iso(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat(timespec="seconds")
