"""Merge by field: what the enricher changed and what Neon changed are both kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from worker.domain.model import Data
from worker.domain.steps import Conflict, Merged


def merge(
    base: Data,
    mine: Data,
    theirs: Data,
    mine_at: datetime | None = None,
    theirs_at: datetime | None = None,
    normalise: Callable[[Data], Data] = dict,
) -> Merged:
    """Merge the enricher's and Neon's version of one record, field by field.

    Where both changed the same field to different values, the later ``updated_at`` wins, and a tie,
    or an unknown time, goes to the enricher. Two values that normalise to the same are no conflict.

    Args:
        base: the data columns both sides last agreed on.
        mine: the enricher's data columns.
        theirs: Neon's data columns.
        mine_at: when the enricher last edited; UTC, without zone.
        theirs_at: when Neon's row last changed; UTC, without zone.
        normalise: the entity's normalisation, by which equal values are recognised.
    """
    if theirs == base:
        return Merged(mine, tuple(name for name, value in mine.items() if value != base.get(name)))
    neon_is_newer = mine_at is not None and theirs_at is not None and theirs_at > mine_at
    data: Data = {}
    enriched: list[str] = []
    conflicts: list[Conflict] = []
    plain: tuple[Data, Data] | None = None
    for name, mine_value in mine.items():
        base_value, theirs_value = base.get(name), theirs.get(name)
        data[name] = theirs_value
        if mine_value in (base_value, theirs_value):
            continue
        if theirs_value != base_value:
            plain = plain or (normalise(mine), normalise(theirs))
            if plain[0].get(name) == plain[1].get(name):
                continue
            conflicts.append(Conflict(name, mine_value, theirs_value, winner="neon" if neon_is_newer else "enricher"))
            if neon_is_newer:
                continue
        data[name] = mine_value
        enriched.append(name)
    return Merged(data, tuple(enriched), tuple(conflicts))
