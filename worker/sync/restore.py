"""A database that was restored to an earlier moment: recognised before a pull trusts a snapshot, and brought together
with the other. Promotions that Neon forgot take effect again, as they were carried; what else it forgot of the
enricher's counts as an edit. A restored workspace is told from the ledger. Knows no rules of validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
import structlog

from worker.domain import messages
from worker.domain.messages import LEDGER as LEDGER_NOTES
from worker.domain.model import Code, Judged, NoteCode, Outcome, Status, moment, utc_now
from worker.entities.declaration import Entity
from worker.neon import invalid, ledger
from worker.neon.invalid import Entry, InvalidRow, Run
from worker.neon.ledger import Counts, Standing
from worker.postgres.connection import Connection
from worker.postgres.transaction import Step
from worker.supabase import queue, receipts, workspace
from worker.supabase.bisect import Refusals, in_parts
from worker.supabase.position import Position, read_position, restored_in_words
from worker.supabase.queue import Reply, Row
from worker.supabase.workspace import Refresh
from worker.sync.acknowledge import acknowledge
from worker.sync.catch_up import CaughtUp, catch_up, newer_than, older_than_carried
from worker.sync.databases import Databases
from worker.sync.deliver import keys_with, outcome_events, remember
from worker.sync.judging import judge
from worker.sync.replies import reply_to
from worker.sync.settling import complain, settle_batch

log = structlog.get_logger("worker.restore")


@dataclass
class Comparison:
    """What the two databases were found to have forgotten of each other, and what was done about it."""

    entity: str
    counts: Counts
    side: str | None = None
    """Which of them was restored: ``Neon``, ``Supabase``; None: neither."""
    after: datetime | None = None
    """The last moment that the restored one remembers; UTC without zone."""
    before: datetime | None = None
    """When the first thing happened that it has forgotten; UTC without zone."""
    forgotten: list[str] = field(default_factory=list)
    """Keys of whose outcomes Neon has forgotten the latest."""
    again: list[str] = field(default_factory=list)
    """Of those: promoted again."""
    kept: list[str] = field(default_factory=list)
    """Of those: the enricher's values are kept in the workspace, as his edits."""
    lost: list[str] = field(default_factory=list)
    """Records that Neon does not have any more."""
    told: list[str] = field(default_factory=list)
    """Of those forgotten: rows of a backup, told what Neon knows of newer versions of them."""
    caught_up: CaughtUp = field(default_factory=CaughtUp)
    held: bool = False
    """Whether somebody held a row that was to be brought together."""

    @property
    def neon_restored(self) -> bool:
        """Whether Neon was restored to an earlier moment."""
        return self.side == "Neon"

    def in_words(self) -> str:
        """Which side was restored, and to what moment."""
        return restored_in_words(self.kept_in_mind)

    @property
    def kept_in_mind(self) -> dict[str, Any]:
        """What the workspace keeps of it, for those who ask later."""
        return {
            "side": self.side,
            "noticed_at": utc_now().isoformat(),
            "after": self.after.isoformat() if self.after else None,
            "before": self.before.isoformat() if self.before else None,
            "promoted_again": len(self.again),
            "kept": len(self.kept),
            "told": self.caught_up.told + len(self.told),
        }


async def recognise(entity: Entity, position: Position, neon: Connection, supabase: Connection) -> Comparison:
    """Look what Neon has forgotten of what the workspace was told, and whether the workspace has forgotten a pull.

    Raises:
        psycopg.Error: a database failed.
    """
    counts = await ledger.counts(neon, entity)
    found = Comparison(entity.name, counts)
    restored = position.pulls > counts.pulls
    after = 0 if restored else position.ledger_id or 0
    while chunk := await receipts.told(supabase, entity, after):
        after = max(receipt.id for receipt in chunk.values())
        found.forgotten += await ledger.forgotten(neon, entity, chunk)
        if len(chunk) < receipts.CHUNK:
            break
    unfinished = held_back(position)
    if restored or found.forgotten or unfinished:
        found.side, found.after = "Neon", counts.moment
        if found.forgotten:
            found.before = await receipts.first_told(supabase, entity, found.forgotten)
        if unfinished and not restored:
            # The pull that recognised it was counted since.
            found.after = moment(unfinished.get("after"))
            found.before = moment(unfinished.get("before"))
    elif position.last_pull_at and position.pulls < counts.confirmed:
        found.side, found.after = "Supabase", position.last_pull_at
    return found


