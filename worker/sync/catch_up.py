"""Rows that were never told what became of their records: a worker died before it could, the row was taken back while
it was on its way, or Supabase was restored from a backup. Neon's ledger tells them. Knows no rules of validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import psycopg

from worker.domain import messages
from worker.domain.lineage import descends, is_older, with_neons_own, with_what_went
from worker.domain.merge import merge
from worker.domain.model import Code, Outcome, Status, new_run_id, same_delivery
from worker.entities.declaration import Entity
from worker.neon import invalid, ledger
from worker.neon.invalid import InvalidRow
from worker.neon.ledger import Spoken, Standing
from worker.postgres.connection import Connection
from worker.postgres.transaction import COMMIT, Step, send, transact
from worker.supabase import queue, receipts, workspace
from worker.supabase.bisect import Refusals, in_parts
from worker.supabase.position import read_position
from worker.supabase.queue import Reply, Row
from worker.supabase.workspace import Refresh
from worker.sync.databases import Databases
from worker.sync.deliver import outcome_events_of
from worker.sync.judging import agreed_on
from worker.sync.replies import differing, typed_since


@dataclass
class CaughtUp:
    """What a round of telling did."""

    told: int = 0
    older: int = 0
    """Rows that are older than what was carried of them: their database was restored."""
    held: bool = False
    """Whether somebody held a row that was to be told."""
    queued: bool = False
    """Whether a row that was to be told is queued: its delivery tells it, unless it is taken back before."""
    absent: set[str] = field(default_factory=set)
    """Keys that have no row, though they wait, were taken back, or were asked for."""
    words: dict[str, str] = field(default_factory=dict)
    """Key → outcome of those that were told, or are to be."""
    refusals: Refusals = field(default_factory=lambda: Refusals("reply.refused"))
    """What the workspace did not take of what its rows were told: that is passed over."""

    def add(self, other: CaughtUp) -> None:
        """Count some rows more."""
        self.told += other.told
        self.older += other.older
        self.held |= other.held
        self.queued |= other.queued
        self.absent |= other.absent
        self.words |= other.words


async def catch_up(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    after: int,
    run_id: str,
    *,
    dry_run: bool = False,
) -> CaughtUp:
    """Tell every row what the ledger says of it after an id, and it was not told.

    Args:
        databases: both databases.
        neon: to Neon.
        supabase: to Supabase.
        entity: whose rows.
        after: the ledger's id.
        run_id: what it is announced under.
        dry_run: write nothing, and count.

    Raises:
        psycopg.Error: a database failed; catch up again.
    """
    caught_up = CaughtUp()
    while chunk := await ledger.spoken(neon, entity, after):
        after = chunk.last
        unacknowledged = await receipts.unacknowledged(supabase, entity, chunk.latest, chunk.versions)
        keys, caught_up.queued = unacknowledged.keys, caught_up.queued or bool(unacknowledged.queued)
        # Their delivery tells of the newer version alone; what came after that, the next pull reads.
        caught_up.held |= bool(await _newer(neon, supabase, entity, unacknowledged.queued))
        await _wake_newer(neon, supabase, entity, unacknowledged.waiting, dry_run=dry_run)
        caught_up.absent = (caught_up.absent - chunk.latest.keys()) | (unacknowledged.absent & chunk.open)
        for start in range(0, len(keys), databases.batch_size):
            await catch_up_rows(
                databases,
                neon,
                supabase,
                entity,
                keys[start : start + databases.batch_size],
                run_id,
                caught_up,
                dry_run=dry_run,
            )
    caught_up.refusals.sum_up(entity)
    return caught_up


async def acknowledge_missed(databases: Databases, entity: Entity, keys: Sequence[str] = ()) -> bool:
    """Tell rows that could not be told when their batch was settled: these, or all since the last pull.

    Returns:
        Whether all are told: none was held, or is on its way once more.

    Raises:
        psycopg.Error: a database failed; tell again.
    """
    run_id = new_run_id("tell")
    async with databases.neon.connection() as neon, databases.supabase.connection() as supabase:
        if keys:
            caught_up = CaughtUp()
            await catch_up_rows(databases, neon, supabase, entity, keys, run_id, caught_up)
            caught_up.refusals.sum_up(entity)
        else:
            position = await read_position(supabase, entity)
            caught_up = await catch_up(databases, neon, supabase, entity, position.ledger_id or 0, run_id)
    return not (caught_up.held or caught_up.queued)


async def catch_up_rows(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    keys: Sequence[str],
    run_id: str,
    caught_up: CaughtUp,
    *,
    dry_run: bool = False,
    wait: bool = False,
) -> None:
    """Tell these rows what the ledger says of them; queued ones are left to their delivery. A row that the workspace
    does not change is passed over, but where one waits to know of it.

    Args:
        databases: both databases.
        neon: to Neon.
        supabase: to Supabase.
        entity: whose rows.
        keys: which.
        run_id: what it is announced under.
        caught_up: counts what was done.
        dry_run: write nothing, and count.
        wait: for whoever holds a row; else it is left for the next time.

    Raises:
        psycopg.Error: a database failed; tell again.
    """
    if wait:
        await _catch_up_rows(databases, neon, supabase, entity, keys, run_id, caught_up, dry_run=dry_run, wait=True)
        return

    async def some(part: Sequence[str]) -> None:
        mine = CaughtUp()
        await _catch_up_rows(databases, neon, supabase, entity, part, run_id, mine, dry_run=dry_run, wait=False)
        caught_up.add(mine)

    async def refuse(key: str, error: psycopg.Error) -> None:
        caught_up.refusals.add(entity, key, error)

    await in_parts(supabase, some, keys, refuse)


async def _catch_up_rows(
    databases: Databases,
    neon: Connection,
    supabase: Connection,
    entity: Entity,
    keys: Sequence[str],
    run_id: str,
    caught_up: CaughtUp,
    *,
    dry_run: bool,
    wait: bool,
) -> None:
    rows = await queue.lock(supabase, entity, keys, read_only=dry_run, wait=wait)
    if wait:
        caught_up.absent |= {key for key in keys if key not in rows}
    else:
        caught_up.held |= len(rows) < len(keys)
    standings = await ledger.standings(neon, entity, {key: row.claimed.receipt for key, row in rows.items()})
    fresh = await invalid.read(neon, entity, list(rows)) if rows else {}
    replies: list[Reply] = []
    refreshes: list[Refresh] = []
    became: list[tuple[str, str, str | None]] = []
    for key, row in rows.items():
        standing = standings[key]
        if row.queued and not _was_undone_as_it_stands(row, standing):
            caught_up.queued = True  # since a moment ago
            continue
        if (said := _unheard(row, standing)) is None:
            continue
        if not standing.forgotten and _told_before(row, said):
            refreshes.append(_as_it_is(row, said))
            continue
        caught_up.older += is_older(row.claimed, said.sent)
        word = _say(entity, row, standing, said, fresh.get(key))
        if word is None:
            continue
        became.append((key, str(said.outcome), None))
        if isinstance(word, Reply):
            replies.append(word)
        else:
            refreshes.append(word)
    caught_up.told += len(became)
    caught_up.words |= {key: outcome for key, outcome, _ in became}
    if dry_run:
        await send(supabase, COMMIT)
        return
    steps: list[Step] = []
    if replies:
        steps.append(queue.acknowledge(entity, replies))
    if refreshes:
        steps.append(workspace.refresh(entity, refreshes))
    woken = [reply.key for reply in replies if reply.code == Code.PROMOTED]
    steps += queue.releases(entity, woken)
    await send(supabase, *steps, *outcome_events_of(databases, entity, run_id, became), COMMIT)


def newer_version(row: Row, standing: Standing) -> datetime | None:
    """The version of a row that Neon knows, where it is newer than the row itself: that is from a backup, and as new as
    the version when it holds the values of it.
    """
    said = (standing.latest, standing.carried)
    return max((v for one in said if one and is_older(row.claimed, one.sent) and (v := one.row_version)), default=None)


def newer_than(entity: Entity, row: Row, standing: Standing, fresh: InvalidRow | None) -> Reply | Refresh | None:
    """What a row hears that was told what Neon has forgotten, where Neon knows of a newer version of it: both databases
    were restored. None where it knows nothing newer. Pure.
    """
    if not standing.forgotten or row.queued or (said := _unheard(row, standing)) is None:
        return None
    return _say(entity, row, standing, said, fresh)


def _unheard(row: Row, standing: Standing) -> Spoken | None:
    """The latest that the ledger says, where the row was not told of it."""
    said, told = standing.latest, row.claimed.receipt
    if standing.forgotten:
        return said if newer_version(row, standing) else None
    return said if said and (told is None or said.receipt.id > told.id) else None


async def older_than_carried(neon: Connection, supabase: Connection, entity: Entity, after: int) -> list[str]:
    """The keys of rows that are older than what was carried of them, by what the ledger says after an id: their
    database was restored. Writes nothing.

    Raises:
        psycopg.Error: a database failed.
    """
    found: list[str] = []
    while chunk := await ledger.spoken(neon, entity, after):
        after = chunk.last
        if not (keys := (await receipts.unacknowledged(supabase, entity, chunk.latest, chunk.versions)).keys):
            continue
        found += [
            row.claimed.key
            for row, said in await _newer(neon, supabase, entity, keys)
            if said and is_older(row.claimed, said.sent) and not _told_before(row, said)
        ]
    return found


async def _wake_newer(
    neon: Connection, supabase: Connection, entity: Entity, keys: Sequence[str], *, dry_run: bool
) -> None:
    """Put waiting rows of which Neon knows a newer version back in the queue: their delivery tells of that."""
    newer = [row.claimed.key for row, _ in await _newer(neon, supabase, entity, keys) if row.code != Code.LOST]
    if newer and not dry_run:
        await transact(supabase, queue.release(entity, newer, by=entity.key))


async def _newer(
    neon: Connection, supabase: Connection, entity: Entity, keys: Sequence[str]
) -> list[tuple[Row, Spoken | None]]:
    """Those of the rows of which Neon knows a newer version, and the latest that the ledger says of them."""
    if not keys:
        return []
    rows = await queue.lock(supabase, entity, keys, read_only=True)
    await send(supabase, COMMIT)
    standings = await ledger.standings(neon, entity, {key: row.claimed.receipt for key, row in rows.items()})
    return [(row, standings[key].latest) for key, row in rows.items() if newer_version(row, standings[key])]


def _was_undone_as_it_stands(row: Row, standing: Standing) -> bool:
    """Whether a queued row was promoted as it is, which nobody told it, and that was taken back."""
    said, carried = standing.latest, standing.carried
    return bool(
        said
        and carried
        and said.outcome is Outcome.UNDONE
        and same_delivery(carried.receipt.hash, row.claimed.delivery_hash)
    )


def _told_before(row: Row, said: Spoken) -> bool:
    """Whether a release without receipts told the row, or it came from Neon after that."""
    if said.outcome is Outcome.PROMOTED and row.claimed.receipt:
        return row.claimed.promoted_at == said.at  # by such a release, after one with receipts
    if said.outcome is Outcome.UNDONE and row.code == Code.UNDONE and not row.promoted:
        return True  # the same; its note stays until the row is set to complete
    if row.claimed.receipt:
        return False
    match said.outcome:
        case Outcome.PROMOTED:
            # Its record turned invalid again, and no row was there to be told of the promotion.
            return row.promoted or bool(row.pulled_at and row.pulled_at > said.at)
        case Outcome.FLAGGED:
            # Its note stays while an enricher works on the row, until he sets it to complete.
            told = row.claimed.status == Status.FAILED or row.code == Code.FLAGGED
            return told and row.claimed.snapshot == said.record
        case Outcome.UNDONE:
            # One that is as it was pulled came after that: it has nothing yet of what the enricher had typed.
            as_pulled = row.untouched and row.code is None
            return row.claimed.status == Status.PENDING and not row.promoted and not as_pulled
        case Outcome.WAITING:
            return said.pushed and row.code == Code.CARRIED
    return False


def _say(
    entity: Entity, row: Row, standing: Standing, said: Spoken, fresh: InvalidRow | None
) -> Reply | Refresh | None:
    """What a row that was not told before hears of the latest that the ledger says of it; None: nothing. Pure."""
    if standing.forgotten:
        # The promotion that it was told of is on record nowhere.
        row = replace(row, claimed=replace(row.claimed, promoted_at=None))
    word = _word(entity, row, standing, said, fresh)
    return replace(word, as_of=newer_version(row, standing), forget=standing.forgotten) if word else None


def _word(
    entity: Entity, row: Row, standing: Standing, said: Spoken, fresh: InvalidRow | None
) -> Reply | Refresh | None:
    match said.outcome:
        case Outcome.PROMOTED:
            return promoted(row, said)
        case Outcome.UNDONE:
            return _undone(row, standing, said, fresh)
        case Outcome.FLAGGED if fresh:
            return _flagged(entity, row, standing, said, fresh)
        case Outcome.WAITING if fresh:
            return _waiting(entity, row, standing, said, fresh)
        case Outcome.FLAGGED | Outcome.WAITING if not row.promoted:
            return _left(row, standing, said)
    return None


def _as_it_is(row: Row, said: Spoken) -> Refresh:
    """Only the receipt is new. A promoted row has no place in the invalid table: the rest is left to the pull."""
    mine = row.claimed
    return Refresh(
        mine.key, None, mine.data, mine.snapshot, mine.status, None, None, None, reopened=False, note=None,
        receipt=said.receipt,
    )  # fmt: skip


def promoted(row: Row, said: Spoken) -> Reply:
    """The reply to a row whose record was promoted, and which was not told. Pure."""
    mine = row.claimed
    edited = typed_since(mine, said.sent) and not is_older(row.claimed, said.sent)
    taken_back = mine.status != Status.COMPLETE and not is_older(row.claimed, said.sent)
    note = (
        messages.promoted_before(said.at, edited=edited, taken_back=taken_back)
        if edited or taken_back
        else messages.PROMOTED
    )
    return Reply(
        mine.key, mine.version, Status.COMPLETE, note,
        differing(with_what_went(mine, said.sent) if edited else said.record, mine.data),
        said.record, {}, said.warnings, pushed=True, promoted_at=said.at, code=Code.PROMOTED,
        receipt=said.receipt,
    )  # fmt: skip


def _flagged(entity: Entity, row: Row, standing: Standing, said: Spoken, fresh: InvalidRow) -> Reply | Refresh:
    mine = row.claimed
    errors = fresh.errors if fresh.still_invalid else said.errors
    if is_older(row.claimed, said.sent) or not row.taken_back:
        return Reply(
            mine.key, mine.version, Status.FAILED, messages.flagged(errors), differing(fresh.data, mine.data),
            fresh.data, errors, fresh.warnings if fresh.still_invalid else said.warnings, fresh.reason_code,
            pushed=True, code=Code.FLAGGED, receipt=said.receipt,
        )  # fmt: skip
    return replace(
        _merged(entity, row, standing, said, fresh), note=messages.flagged_before_taken_back(errors), code=Code.FLAGGED
    )


def _waiting(entity: Entity, row: Row, standing: Standing, said: Spoken, fresh: InvalidRow) -> Reply | Refresh | None:
    if said.pushed:
        return _carried(entity, row, standing, said, fresh)
    if row.promoted:
        return None
    if is_older(row.claimed, said.sent):
        return _sent_again(row, said, fresh)
    return None if descends(row.claimed, said.sent) else _worked_on(row, said)


def _carried(entity: Entity, row: Row, standing: Standing, said: Spoken, fresh: InvalidRow) -> Reply | Refresh:
    mine = row.claimed
    if is_older(row.claimed, said.sent) and fresh.unjudged:
        return Reply(
            mine.key, mine.version, Status.COMPLETE, messages.CARRIED, differing(fresh.data, mine.data), fresh.data,
            pushed=True, code=Code.CARRIED, receipt=said.receipt,
        )  # fmt: skip
    return _merged(entity, row, standing, said, fresh)


def _merged(entity: Entity, row: Row, standing: Standing, said: Spoken, fresh: InvalidRow) -> Refresh:
    """Neon's record in the row, and over it what the enricher has typed since it was carried."""
    mine = row.claimed
    base = agreed_on(entity, mine, fresh.data, standing)
    at = standing.moved_at(fresh.updated_at)
    merged = merge(base, mine.data, fresh.data, mine.version, at, entity.rules.normalise)
    return Refresh(
        mine.key, fresh.id, merged.data, fresh.data, mine.status, None, None, None, reopened=False, note=None,
        receipt=said.receipt,
    )  # fmt: skip


