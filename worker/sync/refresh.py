"""What a pull does with an existing workspace row, given Neon's current record. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.domain import messages
from worker.domain.merge import merge
from worker.domain.model import Code, Data, Outcome, Receipt, Status
from worker.domain.steps import Claimed, Merged
from worker.entities.declaration import Entity
from worker.neon.books import Entry
from worker.neon.invalid import InvalidRow
from worker.neon.ledger import NeonState, minimum_receipt
from worker.supabase.acknowledgement import Reply
from worker.supabase.queue import Row
from worker.supabase.workspace import Refresh
from worker.sync.judging import agreed_on, latest_values
from worker.sync.missed import reply_to_promoted
from worker.sync.replies import adopted
from worker.sync.restore import Comparison


def bring_up_to_date(entity: Entity, row: Row, fresh: InvalidRow, neon_state: NeonState) -> tuple[Refresh, list[Entry]]:
    """Merge Neon's record into a workspace row."""
    claimed = row.claimed
    if row.code == Code.LOST and row.undelivered:
        # It was set to complete, and waited for its record: every difference is the enricher's.
        return Refresh(
            claimed.key, fresh.id, claimed.data, fresh.data, Status.COMPLETE, None, None, None, reopened=True,
            note=messages.RELEASED, code=Code.RELEASED,
        ), []  # fmt: skip
    # It may have left and come again between two pulls: what the row says of it is about the one that left.
    replaced = row.neon_id not in (None, fresh.id) and not (fresh.still_invalid or fresh.unjudged)
    told = row.pushed and (claimed.status == Status.FAILED or row.carried)
    came_back = row.code in (Code.LEFT, Code.GONE, Code.LOST) or (replaced and told)
    base = fresh.data if row.code == Code.LOST else agreed_on(entity, claimed, fresh.data, neon_state)
    at = neon_state.moved_at(fresh.updated_at)
    merged = merge(base, latest_values(claimed, neon_state), fresh.data, claimed.version, at, entity.rules.normalise)
    reopened = row.promoted or came_back
    first_seen = reopened or claimed.status == Status.PENDING
    lost = [c.field for c in merged.conflicts if c.winner == "neon"]
    note, code = None, None
    if row.promoted:
        merged, kept = _keep_values(merged, claimed.data)
        note, code = messages.invalid_again(kept), Code.INVALID_AGAIN
    elif lost:
        note, code = messages.not_kept(lost), Code.CONFLICT
    refresh = Refresh(
        key=claimed.key,
        neon_id=fresh.id,
        data=merged.data,
        snapshot=fresh.data,
        status=_status(row, reopened),
        original_errors=fresh.errors if first_seen else None,
        original_warnings=fresh.warnings if first_seen else None,
        reason_code=fresh.reason_code if first_seen else None,
        reopened=reopened,
        note=note,
        code=code,
        cleared=reopened,
        receipt=_new_receipt(claimed, neon_state),
        forget=neon_state.forgotten,
    )
    if not merged.conflicts:
        return refresh, []
    entry_hash = f"{claimed.key}|{claimed.delivery_hash}|{fresh.hash}"
    return refresh, [Entry(claimed.key, Outcome.MERGED, entry_hash, merged.data, merged.conflicts)]


def turned_invalid_again(row: Row, neon_state: NeonState) -> bool:
    """Whether a promoted row with an invalid record turned invalid again. Else an undo was not acknowledged yet, or a
    restored Neon has forgotten the promotion.
    """
    latest, shown = neon_state.latest, row.claimed.receipt
    undone = latest is not None and latest.outcome is Outcome.UNDONE and (shown is None or latest.receipt.id > shown.id)
    return not (neon_state.forgotten or undone)


def _status(row: Row, reopened: bool) -> str:
    status = row.claimed.status
    # A status from before the CHECK existed starts over.
    if (reopened and status != Status.IN_PROGRESS) or row.promoted or status not in set(Status):
        return Status.PENDING
    return status


def _keep_values(merged: Merged, typed: Data) -> tuple[Merged, list[str]]:
    """Keep the enricher's values of fields that are empty now that the record is invalid again; also their names."""
    kept = [name for name, value in merged.data.items() if value is None and typed.get(name) is not None]
    return Merged({**merged.data, **{n: typed[n] for n in kept}}, merged.enriched_fields, merged.conflicts), kept


def _new_receipt(row: Claimed, neon_state: NeonState) -> Receipt | None:
    latest, shown = neon_state.latest, row.receipt
    if neon_state.forgotten:
        return minimum_receipt(row, neon_state)
    if latest is None or (shown and latest.receipt.id <= shown.id):
        return None
    return latest.receipt if latest.outcome is Outcome.FLAGGED or latest.pushed else None


@dataclass
class MissingRows:
    """Rows whose record is not in the invalid table, sorted by what happens to them."""

    promoted: list[Reply] = field(default_factory=list)
    """Replies to rows whose record was promoted."""
    gone: list[str] = field(default_factory=list)
    """Nobody worked on these rows: they are withdrawn."""
    orphans: list[str] = field(default_factory=list)
    """These rows stay, with a note."""
    strangers: list[str] = field(default_factory=list)
    """These rows never came from Neon."""
    lost: list[str] = field(default_factory=list)
    """Neon was restored to a moment before these rows were pulled."""

    def in_words(self) -> dict[str, str]:
        """Key → what would happen."""
        return {
            **{reply.key: "was promoted: would be told" for reply in self.promoted},
            **dict.fromkeys(self.gone, "left Neon: would be withdrawn"),
            **dict.fromkeys(self.orphans, "left Neon, but edited here: would be kept with a note"),
            **dict.fromkeys(self.lost, "Neon was restored and does not have it any more: would be kept"),
        }


def sort_missing(rows: Mapping[str, Row], neon_states: Mapping[str, NeonState], found: Comparison) -> MissingRows:
    """Sort rows whose record is not in the invalid table by what happens to them."""
    left = MissingRows()
    for key, row in rows.items():
        neon_state = neon_states[key]
        latest = neon_state.latest
        if row.undelivered:
            if latest is None and neon_state.master is None and row.claimed.pulled and _lost(row, found):
                left.lost.append(key)  # else its delivery acknowledges it
        elif latest and latest.outcome is Outcome.PROMOTED:
            left.promoted.append(reply_to_promoted(row, latest))
        elif row.carried and neon_state.master is not None and latest is None:
            left.promoted.append(adopted(row.claimed))
        elif not row.claimed.pulled:
            if row.code != Code.GONE:
                left.strangers.append(key)
        elif _lost(row, found):
            left.lost.append(key)
        elif row.untouched and row.code != Code.GONE:  # rows lost in a restore were booked, and are kept
            left.gone.append(key)
        elif row.code not in (Code.LEFT, Code.GONE) and not row.promoted:
            left.orphans.append(key)
    return left


def _lost(row: Row, found: Comparison) -> bool:
    """Whether the row may have been pulled after the moment to which Neon was restored."""
    return found.neon_restored and (found.after is None or row.pulled_at is None or row.pulled_at >= found.after)
