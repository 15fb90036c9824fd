"""Bring both databases together after one of them was restored. Promotions that Neon forgot take effect again, as they
were carried; other values of the enricher's that it forgot count as edits. A restored workspace is updated from the
ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import psycopg
import structlog

from worker.domain import messages
from worker.domain.lineage import descends, is_older, lay_over
from worker.domain.messages import LEDGER_NOTES
from worker.domain.model import Code, Data, NoteCode, Outcome, Status, same_as, utc_now
from worker.domain.steps import Judged
from worker.entities.declaration import Entity
from worker.neon.books import Entry, Run
from worker.neon.invalid import InvalidRow
from worker.neon.ledger import LedgerOutcome, NeonState, minimum_receipt
from worker.postgres.connection import Connection
from worker.postgres.transaction import Step
from worker.supabase.acknowledgement import Reply
from worker.supabase.bisect import Refusals, for_each_accepted
from worker.supabase.position import Position
from worker.supabase.queue import Row
from worker.supabase.workspace import Refresh
from worker.sync.acknowledge import acknowledge
from worker.sync.catch_up import CatchUp
from worker.sync.deliver import keys_with, outcome_events
from worker.sync.judging import judge
from worker.sync.missed import newer_than, newer_version
from worker.sync.replies import differing, reply_to
from worker.sync.restore import Comparison, recognise
from worker.sync.route import Route
from worker.sync.settling import raise_blocked, settle_batch

log = structlog.get_logger("worker.restore")


async def bring_together(
    route: Route, position: Position, neon: Connection, supabase: Connection, run: Run
) -> Comparison:
    """Recognise a restore, and bring both databases together as far as that is possible without an operator.

    Records that Neon has lost completely are kept in the workspace, where they wait until Neon has them again.

    Raises:
        psycopg.Error: a database failed; what was done stays done, and is recognised the next time.
    """
    found = await recognise(route, position, neon, supabase)
    if found.side:
        log.warning(
            "database.restored",
            entity=route.entity.name,
            side=found.side,
            after=_iso(found.after),
            before=_iso(found.before),
            forgotten=len(found.forgotten),
        )
        route.known = None

    async def recover(some: Sequence[str]) -> None:
        await _recover(route, neon, supabase, some, run, found)

    async def refuse(key: str, error: psycopg.Error) -> None:
        refusals.add(route.entity, key, error)

    refusals = Refusals("restore.refused")
    for batch in route.batches(found.forgotten):
        # What took effect in Neon before the workspace refused a row is found there when the others are retried.
        await for_each_accepted(supabase, recover, batch, refuse)
    refusals.sum_up(route.entity)
    since = 0 if found.neon_restored else position.ledger_id or 0
    found.caught_up = await CatchUp(route, neon, supabase, run.run_id).all_after(since)
    found.held |= found.caught_up.held
    if found.side is None and found.caught_up.older:
        found.blame_supabase(position)
        log.warning(
            "database.restored",
            entity=route.entity.name,
            side=found.side,
            after=_iso(found.after),
            before=None,
            told=found.caught_up.acknowledged,
        )
    return found


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


async def _recover(
    route: Route,
    neon: Connection,
    supabase: Connection,
    keys: Sequence[str],
    run: Run,
    found: Comparison,
) -> None:
    """Bring rows together with a Neon that has forgotten the outcomes that they show."""
    rows = await route.queue.lock(supabase, keys, wait=False)
    found.held |= len(rows) < len(keys)
    entity = route.entity
    neon_states = await route.ledger.neon_states(neon, {key: row.claimed.receipt for key, row in rows.items()})
    fresh = await route.invalid.read(neon, list(rows))
    again: list[Judged] = []
    replies: list[Reply] = []
    refreshes: list[Refresh] = []
    updates: list[Refresh] = []
    lost: list[str] = []
    for key, row in rows.items():
        neon_state, record = neon_states[key], fresh.get(key)
        if not neon_state.forgotten:
            continue
        if change := newer_than(entity, row, neon_state, record):
            found.acknowledged.append(key)
            if isinstance(change, Reply):
                replies.append(change)
            else:
                updates.append(change)
        elif record and row.promoted and not row.undelivered and not _of_another_history(row, neon_state):
            again.append(_carried_again(entity, row, record))
        elif record:
            refreshes.append(_as_edits(row, neon_state, record))
        elif _is_in_master(entity, row, neon_state):
            replies.append(_still_promoted(row, neon_state))
        else:
            lost.append(key)
            if other := _of_another_history(row, neon_state):
                updates.append(_lost_with_carried(row, neon_state, other))
    settled, blocked = await settle_batch(route, neon, again, run)
    replies += [
        _acknowledge_again(reply, rows[one.key], fresh[one.key])
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
    await route.ledger.book(neon, run.run_id, entries)
    steps: list[Step] = [route.workspace.refresh([*refreshes, *updates])] if refreshes or updates else []
    steps += [route.workspace.await_return(lost, messages.LOST)] if lost else []
    promoted = keys_with(settled, Outcome.PROMOTED)
    found.again += promoted
    promoted += [reply.key for reply in replies if reply.key in found.acknowledged and reply.code == Code.PROMOTED]
    steps += outcome_events(route, run.run_id, settled)
    await acknowledge(route, supabase, replies, promoted, steps)
    route.remember(reply.receipt for reply in replies)
    raise_blocked(blocked)
    found.kept += [one.key for one in refreshes]
    found.lost += lost


def _carried_again(entity: Entity, row: Row, record: InvalidRow) -> Judged:
    """A promoted record as it was carried, without what was typed after that."""
    claimed = row.claimed
    carried = replace(
        claimed, data=claimed.snapshot, snapshot=record.data, snapshot_hash=record.hash, receipt=None,
        delivery_hash=claimed.receipt.hash if claimed.receipt and claimed.receipt.hash else claimed.delivery_hash,
    )  # fmt: skip
    return replace(judge(entity, carried, record.data, record.hash), note=NoteCode.PROMOTED_AGAIN)


def _acknowledge_again(reply: Reply, row: Row, record: InvalidRow) -> Reply:
    """The reply to a row that was acknowledged before. What was typed after the promotion stays in its cells."""
    # If it waits now, all its differences from Neon are still to be carried.
    reply = replace(reply, forget=True, snapshot=reply.snapshot or record.data)
    if not row.edited:
        return reply
    note = messages.PROMOTED + messages.NO_EDITS if reply.code == Code.PROMOTED else reply.note
    return replace(reply, data=None, note=note)


def _of_another_history(row: Row, neon_state: NeonState) -> LedgerOutcome | None:
    """What was carried of a record after this row was told an outcome last: the row is from another history's backup,
    and lacks it. What a row was carried with is older than what it was told of that.

    The ids of the ledger do not tell: the row's own receipt is forgotten, and ids are not in the order of commits.
    """
    latest = neon_state.latest
    if latest is None or latest.row_version is None:
        return None
    if is_older(row.claimed, latest.sent):
        return latest
    newer = row.told_at is not None and latest.row_version > row.told_at
    return latest if newer and not descends(row.claimed, latest.sent) else None


def _carried(other: LedgerOutcome) -> Data:
    """What the enricher sent; all of it, where the release did not keep which fields were his."""
    record = other.record or {}
    return {name: record[name] for name in other.enriched_fields if name in record} if other.enriched_fields else record


def _as_edits(row: Row, neon_state: NeonState, record: InvalidRow) -> Refresh:
    """Every difference from Neon counts as the enricher's edit. A row that had been carried is queued again.

    What had reached this Neon, and the row of a backup from another history lacks, is not taken back by it: it stays,
    but for cells that were edited since.
    """
    claimed, data = row.claimed, row.claimed.data
    reopened = row.carried or (row.promoted and not row.undelivered)
    queued = reopened and claimed.status == Status.COMPLETE
    if other := _of_another_history(row, neon_state):
        written = {name: record.data[name] for name in neon_state.written if name in record.data}
        data = lay_over(claimed, other.sent, {**_carried(other), **written})
    return Refresh(
        claimed.key, record.id, data, record.data, claimed.status, None, None, None, reopened=reopened,
        note=messages.QUEUED if queued else None, code=Code.QUEUED if queued else None,
        receipt=minimum_receipt(claimed, neon_state), forget=True, as_of=newer_version(row, neon_state),
    )  # fmt: skip


def _lost_with_carried(row: Row, neon_state: NeonState, other: LedgerOutcome) -> Refresh:
    """The row of a record that Neon has lost: what was carried of it after this row's backup was made comes back."""
    claimed = row.claimed
    return Refresh(
        claimed.key, None, lay_over(claimed, other.sent, _carried(other)), claimed.snapshot, claimed.status, None, None,
        None, reopened=False, note=None, as_of=newer_version(row, neon_state),
    )  # fmt: skip


