"""Whether a workspace row descends from what was carried of it; a row of a backup does not, and lacks what reached Neon
after that was made. Pure.
"""

from __future__ import annotations

from worker.domain.model import Data, stamp
from worker.domain.steps import Claimed, Sent

FULL = 32 * 27 - 1
"""Characters of the queued versions that the trigger keeps: 32 of them, and commas between."""


def is_older(row: Claimed, sent: Sent) -> bool:
    """Whether the row is from before what was carried, and nobody has typed into it since."""
    return sent.version is not None and row.version is not None and row.version < sent.version


def descends(row: Claimed, sent: Sent) -> bool:
    """Whether the row is what was carried, or a later version of that."""
    if sent.version is None or row.queued_versions is None:
        # No trigger has kept the versions. A flip takes away that the row was pushed before, and leaves when it was
        # enriched.
        return row.pushed_at is None and row.enriched_at == sent.enriched_at
    carried, kept = stamp(sent.version), row.queued_versions
    # Of a list that is full, what came before it is gone: so many versions of a backup nobody has queued.
    return sent.version == row.version or carried in kept or (len(kept) >= FULL and carried < kept)


def with_neons_own(data: Data, sent: Sent, theirs: Data) -> Data:
    """The data of a row, with what Neon holds now in the cells that are as they were carried and not the enricher's."""
    if not sent.enriched_fields:  # a release that did not keep them
        return data
    carried = sent.record or {}
    return {
        name: theirs[name]
        if name in theirs and name not in sent.enriched_fields and value == carried.get(name)
        else value
        for name, value in data.items()
    }


def is_typed(row: Claimed, name: str) -> bool:
    """Whether the row holds another value of a column than it had from Neon."""
    return bool(row.data.get(name) != row.snapshot.get(name))


def with_what_went(row: Claimed, sent: Sent) -> Data:
    """What the row holds, and over it what was carried of it, as far as the row is from a backup and lacks that: what
    was typed since the restore is newer. Who has typed a cell back to what it had from Neon is not told from who has
    left it alone.
    """
    record = sent.record or {}
    if is_older(row, sent):
        return {**row.data, **record}
    if descends(row, sent) or sent.is_told(row.receipt):
        return row.data
    return {**row.data, **{name: value for name, value in record.items() if not is_typed(row, name)}}