def held_back(position: Position) -> dict[str, Any] | None:
    """A restore of Neon that was recognised while somebody held rows: what became of those is still to be seen."""
    restored = position.restored
    return restored if restored and restored.get("held") else None


async def unsettled(entity: Entity, neon: Connection, supabase: Connection) -> str | None:
    """In words, a restore of a database that is not settled yet; None where there is none. Writes nothing.

    Raises:
        psycopg.Error: a database failed.
    """
    position = await read_position(supabase, entity)
    found = await recognise(entity, position, neon, supabase)
    if found.side == "Neon":
        what = f"what became of {entity.count(len(found.forgotten))}" if found.forgotten else "the last pull"
        return f"{found.in_words()}: it has forgotten {what}"
    older = await older_than_carried(neon, supabase, entity, position.ledger_id or 0)
    if found.side or older:
        found.side, found.after = "Supabase", position.last_pull_at
        return f"{found.in_words()}: {entity.count(len(older))} there are older than what was carried of them"
    if lost := await workspace.lost(supabase, entity):
        said = restored_in_words(position.restored or {"side": "Neon"})
        return f"{said}: {entity.count(len(lost))} are not in Neon any more, and are kept in the workspace"
    return None


async def bring_together(
    databases: Databases, entity: Entity, position: Position, neon: Connection, supabase: Connection, run: Run
) -> Comparison:
    """Recognise a restore, and bring both databases together again as far as that goes by itself.

    Records that Neon has lost altogether are kept in the workspace, where they wait until they are there again.

    Raises:
        psycopg.Error: a database failed; what was done stays, and is recognised the next time.
    """
    found = await recognise(entity, position, neon, supabase)
    if found.side:
        log.warning(
            "database.restored",
            entity=entity.name,
            side=found.side,
            after=_iso(found.after),
            before=_iso(found.before),
            forgotten=len(found.forgotten),
        )
        databases.known.pop(entity.name, None)

    async def recover(some: Sequence[str]) -> None:
        await _recover(databases, neon, supabase, entity, some, run, found)

    async def refuse(key: str, error: psycopg.Error) -> None:
        refusals.add(entity, key, error)

    refusals = Refusals("restore.refused")
    for start in range(0, len(found.forgotten), databases.batch_size):
        # What took effect in Neon before the workspace refused one is found there when the others are tried again.
        await in_parts(supabase, recover, found.forgotten[start : start + databases.batch_size], refuse)
    refusals.sum_up(entity)
    since = 0 if found.neon_restored else position.ledger_id or 0
    found.caught_up = await catch_up(databases, neon, supabase, entity, since, run.run_id)
    found.held |= found.caught_up.held
    if found.side is None and found.caught_up.older:
        found.side, found.after = "Supabase", position.last_pull_at
        log.warning(
            "database.restored",
            entity=entity.name,
            side=found.side,
            after=_iso(found.after),
            before=None,
            told=found.caught_up.told,
        )
    return found


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