def _is_in_master(entity: Entity, row: Row, neon_state: NeonState) -> bool:
    """Whether the master has the record: by the ledger, or, if only the ledger was emptied, by its values."""
    if neon_state.latest and neon_state.latest.outcome is Outcome.PROMOTED:
        return neon_state.master is not None
    master, carried = neon_state.master, row.claimed.snapshot
    return (
        row.promoted
        and master is not None
        and all(
            same_as(master.get(neon), carried[supabase]) == carried[supabase]
            for neon, supabase in entity.mapping.items()
            if carried.get(supabase) is not None
        )
    )


def _still_promoted(row: Row, neon_state: NeonState) -> Reply:
    """The reply to a row whose record is in the master, whatever Neon has forgotten."""
    claimed, latest = row.claimed, neon_state.latest
    if latest is None or latest.outcome is not Outcome.PROMOTED:
        note = messages.PROMOTED + (messages.NO_EDITS if row.edited else "")
        return Reply(
            claimed.key, claimed.version, Status.COMPLETE, note, errors={}, pushed=True,
            promoted_at=claimed.promoted_at or utc_now(), code=Code.PROMOTED, forget=True,
        )  # fmt: skip
    other = _of_another_history(row, neon_state)
    data = claimed.data
    if other:
        # What follows from the enricher's values, such as a host, is shown too; what only the other history had stays.
        filled = {name: value for name, value in (other.record or {}).items() if value is not None}
        data = lay_over(claimed, other.sent, {**filled, **_carried(other)})
    edited = latest.record is not None and data != latest.record
    return Reply(
        claimed.key, claimed.version, Status.COMPLETE, messages.PROMOTED + (messages.NO_EDITS if edited else ""),
        differing(data, claimed.data) or None, latest.record, {}, pushed=True, promoted_at=latest.at,
        code=Code.PROMOTED, receipt=latest.receipt, forget=True, as_of=newer_version(row, neon_state),
    )  # fmt: skip
