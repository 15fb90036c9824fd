"""Trials of the pull: the first one of everything, and one of ten new rows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bench import records
from bench.flips import Disqualified
from bench.lab import Lab, Pair, connect
from bench.process import ROOT, Failed, environment, run
from bench.psql import pipe, psql, psql_file

_COLUMNS = ", ".join(("company_unique_id", *records.COLUMNS))
_THERE = f"{_COLUMNS}, id, reason_code, validation_errors, validation_warnings, batch_id, created_at, updated_at"
_HERE = (
    f"{_COLUMNS}, neon_id, reason_code, original_validation_errors, original_validation_warnings, source_batch_id,"
    " created_at, updated_at"
)
TEN = 10
WARM_UP = 2


def first(lab: Lab, contestant: str, rows: int, *, seconds: float) -> dict[str, Any]:
    """Pull ``rows`` companies into an empty workspace, and compare every value with Neon's.

    Args:
        lab: the servers.
        contestant: ``worker``: the command ``pull`` as the tables' owner, its start counted; ``worker, a role``: the
            same as the role of ``sql/roles/supabase.sql``, for which row level security is active; ``psql``: COPY piped
            into COPY of the same columns, into the same table with the same indexes, without the triggers, as the
            owner.
        rows: how many.
        seconds: the longest time.

    Raises:
        Failed: it failed, or what arrived is not what was there.
    """
    with lab.databases(lab.template(rows, pulled=False)) as pair:
        if contestant == "psql":
            with connect(pair.supabase) as supabase:
                supabase.execute("ALTER TABLE public.company_needs_enrichment DISABLE TRIGGER USER")
        seen = _as_role(pair) if contestant == "worker, a role" else pair
        began = time.perf_counter()
        if contestant == "psql":
            pipe(
                psql(pair.neon, f"COPY (SELECT {_THERE} FROM marketing.company_invalid) TO STDOUT"),
                psql(pair.supabase, f"COPY public.company_needs_enrichment ({_HERE}) FROM STDIN"),
            )
        else:
            run(["worker", "pull", "--entity", "company"], seen.env(), seconds=seconds)
        took = time.perf_counter() - began
        _compare(pair, rows, snapshots=contestant != "psql")
    return {"rows": rows, "seconds": round(took, 3), "rows_per_second": round(rows / took, 1)}


def _as_role(pair: Pair) -> Pair:
    """The pair as the worker's own role in Supabase sees it.

    Raises:
        Failed: row level security is not active for it.
    """
    run(psql_file(pair.supabase, ROOT / "sql" / "roles" / "supabase.sql"), pair.env(), seconds=60, python=False)
    parts = urlsplit(pair.supabase)
    url = urlunsplit(parts._replace(netloc=f"enrichment_worker@{parts.hostname}:{parts.port}"))
    with connect(url) as connection:
        active = connection.execute("SELECT row_security_active('public.company_needs_enrichment')").fetchone()
        if active != (True,):
            raise Failed("row level security is not active for the role")
    return replace(pair, supabase=url)


def _compare(pair: Pair, rows: int, *, snapshots: bool) -> None:
    digest = "SELECT count(*), sum(hashtextextended(concat_ws('|', {}), 0)) FROM {}"
    with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
        there = neon.execute(digest.format(_THERE, "marketing.company_invalid")).fetchone()
        here = supabase.execute(digest.format(_HERE, "public.company_needs_enrichment")).fetchone()
        if there != here or there is None or there[0] != rows:
            raise Disqualified(f"what arrived is not what was there: {here} of {there}")
        wrong = supabase.execute(
            "SELECT count(*) FROM public.company_needs_enrichment WHERE enrichment_status <> 'pending'"
            " OR last_sync_hash IS DISTINCT FROM md5(neon_snapshot::text) OR neon_snapshot IS NULL"
        ).fetchone()
        if snapshots and wrong != (0,):
            raise Disqualified(f"{wrong} rows without status or snapshot")


class TenMore:
    """A process that pulls when it is told to, on ``rows`` companies that are there already; a context manager.

    The time is that of :func:`worker.sync.pull.pull` itself: the start of a process would hide the ratio.
    """

    def __init__(self, lab: Lab, rows: int) -> None:
        self.rows = rows
        self._stack = ExitStack()
        self._pair = self._stack.enter_context(lab.databases(lab.template(rows)))
        self._next = rows + 1
        self._process = self._stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "bench.pulling"], env=environment(self._pair.neon, self._pair.supabase), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=lab.folder,
            )
        )  # fmt: skip

    def __enter__(self) -> TenMore:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._stack.close()

    def pull(self) -> float:
        """Add ten rows to Neon and pull them; seconds.

        Raises:
            Failed: not exactly these ten came.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with connect(self._pair.neon) as neon:
            neon.execute(records.fill_invalid(self._next, self._next + TEN - 1))
            neon.execute(
                "UPDATE marketing.company_invalid SET updated_at = now(), created_at = now() WHERE id >= %s",
                [self._next],
            )
        self._next += TEN
        self._process.stdin.write("pull\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the pull ended")
        said = json.loads(line)
        with connect(self._pair.supabase) as supabase:
            row = supabase.execute("SELECT count(*) FROM public.company_needs_enrichment").fetchone()
        if said["new"] != TEN or row is None or row[0] != self._next - 1:
            raise Disqualified(f"{said['new']} of {TEN} new rows came, {row} are there")
        return float(said["seconds"])
