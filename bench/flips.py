"""Trials of a backlog: many records set to complete at once. And how any trial starts a contestant and judges it."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from typing import Any

from bench import records
from bench.contestants import Contestant
from bench.cpu import Meter
from bench.lab import Lab, Pair, connect, judge, sessions_ended
from bench.link import Links
from bench.process import Failed, Process, TimedOut

SETTLE_SECONDS = 1.0
"""From ready to the first flip: what a contestant does on its start is over by then."""
_STARTED = iter(range(1, 1_000_000))

_LEFT = """
SELECT EXISTS (SELECT FROM public.company_needs_enrichment
  WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL AND waiting_for IS NULL)"""


class Disqualified(Failed):
    """The final state is not what it must be."""


def start(
    stack: ExitStack, lab: Lab, contestant: Contestant, pair: Pair, number: int = 1, **settings: str
) -> list[Process]:
    """Start ``number`` processes of a contestant on a pair, and wait until they are ready and quiet."""
    started = [
        stack.enter_context(
            Process(contestant.command, pair.env(**settings), lab.folder / f"{contestant.name}-{next(_STARTED)}")
        )
        for _ in range(number)
    ]
    for process in started:
        process.wait_ready(contestant.ready)
    time.sleep(SETTLE_SECONDS)
    return started


def linked(stack: ExitStack, pair: Pair, *, delay: float, counting: bool = False) -> tuple[Pair, Links | None]:
    """The pair as a contestant is to see it: behind links where they delay or count."""
    if not delay and not counting:
        return pair, None
    links = stack.enter_context(Links([pair.neon, pair.supabase], delay=delay, counting=counting))
    return Pair(*links.urls), links


def check(pair: Pair, flipped: int, contestant: Contestant, *, without: list[int] | None = None) -> None:
    """Judge the final state.

    Raises:
        Disqualified: it is wrong; the text says what.
    """
    if wrong := judge(pair, flipped, rules=contestant.rules, without=without or []):
        raise Disqualified("; ".join(wrong))


def backlog(
    lab: Lab,
    contestant: Contestant,
    rows: int,
    *,
    delay: float = 0.0,
    workers: int = 1,
    seconds: float | None = None,
    **settings: str,
) -> dict[str, Any]:
    """Set ``rows`` records to complete in one statement, and measure from its commit to the last acknowledgement.

    What a queue's trigger does in that statement is told apart, and not counted.

    Args:
        lab: the servers.
        contestant: who.
        rows: how many.
        delay: seconds added to each direction of both links.
        workers: how many processes of the contestant.
        seconds: the longest wait for all of it.
        settings: of the processes, beside both addresses: environment variables.

    Returns:
        Among others ``cpu``: the processor seconds of the contestant's own processes and of each server, background
        processes included, from the flip to the last acknowledgement.

    Raises:
        Failed: it was not done in time, or the final state is wrong.
    """
    patience = seconds or 60 + rows / 40
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(rows, contestant)))
        running = ExitStack()
        processes: list[Process] = []
        with running, connect(pair.neon) as neon, connect(pair.supabase) as enricher:
            seen, _ = linked(running, pair, delay=delay)
            if contestant.once is None:
                processes = start(running, lab, contestant, seen, workers, **settings)
            # The flip, and the looks whether all is done, are the bench's.
            meter = Meter(
                {"itself": [process.popen.pid for process in processes], **lab.processes()},
                without=[neon.info.backend_pid, enricher.info.backend_pid],
            )
            began = time.perf_counter()
            enricher.execute(records.FLIP_ALL)
            flipped = time.perf_counter()
            children = _children_seconds()
            if contestant.once is not None:
                contestant.once(seen)
            else:
                wait_done(enricher, processes, flipped, patience)
            took = time.perf_counter() - flipped
            children = _children_seconds() - children
            if contestant.once is not None:
                sessions_ended(neon, enricher)
            cpu = meter.spent()
            if contestant.once is not None and cpu:
                cpu["itself"] = round(children, 3)
            peaks = [peak for process in processes if (peak := process.peak_memory()) is not None]
        check(pair, rows, contestant)
    return {
        "rows": rows, "seconds": round(took, 4), "rows_per_second": round(rows / took, 1),
        "flip_seconds": round(flipped - began, 3), "cpu": cpu, "peak_memory": max(peaks, default=None),
    }  # fmt: skip


def _children_seconds() -> float:
    """Processor time of the bench's own children that have ended: of psql, which works without a process of its own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_done(enricher: Any, processes: list[Process], since: float, patience: float) -> None:
    """Wait until nothing is in the queue.

    Raises:
        Failed: it was not done in time, or a process ended.
    """
    while enricher.execute(_LEFT).fetchone()[0]:
        elapsed = time.perf_counter() - since
        if elapsed > patience:
            raise TimedOut(f"the backlog was not done within {patience:.0f} s")
        for process in processes:
            process.check()
        time.sleep(min(0.25, max(0.004, elapsed / 200)))  # a look costs little, and half a percent of precision
