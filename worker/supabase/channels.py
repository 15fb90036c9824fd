"""Supabase: the channels on which workers hear what happens there, and what is said on them."""

from __future__ import annotations

import json

from worker.entities.declaration import Entity

CHANNEL = "enrichment_complete"
"""There may be work of an entity; the trigger's own words are in ``sql/triggers/00_functions.sql``."""
ALIVE = "enrichment_alive"
"""The channel of notifications that mean no work: every look sends one, with an empty payload, and every statement that
changes a workspace, with ``CHANGED``.
"""
CHANGED = "changed"
"""Counts may have changed."""


def work_of(entity: Entity) -> str:
    """What is said on ``CHANNEL`` of an entity."""
    return json.dumps({"entity": entity.name})
