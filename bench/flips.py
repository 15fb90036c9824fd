"""Trials that begin with a flip: one record at a time, or a backlog at once."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import Any

from bench import records
from bench.contestants import Contestant
from bench.lab import Lab, Pair, connect, judge
from bench.link import Links
from bench.process import Failed, Process, TimedOut

SETTLE_SECONDS = 1.0
"""From ready to the first flip: what a contestant does on its start is over by then."""
WARM_UP = 5
_STARTED = iter(range(1, 1_000_000))

# Tells the bench the moment a row is acknowledged, at the same price for all.
_WATCH = """
CREATE FUNCTION bench_done() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('bench_done', NEW.company_unique_id);
  RETURN NULL;
END $$;
CREATE TRIGGER bench_done AFTER UPDATE ON public.company_needs_enrichment FOR EACH ROW
  WHEN (NEW.promoted_at IS NOT NULL AND OLD.promoted_at IS NULL) EXECUTE FUNCTION bench_done()"""

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


def latency(
    lab: Lab, contestant: Contestant, flips: int, *, delay: float = 0.0, seconds: float = 60.0
) -> dict[str, Any]:
    """Flip one record after another on an idle contestant, and wait for each to be acknowledged.

    Args:
        lab: the servers.
        contestant: who.
        flips: how many are measured, after a few to warm up.
        delay: seconds added to each direction of both links; the enricher is not behind them.
        seconds: the longest wait for one.

    Raises:
        Failed: one did not come, or the final state is wrong.
    """
    total = flips + WARM_UP
    rows = total + total // (records.BAD_EVERY - 1) + 2
    numbers = [number for number in range(1, rows + 1) if not records.is_bad(number)][:total]
    took: list[float] = []
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(rows, contestant)))
        with connect(pair.supabase) as enricher:
            enricher.execute(_WATCH)
        running = ExitStack()
        with running, connect(pair.supabase) as observer, connect(pair.supabase) as enricher:
            seen, _ = linked(running, pair, delay=delay)
            (process,) = start(running, lab, contestant, seen)
            observer.execute("LISTEN bench_done")
            for number in numbers:
                time.sleep(random.uniform(0.03, 0.06))  # idle again, and in step with nobody's timer
                key = records.key(number)
                began = time.perf_counter()
                enricher.execute(records.FLIP_ONE, [key])
                told = [note.payload for note in observer.notifies(timeout=seconds, stop_after=1)]
                took.append(time.perf_counter() - began)
                process.check()
                if told != [key]:
                    raise TimedOut(f"record {number}: {told or f'not acknowledged within {seconds:.0f} s'}")
        # Judged as the backlog is: the bad ones were never flipped, so only the good ones are compared.
        _judge_flipped(pair, numbers, rows, contestant)
    return {"milliseconds": [round(one * 1000, 3) for one in took[WARM_UP:]]}


def _judge_flipped(pair: Pair, numbers: list[int], rows: int, contestant: Contestant) -> None:
    bad = [number for number in range(1, rows + 1) if number not in set(numbers)]
    with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
        keys = [records.key(number) for number in bad]
        # What was not flipped must be as it was: pending, and invalid still.
        row = neon.execute(
            "SELECT count(*) FROM marketing.company_invalid WHERE company_unique_id = ANY(%s)", [keys]
        ).fetchone()
        kept = supabase.execute(
            "SELECT count(*) FROM public.company_needs_enrichment WHERE enrichment_status = 'pending'"
        ).fetchone()
        assert row is not None
        assert kept is not None
        if row[0] != len(bad) or kept[0] != len(bad):
            raise Disqualified("records were touched that nobody had flipped")
        neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = ANY(%s)", [keys])
        supabase.execute("DELETE FROM public.company_needs_enrichment WHERE company_unique_id = ANY(%s)", [keys])
    check(pair, rows, contestant, without=bad)


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

    Raises:
        Failed: it was not done in time, or the final state is wrong.
    """
    patience = seconds or 60 + rows / 40
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(rows, contestant)))
        running = ExitStack()
        processes: list[Process] = []
        with running, connect(pair.supabase) as enricher:
            seen, _ = linked(running, pair, delay=delay)
            if contestant.once is None:
                processes = start(running, lab, contestant, seen, workers, **settings)
            cpu = [process.cpu_seconds() for process in processes]
            began = time.perf_counter()
            enricher.execute(records.FLIP_ALL)
            flipped = time.perf_counter()
            if contestant.once is not None:
                contestant.once(pair)
            else:
                _wait_done(enricher, processes, flipped, patience)
            took = time.perf_counter() - flipped
            spent = [
                now - then
                for process, then in zip(processes, cpu, strict=True)
                if then is not None and (now := process.cpu_seconds()) is not None
            ]
            peaks = [peak for process in processes if (peak := process.peak_memory()) is not None]
        check(pair, rows, contestant)
    return {
        "rows": rows, "seconds": round(took, 4), "rows_per_second": round(rows / took, 1),
        "flip_seconds": round(flipped - began, 3), "cpu_seconds": round(sum(spent), 2),
        "peak_memory": max(peaks, default=None),
    }  # fmt: skip


def _wait_done(enricher: Any, processes: list[Process], since: float, patience: float) -> None:
    while enricher.execute(_LEFT).fetchone()[0]:
        elapsed = time.perf_counter() - since
        if elapsed > patience:
            raise TimedOut(f"the backlog was not done within {patience:.0f} s")
        for process in processes:
            process.check()
        time.sleep(min(0.25, max(0.004, elapsed / 200)))  # a look costs little, and half a percent of precision
