"""All entities."""

from __future__ import annotations

from worker.entities.company import COMPANY
from worker.entities.declaration import Entity
from worker.entities.people import PEOPLE

# Companies first: people wait for theirs.
ENTITIES: dict[str, Entity] = {entity.name: entity for entity in (COMPANY, PEOPLE)}
