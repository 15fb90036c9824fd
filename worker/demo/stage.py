"""The demo's environment: two databases, and a worker between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg.rows import DictRow, dict_row
from rich.console import Console

from worker.demo.process import Worker
from worker.entities.loader import load_entities

ENTITIES = load_entities()
"""The demo carries the entities that come with the worker."""
COMPANY, PEOPLE = ENTITIES["company"], ENTITIES["people"]
ENRICHERS = ("ana@enrichers.example", "ben@enrichers.example", "chi@enrichers.example")


Connection = psycopg.Connection[DictRow]


@dataclass
class Stage:
    """The demo's connections, worker and output."""

    neon: Connection
    supabase: Connection
    neon_url: str
    supabase_url: str
    worker: Worker
    console: Console
    echo: Callable[[str], None]


def connect_to(url: str) -> Connection:
    """A connection in autocommit and UTC."""
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, options="-c TimeZone=UTC")
