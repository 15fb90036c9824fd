"""The two servers, the databases of every trial, and the judgement of what a contestant left in them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from bench import records
from bench.process import await_that, environment, run
from worker.demo.embedded import EmbeddedServer

NEON_VERSION, SUPABASE_VERSION = 18, 16
SETTINGS = {
    "shared_buffers": "256MB",
    # No checkpoint in the middle of one contestant's round and not of another's.
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}
"""What both servers are given beyond PostgreSQL's defaults, for all contestants; ``fsync`` is said apart."""


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection in autocommit."""
    return psycopg.connect(url, autocommit=True, options="-c TimeZone=UTC")


@dataclass(frozen=True)
class Pair:
    """Neon and Supabase of one trial."""

    neon: str
    supabase: str

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a process that works on them."""
        return environment(self.neon, self.supabase, **more)


class Lab:
    """Two embedded servers; a context manager. Databases are copies of templates, so every trial begins alike."""

    def __init__(self, *, fsync: bool) -> None:
        """Prepare two servers, not started yet; ``fsync`` as in PostgreSQL's setting."""
        settings = {**SETTINGS, "fsync": "on" if fsync else "off"}
        self._stack = ExitStack()
        self.neon = EmbeddedServer(NEON_VERSION, settings=settings)
        self.supabase = EmbeddedServer(SUPABASE_VERSION, settings=settings)
        self.folder = Path(tempfile.mkdtemp(prefix="enrichment-bench-"))
        self._templates: set[str] = set()
        self._number = 0
        self.building = 0.0
        """Seconds spent on templates."""

    def __enter__(self) -> Self:
        try:
            for server in (self.neon, self.supabase):
                self._stack.enter_context(server)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pair(self, name: str) -> Pair:
        return Pair(self.neon.url(name), self.supabase.url(name))

    def _create(self, name: str, template: str | None) -> Pair:
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template))
        for server in (self.neon, self.supabase):
            with connect(server.url()) as admin:
                admin.execute(statement)
        return self._pair(name)

    def _drop(self, name: str) -> None:
        for server in (self.neon, self.supabase):
            with connect(server.url()) as admin:
                admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def template(self, rows: int, contestant: Any = None, *, pulled: bool = True) -> str:
        """The name of the template with ``rows`` companies, set up for a contestant.

        Args:
            rows: companies in Neon's invalid table.
            contestant: whose queue and triggers it has; None for what ``setup`` makes.
            pulled: whether they are in the workspace too.
        """
        name = f"t{rows}{'' if pulled else '_unpulled'}"
        if contestant and contestant.install:
            return self.made(
                f"{name}_{contestant.name}", contestant.install, lambda: self.template(rows, pulled=pulled)
            )

        def fill(pair: Pair) -> None:
            run(["worker", "setup"], pair.env(), seconds=60)
            with connect(pair.neon) as neon:
                neon.execute(records.fill_invalid(1, rows))
                neon.execute("SELECT setval('marketing.company_invalid_id_seq', %s)", [rows])
            if pulled:
                with connect(pair.supabase) as supabase, supabase.transaction():
                    supabase.execute("SET LOCAL enrichment_worker.writer = 'on'")
                    supabase.execute(records.fill_workspace(rows))
                    supabase.execute(records.POSITION, [rows])

        return self.made(name, fill)

    def made(self, name: str, fill: Callable[[Pair], None], base: Callable[[], str] | None = None) -> str:
        """The template of this name, made the first time it is asked for.

        Args:
            name: its name.
            fill: makes what is in it.
            base: the name of the template that it begins as a copy of; by default it begins empty.
        """
        if name in self._templates:
            return name
        on = base() if base else None
        began = time.monotonic()
        pair = self._create(name, on)
        try:
            fill(pair)
        except BaseException:
            self._drop(name)
            raise
        for url in (pair.neon, pair.supabase):
            with connect(url) as connection:
                connection.execute("VACUUM (ANALYZE, FREEZE)")
        self._templates.add(name)
        self.building += time.monotonic() - began
        return name

    def processes(self) -> dict[str, list[int]]:
        """The first process of each server: all others are its children."""
        servers = {"neon": self.neon, "supabase": self.supabase}
        return {name: [int((it.data / "postmaster.pid").read_text().split()[0])] for name, it in servers.items()}

    @contextmanager
    def databases(self, template: str) -> Iterator[Pair]:
        """A copy of a template, dropped at the end."""
        self._number += 1
        name = f"trial_{self._number}"
        try:
            pair = self._create(name, template)
            os.sync()  # else the disk is still writing the copy while the first contestants run
            yield pair
        finally:
            with suppress(psycopg.Error):
                self._drop(name)

    def forget(self, *names: str | int) -> None:
        """Drop these templates, and of a number those with so many companies: a million of them take gigabytes."""
        prefixes = {str(name) if isinstance(name, str) else f"t{name}" for name in names}
        for name in [one for one in self._templates if one in prefixes or one.split("_")[0] in prefixes]:
            self._drop(name)
            self._templates.discard(name)


