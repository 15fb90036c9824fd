"""Whether a workspace row descends from the version of it that was carried. A row from a backup does not: it lacks what
reached Neon after the backup was made. Pure.
"""

from __future__ import annotations

from worker.domain.model import Data, stamp
from worker.domain.steps import Claimed, Sent

FULL = 32 * 27 - 1
"""Characters of ``queued_versions`` that the trigger keeps: 32 versions, with commas between."""


def is_older(row: Claimed, sent: Sent) -> bool:
    """Whether the row is older than the version that was carried, and was not edited since."""
    return sent.version is not None and row.version is not None and row.version < sent.version


def descends(row: Claimed, sent: Sent) -> bool:
    """Whether the row is the version that was carried, or descends from it."""
    if sent.version is None or row.queued_versions is None:
        # No trigger has kept the versions. A flip clears pushed_to_neon_at and leaves enriched_at.
        return row.pushed_at is None and row.enriched_at == sent.enriched_at
    carried, kept = stamp(sent.version), row.queued_versions
    # A full list has lost its oldest versions: nobody queues a row from a backup so many times.
    return sent.version == row.version or carried in kept or (len(kept) >= FULL and carried < kept)


def with_neon_values(data: Data, sent: Sent, neon: Data) -> Data:
    """The row's data, with Neon's current values in the cells that are as they were carried and not the enricher's."""
    if not sent.enriched_fields:  # written by a release that did not keep them
        return data
    carried = sent.record or {}
    return {
        name: neon[name] if name in neon and name not in sent.enriched_fields and value == carried.get(name) else value
        for name, value in data.items()
    }


def is_edited(row: Claimed, name: str) -> bool:
    """Whether the row holds another value in a column than it had from Neon."""
    return bool(row.data.get(name) != row.snapshot.get(name))


def with_carried_values(row: Claimed, sent: Sent) -> Data:
    """The row's data. If the row is from a backup, the carried values that it lacks are laid over it, as by
    :func:`lay_over`.
    """
    if not is_older(row, sent) and (descends(row, sent) or sent.is_shown_by(row.receipt)):
        return row.data
    return lay_over(row, sent, sent.record or {})


def lay_over(row: Claimed, sent: Sent, values: Data) -> Data:
    """The data of a row from a backup, with values of what was carried, except where somebody has typed since the
    restore: that is newer. A cell that was typed back to Neon's value cannot be distinguished from one that was left
    alone.
    """
    older = is_older(row, sent)
    return {**row.data, **{name: value for name, value in values.items() if older or not is_edited(row, name)}}
