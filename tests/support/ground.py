"""What the examples of the state machine share: two servers, databases to begin from, and workers that start quickly."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import Self

from conftest import ROOT, connect
from declared import ENTITIES
from embedded import embedded
from forks import Nursery
from psycopg import sql

from worker.operate.setup import script

ROLE = "enrichment_worker"
SIDES = ("Neon", "Supabase")


class Ground:
    """Two servers with databases that are as ``setup`` and ``sql/roles/`` leave them, to be copied for each example."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.nursery = self._stack.enter_context(Nursery())
        self.servers = [self._stack.enter_context(embedded(version)) for version in (18, 16)]
        for server, side in zip(self.servers, SIDES, strict=True):
            server.create_database("template")
            with connect(server.url("template")) as connection:
                connection.execute(script(side, ENTITIES.values()))
                connection.execute((ROOT / "sql/roles" / f"{side.lower()}.sql").read_text(encoding="utf-8"))
                if side == "Neon":  # as that file says, for retention
                    connection.execute(f"GRANT DELETE ON marketing.enrichment_ledger TO {ROLE}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def databases(self) -> list[str]:
        """The addresses of two new databases, Neon's and Supabase's."""
        number = next(self._numbers)
        urls = []
        for server, side in zip(self.servers, SIDES, strict=True):
            name = f"{side.lower()}_{number}"
            server.create_database(name, template="template")
            urls.append(server.url(name))
        return urls

    def drop(self, names: list[str]) -> None:
        """Drop databases of this name, on whichever server."""
        for server in self.servers:
            with connect(server.url()) as admin:
                for name in names:
                    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