def sessions_ended(*connections: psycopg.Connection[Any]) -> None:
    """Wait until nobody else works on the databases of these connections: a server process counts what it did when it
    ends.

    Raises:
        TimedOut: somebody does not end.
    """
    others = """SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
      AND pid <> pg_backend_pid() AND backend_type = 'client backend')"""
    for side in connections:
        await_that("the end of its sessions", lambda side=side: bool(_one(side, others)[0]), seconds=30)


def _twice(expression: str) -> str:
    """An expression where psycopg looks for placeholders."""
    return expression.replace("%", "%%")


_NEON_SAYS = f"""
WITH e AS (
  SELECT n, {_twice(records.KEY)} AS key, (n %% {records.BAD_EVERY} <> 0 OR NOT %(rules)s) AS good
  FROM generate_series(1, %(flipped)s) n WHERE n <> ALL (%(without)s::int[])
)
SELECT
  count(*) FILTER (WHERE m.company_unique_id IS NULL AND i.company_unique_id IS NULL) AS lost,
  count(*) FILTER (WHERE m.company_unique_id IS NOT NULL AND i.company_unique_id IS NOT NULL) AS doubled,
  count(*) FILTER (WHERE NOT e.good AND m.company_unique_id IS NOT NULL) AS promoted_against_the_rules,
  count(*) FILTER (WHERE e.good AND m.company_unique_id IS NULL AND i.company_unique_id IS NOT NULL) AS not_promoted,
  count(*) FILTER (WHERE m.updated_at <> m.created_at) AS promoted_twice,
  count(*) FILTER (WHERE %(rules)s AND e.good AND m.company_unique_id IS NOT NULL AND (m.website_url, m.company_phone,
    m.employee_count, m.company_name, m.address_street, m.address_zip, m.source_record_id, m.import_batch_id,
    m.validated_by) IS DISTINCT FROM ({_twice(records.NORMAL)}, {_twice(records.PHONE)},
    10 + n %% 90, 'Alder Works ' || n, n || ' Alder Street', '26599', n::text, '{records.BATCH}', '{records.ENRICHER}'))
    AS written_wrongly,
  count(*) FILTER (WHERE %(rules)s AND NOT e.good AND (i.still_invalid IS NOT TRUE OR i.reason_code <> 'PLACEHOLDER_WEBSITE'))
    AS not_flagged,
  (SELECT count(*) FROM marketing.company_master) - count(*) FILTER (WHERE e.good) AS masters_too_many,
  count(*) FILTER (WHERE e.good) AS promoted
FROM e LEFT JOIN marketing.company_master m ON m.company_unique_id = e.key
  LEFT JOIN marketing.company_invalid i ON i.company_unique_id = e.key"""

_WORKSPACE_SAYS = f"""
SELECT
  count(*) FILTER (WHERE enrichment_status IS DISTINCT FROM CASE WHEN good THEN 'complete' ELSE 'failed' END
    OR pushed_to_neon_at IS NULL OR (promoted_at IS NOT NULL) <> good) AS not_told,
  count(*) FILTER (WHERE NOT good AND coalesce(validation_errors ->> 'website', '') = '') AS not_told_why
FROM (SELECT *, (neon_id %% {records.BAD_EVERY} <> 0 OR NOT %(rules)s) AS good
  FROM public.company_needs_enrichment WHERE neon_id <= %(flipped)s) w"""

# What the server itself counted, rolled-back work apart: writes beyond one for each record are repeats.
_WRITES = """
SELECT n_tup_ins + n_tup_upd, (SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database())
FROM pg_stat_user_tables WHERE schemaname = 'marketing' AND relname = 'company_master'"""


def judge(pair: Pair, flipped: int, *, rules: bool, without: Sequence[int] = ()) -> list[str]:
    """What is wrong with the final state after the first ``flipped`` companies went, to the row; empty if nothing.

    Args:
        pair: the databases; nobody works on them any more.
        flipped: how many were set to complete.
        rules: whether the contestant judges by the rules; without, every record is to be promoted.
        without: numbers among them that were not flipped, and are gone from both databases.
    """
    wrong: dict[str, int] = {}
    params: Mapping[str, Any] = {"flipped": flipped, "rules": rules, "without": list(without)}
    with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
        sessions_ended(neon, supabase)
        for side, question in ((neon, _NEON_SAYS), (supabase, _WORKSPACE_SAYS)):
            cursor = side.execute(question, params)
            assert cursor.description is not None
            wrong |= dict(zip((column.name for column in cursor.description), cursor.fetchone() or (), strict=True))
        promoted = wrong.pop("promoted")
        writes, rolled_back = _one(neon, _WRITES)
        if not rolled_back and writes > promoted:
            wrong["master_written_again"] = writes - promoted
    return [f"{count} {what.replace('_', ' ')}" for what, count in wrong.items() if count]


def _one(connection: psycopg.Connection[Any], question: str) -> tuple[Any, ...]:
    row = connection.execute(question).fetchone()
    assert row is not None
    return tuple(row)
