"""A database copied and put back, as a provider restores a branch or a backup: whole, at the same address."""

from __future__ import annotations

from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql


class Copy:
    """A copy of a database, taken when this is made. Sessions are ended, as a restore ends them."""

    def __init__(self, url: str, suffix: str = "copy") -> None:
        parts = urlsplit(url)
        self.name = parts.path.removeprefix("/")
        self.copy = f"{self.name}_{suffix}"
        self._server = urlunsplit(parts._replace(path="/postgres"))
        self._make(self.copy, self.name)

    def put_back(self) -> None:
        """Restore the database to the moment at which it was copied; the copy stays."""
        self._make(self.name, self.copy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with psycopg.connect(self._server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.copy)))

    def _make(self, new: str, of: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(new)))
            for _ in range(100):
                # Who connects again at once keeps it from being copied.
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [of])
                try:
                    admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (new, of))))
                except psycopg.errors.ObjectInUse:
                    continue
                return
            raise AssertionError(f"{of} is never free to be copied")