def _sent_again(row: Row, said: Spoken, fresh: InvalidRow) -> Refresh:
    """What was set to complete after the backup, and waited in Neon: it goes again, with the values that went."""
    mine = row.claimed
    return Refresh(
        mine.key, fresh.id, with_what_went(row.claimed, said.sent), mine.snapshot, Status.COMPLETE, None, None, None,
        reopened=True, note=messages.RELEASED, code=Code.RELEASED,
        enriched_by=said.enriched_by, enriched_at=said.enriched_at,
    )  # fmt: skip


def _worked_on(row: Row, said: Spoken) -> Refresh | None:
    """Somebody works on a row from a backup already: the values that went and waited come back beside what he typed."""
    mine = row.claimed
    data = with_what_went(row.claimed, said.sent)
    if data == mine.data:
        return None
    return Refresh(
        mine.key, None, data, mine.snapshot, mine.status, None, None, None, reopened=False, note=None,
    )  # fmt: skip


def _left(row: Row, standing: Standing, said: Spoken) -> Refresh | None:
    """The record left by another way after the backup: what the enricher had sent of it comes back."""
    mine = row.claimed
    data = with_what_went(mine, said.sent)
    if data == mine.data:
        return None
    status = Status.FAILED if said.outcome is Outcome.FLAGGED else mine.status
    return Refresh(
        mine.key, None, data, mine.snapshot, status, None, None, None, reopened=standing.forgotten, note=messages.LEFT,
        code=Code.LEFT,
    )  # fmt: skip


def _undone(row: Row, standing: Standing, said: Spoken, fresh: InvalidRow | None) -> Refresh:
    mine, carried = row.claimed, standing.carried
    # Of a backup that is older than the promotion, what was promoted comes back first.
    data = with_what_went(row.claimed, carried.sent) if carried else mine.data
    if fresh is None:
        note = messages.gone_after_undo(said.at)
        return Refresh(
            mine.key, None, data, mine.snapshot, Status.FAILED, None, None, None, reopened=True, note=note,
            code=Code.GONE, receipt=said.receipt,
        )  # fmt: skip
    data = with_neons_own(data, (carried or said).sent, fresh.data)
    return Refresh(
        mine.key, fresh.id, data, fresh.data, Status.PENDING, fresh.errors, fresh.warnings, fresh.reason_code,
        reopened=True, note=messages.UNDONE, code=Code.UNDONE, receipt=said.receipt,
    )  # fmt: skip
