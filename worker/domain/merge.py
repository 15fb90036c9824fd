"""Merge by field: what the enricher changed and what Neon changed are both kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from worker.domain.model import Data
from worker.domain.steps import Conflict, Merged


def merge(
    base: Data,
    enricher: Data,
    neon: Data,
    enricher_at: datetime | None = None,
    neon_at: datetime | None = None,
    normalise: Callable[[Data], Data] = dict,
) -> Merged:
    """Merge the enricher's and Neon's version of one record, field by field.

    If both changed the same field to different values, the later ``updated_at`` wins. A tie,
    or an unknown time, goes to the enricher. Two values that normalise to the same value are no conflict.

    Args:
        base: the data columns that both sides last agreed on.
        enricher: the enricher's data columns.
        neon: Neon's data columns.
        enricher_at: when the enricher last edited; UTC, without zone.
        neon_at: when Neon's row last changed; UTC, without zone.
        normalise: the entity's normalisation; decides which values are equal.
    """
    if neon == base:
        return Merged(enricher, tuple([name for name, value in enricher.items() if value != base.get(name)]))
    neon_is_newer = enricher_at is not None and neon_at is not None and neon_at > enricher_at
    data: Data = {}
    enriched: list[str] = []
    conflicts: list[Conflict] = []
    plain: tuple[Data, Data] | None = None
    for name, enricher_value in enricher.items():
        base_value, neon_value = base.get(name), neon.get(name)
        data[name] = neon_value
        if enricher_value in (base_value, neon_value):
            continue
        if neon_value != base_value:
            plain = plain or (normalise(enricher), normalise(neon))
            if plain[0].get(name) == plain[1].get(name):
                continue
            conflicts.append(Conflict(name, enricher_value, neon_value, winner="neon" if neon_is_newer else "enricher"))
            if neon_is_newer:
                continue
        data[name] = enricher_value
        enriched.append(name)
    return Merged(data, tuple(enriched), tuple(conflicts))