async def _recover(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    keys: Sequence[str],
    run: Run,
    found: Comparison,
) -> None:
    """Bring rows together with a Neon that has forgotten what they were told."""
    rows = await queue.lock(supabase, entity, keys, wait=False)
    found.held |= len(rows) < len(keys)
    standings = await ledger.standings(neon, entity, {key: row.claimed.receipt for key, row in rows.items()})
    fresh = await invalid.read(neon, entity, list(rows))
    again: list[Judged] = []
    replies: list[Reply] = []
    refreshes: list[Refresh] = []
    told: list[Refresh] = []
    lost: list[str] = []
    for key, row in rows.items():
        standing, record = standings[key], fresh.get(key)
        if not standing.forgotten:
            continue
        if word := newer_than(entity, row, standing, record):
            found.told.append(key)
            if isinstance(word, Reply):
                replies.append(word)
            else:
                told.append(word)
        elif record and row.promoted and not row.queued:
            again.append(_carried_again(entity, row, record))
        elif record:
            refreshes.append(_as_edits(row, standing, record))
        elif _stands(entity, row, standing):
            replies.append(_promoted_still(row, standing))
        else:
            lost.append(key)
    settled, blocked = await settle_batch(databases, neon, entity, again, run)
    replies += [
        _told_again(reply, rows[one.key], fresh[one.key])
        for one in settled
        if (reply := reply_to(one, rows[one.key].claimed.data))
    ]
    entries = [
        Entry(
            one.key,
            Outcome.MERGED,
            f"{one.key}|{rows[one.key].claimed.receipt}",
            one.data,
            note=LEDGER_NOTES[NoteCode.FORGOTTEN],
            note_code=NoteCode.FORGOTTEN,
        )
        for one in refreshes
    ]
    await invalid.book(neon, entity, run.run_id, entries)
    steps: list[Step] = [workspace.refresh(entity, [*refreshes, *told])] if refreshes or told else []
    steps += [workspace.await_return(entity, lost, messages.LOST)] if lost else []
    promoted = keys_with(settled, Outcome.PROMOTED)
    found.again += promoted
    promoted += [reply.key for reply in replies if reply.key in found.told and reply.code == Code.PROMOTED]
    await acknowledge(
        databases,
        supabase,
        entity,
        replies,
        promoted,
        [*steps, *outcome_events(databases, entity, run.run_id, settled)],
    )
    remember(databases, entity, replies)
    complain(blocked)
    found.kept += [one.key for one in refreshes]
    found.lost += lost


def _carried_again(entity: Entity, row: Row, record: InvalidRow) -> Judged:
    """A promoted record as it was carried: what was typed after that is no part of it."""
    mine = row.claimed
    claimed = replace(
        mine, data=mine.snapshot, snapshot=record.data, snapshot_hash=record.hash, receipt=None,
        delivery_hash=mine.receipt.hash if mine.receipt and mine.receipt.hash else mine.delivery_hash,
    )  # fmt: skip
    return replace(judge(entity, claimed, record.data, record.hash), note=NoteCode.PROMOTED_AGAIN)


def _told_again(reply: Reply, row: Row, record: InvalidRow) -> Reply:
    """The reply to a row that was told before. What was typed after the promotion stays in its cells."""
    # Where it waits now, all in which it differs from Neon is still to be carried.
    reply = replace(reply, forget=True, snapshot=reply.snapshot or record.data)
    if not row.edited:
        return reply
    note = messages.PROMOTED + messages.NO_EDITS if reply.code == Code.PROMOTED else reply.note
    return replace(reply, data=None, note=note)


def _as_edits(row: Row, standing: Standing, record: InvalidRow) -> Refresh:
    """All in which the row differs from Neon counts as the enricher's. What had been carried goes again."""
    mine = row.claimed
    return Refresh(
        mine.key, record.id, mine.data, record.data, mine.status, None, None, None, reopened=row.carried,
        note=messages.QUEUED if row.carried else None, code=Code.QUEUED if row.carried else None,
        receipt=ledger.heard_at_least(mine, standing), forget=True,
    )  # fmt: skip


def _stands(entity: Entity, row: Row, standing: Standing) -> bool:
    """Whether the master has the record, as the ledger says or by its values: the ledger alone was emptied then."""
    if standing.latest and standing.latest.outcome is Outcome.PROMOTED:
        return standing.master is not None
    master, carried = standing.master, row.claimed.snapshot
    return (
        row.promoted
        and master is not None
        and all(
            master.get(neon) == carried[supabase]
            for neon, supabase in entity.mapping.items()
            if carried.get(supabase) is not None
        )
    )


def _promoted_still(row: Row, standing: Standing) -> Reply:
    """The row of a record that stands in the master, whatever Neon has forgotten since."""
    mine, said = row.claimed, standing.latest
    at = said.at if said and said.outcome is Outcome.PROMOTED else mine.promoted_at or utc_now()
    receipt = said.receipt if said and said.outcome is Outcome.PROMOTED else None
    record = said.record if said else None
    note = messages.PROMOTED + (messages.NO_EDITS if record and mine.data != record else "")
    return Reply(
        mine.key, mine.version, Status.COMPLETE, note, snapshot=record, errors={}, pushed=True,
        promoted_at=at, code=Code.PROMOTED, receipt=receipt, forget=True,
    )  # fmt: skip
