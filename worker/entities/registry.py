"""All entities."""

from __future__ import annotations

from worker.entities.declaration import Entity
from worker.entities.loader import load_entities

ENTITIES: dict[str, Entity] = load_entities()
