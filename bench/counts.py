"""Trials that count: round trips of a batch, statements of one flip, and what an idle worker sends."""

from __future__ import annotations

import time
import urllib.request
from contextlib import ExitStack
from typing import Any

from bench import records
from bench.contestants import CONTESTANTS
from bench.flips import check, linked, start
from bench.lab import Lab, connect
from bench.process import Failed, await_that

NEON, SUPABASE = 0, 1
_SIDES = {"neon": NEON, "supabase": SUPABASE}
_CLAIM = "FOR UPDATE OF w SKIP LOCKED"
PROBES = ("/healthz", "/readyz", "/metrics", "/status.json", "/")


def round_trips(lab: Lab, rows: int) -> dict[str, Any]:
    """Count the round trips of one batch of ``rows`` records, from claiming to acknowledging, on both links.

    Raises:
        Failed: no batch of this size was seen.
    """
    worker = CONTESTANTS["worker"]
    first = 1
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(rows + first, worker)))
        running = ExitStack()
        with running, connect(pair.supabase) as enricher:
            seen, links = linked(running, pair, delay=0.0, counting=True)
            assert links is not None
            start(running, lab, worker, seen)
            # The first flip opens the connections; the second is the batch that is counted.
            trips: list[dict[str, Any]] = []
            for statement, params in ((records.FLIP_ONE, [records.key(first)]), (records.FLIP_ALL, None)):
                links.order()
                enricher.execute(statement, params)
                await_that("the batch", lambda: _left(enricher) == 0, seconds=60)
                time.sleep(0.3)
                trips = links.order()["trips"]
        check(pair, rows + first, worker)
    batch = _batch(trips)
    return {
        "rows": rows,
        "round_trips": len(batch),
        "supabase": sum(trip["link"] == SUPABASE for trip in batch),
        "neon": sum(trip["link"] == NEON for trip in batch),
        "statements": sum(trip["statements"] for trip in batch),
    }


def statements(lab: Lab, flips: int) -> dict[str, Any]:
    """Count what a worker sends for one flip, from the flip until its row is told: the mean of several.

    Raises:
        Failed: one was not told.
    """
    worker, first = CONTESTANTS["worker"], 1
    rows = flips + first
    sent: list[dict[str, Any]] = []
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(rows, worker)))
        running = ExitStack()
        with running, connect(pair.supabase) as enricher:
            seen, links = linked(running, pair, delay=0.0, counting=True)
            assert links is not None
            start(running, lab, worker, seen)
            for number in range(1, rows + 1):
                links.order()
                enricher.execute(records.FLIP_ONE, [records.key(number)])
                await_that("the flip", lambda: _left(enricher) == 0, seconds=60, pause=0.005)
                time.sleep(0.1)  # what follows its acknowledgement is sent for it, too
                sent += links.order()["trips"] if number > first else []
        check(pair, rows, worker)
    by_side = {side: sum(t["statements"] for t in sent if t["link"] == link) for side, link in _SIDES.items()}
    return {side: count / flips for side, count in by_side.items()} | {"statements": sum(by_side.values()) / flips}


def _left(enricher: Any) -> int:
    row = enricher.execute(
        "SELECT count(*) FROM public.company_needs_enrichment WHERE enrichment_status = 'complete'"
        " AND pushed_to_neon_at IS NULL"
    ).fetchone()
    return int(row[0])


def _batch(trips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The round trips of the batch: from the claim to the COMMIT on its connection, and Neon's in between."""
    for at, claim in enumerate(trips):
        if claim["link"] != SUPABASE or _CLAIM not in claim["text"]:
            continue
        rest = [trip for trip in trips[at:] if trip["link"] == NEON or trip["connection"] == claim["connection"]]
        ends = [n for n, trip in enumerate(rest) if n and trip["link"] == SUPABASE and "COMMIT" in trip["text"]]
        if ends and any(trip["link"] == NEON for trip in rest[: ends[0]]):
            return rest[: ends[0] + 1]
    raise Failed(f"no batch was seen among {len(trips)} round trips")


def idle(lab: Lab, seconds: float) -> dict[str, Any]:
    """Count what a worker that has nothing to do sends to Neon, while its health address is asked again and again.

    Raises:
        Failed: the worker does not run.
    """
    worker = CONTESTANTS["worker"]
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(1_000, worker)))
        with ExitStack() as running:
            seen, links = linked(running, pair, delay=0.0, counting=True)
            assert links is not None
            (process,) = start(running, lab, worker, seen)
            address = process.log.read_text().partition('"health_address": "')[2].partition('"')[0]
            # A session reports what it has written up to ten seconds late: until then the worker counts once more.
            time.sleep(15)
            before = links.order()
            began = time.monotonic()
            asked = 0
            while time.monotonic() - began < seconds:
                for path in PROBES:
                    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                        answer.read()
                    asked += 1
                time.sleep(1)
            process.check()
            after = links.order()
    neon = [trip for trip in after["trips"] if trip["link"] == NEON]
    return {
        "seconds": seconds, "probes": asked, "statements": sum(trip["statements"] for trip in neon),
        "connections": after["connections"][NEON] - before["connections"][NEON],
        "bytes": after["sent"][NEON] - before["sent"][NEON],
        "supabase_statements": sum(trip["statements"] for trip in after["trips"] if trip["link"] == SUPABASE),
    }  # fmt: skip
