"""How far the pull of an entity has come in Neon: the next one reads what changed since, and whatever commits late.

A pull looks for rows by their ``updated_at`` and ``id``, which a transaction gives them when it begins or writes and
shows when it commits. So each pull remembers which transactions were open while it read. When one of them is gone, the
next pull looks for what was written since by the rows' ``xmin``, whatever dates and ids they bear. Every role sees who
has a transaction open; since when, and what it does, is shown to few, and nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

MARGIN = timedelta(seconds=2)
"""Between the moment that a transaction takes for its beginning, and the one in which others see that it is open."""
XIDS = 2**32
"""A row, and a lock, say a transaction's number without what is above its 32 bits."""


@dataclass(frozen=True, slots=True)
class Open:
    """A transaction in Neon that is open. Of what it has written, others see nothing yet."""

    who: str
    """What tells it from every other one, before and after."""
    xid: int
    """The rows that it writes have this ``xmin``, or a later one."""
    name: str
    """For the operator, as ``pg_stat_activity`` and ``pg_prepared_xacts`` have it: nobody's name, no text of his."""
    since: str
    """When it was open at the latest, in ISO 8601."""
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What Neon said at one moment."""

    at: datetime
    last_id: int
    next_xid: int
    """No transaction had this number yet, nor a later one."""
    open: tuple[Open, ...]


@dataclass(frozen=True, slots=True)
class Horizon:
    """What the next incremental pull starts from."""

    position: datetime
    """A transaction that begins from now on dates its rows after this moment. UTC."""
    last_id: int
    """It gives them higher ids."""
    next_xid: int = 0
    open: tuple[Open, ...] = ()
    """The transactions that began before, and that nothing was read of."""

    def remembered(self) -> dict[str, Any]:
        """What is kept of the transactions, as JSON."""
        return {"next_xid": self.next_xid, "open": [asdict(one) for one in self.open]}

    def shown(self, *, but: Iterable[Open] = ()) -> list[dict[str, str]]:
        """The open transactions, but for some, as an operator reads of them."""
        others = {one.who for one in but}
        return [{"transaction": one.name, "since": one.since} for one in self.open if one.who not in others]

    def again(self, before: Horizon | None) -> Horizon | None:
        """Where the next pull starts if it is to read again what this one read, ``before`` being where this one did."""
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
    """Where a transaction that was open is gone: also all that was written since it was given its number."""


def recall(position: datetime | None, last_id: int | None, kept: Mapping[str, Any]) -> Horizon | None:
    """The horizon from what was kept of it."""
    if position is None:
        return None
    some = tuple(
        Open(one["who"], one["xid"], one["name"], one["since"], one["prepared"]) for one in kept.get("open", ())
    )
    return Horizon(position, last_id or 0, kept.get("next_xid", 0), some)


def advance(before: Horizon | None, first: Observation, last: Observation) -> tuple[Since | None, Horizon]:
    """What this pull reads, and where the next one starts. Pure.

    Args:
        before: where this pull starts; None where that is not known.
        first: a look at Neon before the pull reads a row.
        last: the same or a later one, also before it reads a row.

    Returns:
        None for all rows.
    """
    began = {one.who for one in first.open}
    was = {one.who: one for one in before.open} if before else {}
    # One that was prepared in between has another name by now, and may have begun before.
    still = tuple(
        replace(one, since=was[one.who].since) if one.who in was else one
        for one in last.open
        if one.who in began or one.prepared
    )
    horizon = Horizon(first.at - MARGIN, first.last_id, last.next_xid, still)
    if before is None or first.next_xid < before.next_xid:  # numbers that are given anew: an earlier state is back
        return None, horizon
    gone = was.keys() - {one.who for one in still}
    return Since(before.position, before.last_id, min((was[who].xid for who in gone), default=None)), horizon


def open_ones(
    server: str,
    at: datetime,
    next_xid: int,
    running: Iterable[int],
    holders: Sequence[Mapping[str, Any]],
    prepared: Iterable[Mapping[str, Any]],
) -> tuple[Open, ...]:
    """The open transactions of this database from what Neon says of them. Pure.

    Args:
        server: tells this life of the server from others, in which names were given anew.
        at: now, by Neon's clock.
        next_xid: the number that the next transaction gets which writes.
        running: the numbers of those that have one, in all databases.
        holders: those that hold a lock on their own name, seen after the numbers.
        prepared: the prepared ones of this database, seen after the holders.
    """
    known = {_whole(xid, next_xid) for one in holders for xid in one["xids"]}
    # Whoever got a number but not yet the lock on it may be any of those that have none.
    unnumbered = min((xid for xid in running if xid not in known), default=next_xid)
    return (
        *(
            Open(
                who=f"{server} {one['pid']} {one['vxid']}",
                xid=min((_whole(xid, next_xid) for xid in one["xids"]), default=unnumbered),
                name=f"process {one['pid']}",
                since=_iso(one["since"] or at),
            )
            for one in holders
            if one["here"]
        ),
        *(
            Open(
                who=f"prepared {one['xid']} {one['gid']}",
                xid=_whole(one["xid"], next_xid),
                name=f"prepared transaction {one['xid']}",
                since=_iso(one["since"]),
                prepared=True,
            )
            for one in prepared
        ),
    )


def _whole(xid: int, next_xid: int) -> int:
    """The number of a running transaction with what is above its 32 bits: it is less than half of them away."""
    behind = (next_xid - xid) % XIDS
    return next_xid - behind + (XIDS if behind >= XIDS // 2 else 0)


def _iso(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat(timespec="seconds")
