"""What a pull does with a workspace row that stands against Neon as it is by now. Pure."""

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
from worker.sync.judging import agreed_on, last_word
from worker.sync.missed import promoted
from worker.sync.replies import adopted
from worker.sync.restore import Comparison


def bring_up_to_date(entity: Entity, row: Row, fresh: InvalidRow, neon_state: NeonState) -> tuple[Refresh, list[Entry]]:
    """Merge Neon's record into a workspace row."""
    mine = row.claimed
    if row.code == Code.LOST and row.queued:
        # It was set to complete, and waited for its record: all in which they differ is the enricher's.
        return Refresh(
            mine.key, fresh.id, mine.data, fresh.data, Status.COMPLETE, None, None, None, reopened=True,
            note=messages.RELEASED, code=Code.RELEASED,
        ), []  # fmt: skip
    came_back = row.code in (Code.LEFT, Code.GONE, Code.LOST)
    base = fresh.data if row.code == Code.LOST else agreed_on(entity, mine, fresh.data, neon_state)
    at = neon_state.moved_at(fresh.updated_at)
    merged = merge(base, last_word(mine, neon_state), fresh.data, mine.version, at, entity.rules.normalise)
    reopened = row.promoted or came_back
    first_seen = reopened or mine.status == Status.PENDING
    lost = [c.field for c in merged.conflicts if c.winner == "neon"]
    note, code = None, None
    if row.promoted:
        merged, kept = _never_empty_over_a_value(merged, mine.data)
        note, code = messages.invalid_again(kept), Code.INVALID_AGAIN
    elif lost:
        note, code = messages.not_kept(lost), Code.CONFLICT
    refresh = Refresh(
        key=mine.key,
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
        receipt=_heard_by_this(mine, neon_state),
        forget=neon_state.forgotten,
    )
    if not merged.conflicts:
        return refresh, []
    seal = f"{mine.key}|{mine.delivery_hash}|{fresh.hash}"
    return refresh, [Entry(mine.key, Outcome.MERGED, seal, merged.data, merged.conflicts)]


def hears_of_it_here(row: Row, neon_state: NeonState) -> bool:
    """Whether a promoted row that stands against an invalid record turned invalid again, and is not one that was not
    told of an undo, or whose promotion a restored Neon has forgotten.
    """
    said, told = neon_state.latest, row.claimed.receipt
    undone = said is not None and said.outcome is Outcome.UNDONE and (told is None or said.receipt.id > told.id)
    return not (neon_state.forgotten or undone)


def _status(row: Row, reopened: bool) -> str:
    status = row.claimed.status
    # A status that somebody wrote before the CHECK was there starts over.
    if (reopened and status != Status.IN_PROGRESS) or row.promoted or status not in set(Status):
        return Status.PENDING
    return status


def _never_empty_over_a_value(merged: Merged, typed: Data) -> tuple[Merged, list[str]]:
    """What the record lacks now that it turned invalid again, as the enricher had it; and the names of that."""
    kept = [name for name, value in merged.data.items() if value is None and typed.get(name) is not None]
    return Merged({**merged.data, **{n: typed[n] for n in kept}}, merged.enriched_fields, merged.conflicts), kept


def _heard_by_this(row: Claimed, neon_state: NeonState) -> Receipt | None:
    said, told = neon_state.latest, row.receipt
    if neon_state.forgotten:
        return minimum_receipt(row, neon_state)
    if said is None or (told and said.receipt.id <= told.id):
        return None
    return said.receipt if said.outcome is Outcome.FLAGGED or said.pushed else None


@dataclass
class Left:
    """What becomes of rows whose record is not in the invalid table, by what is known of it."""

    promoted: list[Reply] = field(default_factory=list)
    """They are told that their record was promoted."""
    gone: list[str] = field(default_factory=list)
    """Nobody worked on them: they are withdrawn."""
    orphans: list[str] = field(default_factory=list)
    """They stay, with a note."""
    strangers: list[str] = field(default_factory=list)
    """They never came from Neon."""
    lost: list[str] = field(default_factory=list)
    """Neon was restored to a moment before they came from it."""

    def in_words(self) -> dict[str, str]:
        """Key → what would happen."""
        return {
            **{reply.key: "was promoted: would be told" for reply in self.promoted},
            **dict.fromkeys(self.gone, "left Neon: would be withdrawn"),
            **dict.fromkeys(self.orphans, "left Neon, but edited here: would be kept with a note"),
            **dict.fromkeys(self.lost, "Neon was restored and does not have it any more: would be kept"),
        }


def part(rows: Mapping[str, Row], neon_states: Mapping[str, NeonState], found: Comparison) -> Left:
    """Part rows whose record is not in the invalid table by what is known of it."""
    left = Left()
    for key, row in rows.items():
        neon_state = neon_states[key]
        said = neon_state.latest
        if row.queued:
            if said is None and neon_state.master is None and row.claimed.pulled and _lost(row, found):
                left.lost.append(key)  # else its delivery tells it
        elif said and said.outcome is Outcome.PROMOTED:
            left.promoted.append(promoted(row, said))
        elif row.carried and neon_state.master is not None and said is None:
            left.promoted.append(adopted(row.claimed))
        elif not row.claimed.pulled:
            if row.code != Code.GONE:
                left.strangers.append(key)
        elif _lost(row, found):
            left.lost.append(key)
        elif row.untouched and row.code != Code.GONE:  # what was lost in a restore was booked, and is kept
            left.gone.append(key)
        elif row.code not in (Code.LEFT, Code.GONE) and not row.promoted:
            left.orphans.append(key)
    return left


def _lost(row: Row, found: Comparison) -> bool:
    """Whether the row may have been pulled after the moment that Neon was restored to."""
    return found.neon_restored and (found.after is None or row.pulled_at is None or row.pulled_at >= found.after)
