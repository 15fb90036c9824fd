"""Trials of single flips: from the flip to the record's arrival in the master, and to the answer in its row."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import psycopg

from bench import people, records
from bench.contestants import CONTESTANTS, Contestant
from bench.flips import Disqualified, check, linked, start
from bench.lab import Lab, Pair, connect, sessions_ended
from bench.process import Process, TimedOut
from bench.records import Kind

WARM_UP = 5
MOST_WAIT = 60.0
"""Seconds that one flip may take."""

# Triggers that tell the bench the moment a record stands in the master, and the moment its row says so: the same for all.
_TELL = """
CREATE FUNCTION {channel}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('{channel}', NEW.{column});
  RETURN NULL;
END $$;
CREATE TRIGGER {channel} AFTER {event} FOR EACH ROW {condition}EXECUTE FUNCTION {channel}()"""


def single(lab: Lab, contestant: Contestant, flips: int, *, delay: float = 0.0) -> dict[str, Any]:
    """Flip one company after another on an idle contestant.

    Args:
        lab: the servers.
        contestant: who.
        flips: how many are measured, after a few to warm up.
        delay: seconds added to each direction of both links; neither the enricher nor the bench is behind them.

    Raises:
        Failed: one did not come, or the final state is wrong.
    """
    total = flips + WARM_UP
    rows = total + total // (records.BAD_EVERY - 1) + 2
    numbers = [number for number in range(1, rows + 1) if not records.is_bad(number)][:total]
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(rows, contestant)))
        _watch(pair, records.COMPANY)
        with ExitStack() as running:
            seen, _ = linked(running, pair, delay=delay)
            (process,) = start(running, lab, contestant, seen)
            values = _one_after_another(pair, records.COMPANY, process, numbers)
        # Judged as the backlog is: the bad ones were never flipped, so only the good ones are compared.
        _judge_flipped(pair, numbers, rows, contestant)
    return values


def crowded(lab: Lab, rows: int, others: int, flips: int) -> dict[str, Any]:
    """Flip one person after another in a workspace of ``rows`` people, beside others that wait or are held.

    Args:
        lab: the servers.
        rows: people in the workspace.
        others: so many of them wait for their company, and so many companies are queued that Neon does not take.
        flips: how many are measured, after a few to warm up.

    Raises:
        Failed: one did not come, or something else moved.
    """
    numbers = range(1, flips + WARM_UP + 1)
    with lab.databases(people.crowd(lab, rows, others)) as pair:
        _watch(pair, people.PEOPLE)
        with ExitStack() as running:
            (process,) = start(running, lab, CONTESTANTS["worker"], pair)
            if others:
                people.hold_companies(pair, others)
            values = _one_after_another(pair, people.PEOPLE, process, numbers)
        with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
            sessions_ended(neon, supabase)
            if wrong := people.judge_crowd(neon, supabase, rows, others, len(numbers)):
                raise Disqualified("; ".join(wrong))
    return values


def _watch(pair: Pair, kind: Kind) -> None:
    with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
        arrived, settled = f"INSERT OR UPDATE ON {kind.master}", f"UPDATE ON {kind.workspace}"
        first = "WHEN (NEW.promoted_at IS NOT NULL AND OLD.promoted_at IS NULL) "
        neon.execute(_TELL.format(channel="bench_arrived", column=kind.column, event=arrived, condition=""))
        supabase.execute(_TELL.format(channel="bench_settled", column=kind.column, event=settled, condition=first))


def _one_after_another(pair: Pair, kind: Kind, process: Process, numbers: Iterable[int]) -> dict[str, Any]:
    """Milliseconds of each flip but the first few: to the master, and to the row."""
    arrived, settled = [], []
    with connect(pair.neon) as master, connect(pair.supabase) as workspace, connect(pair.supabase) as enricher:
        master.execute("LISTEN bench_arrived")
        workspace.execute("LISTEN bench_settled")
        for number in numbers:
            time.sleep(random.uniform(0.03, 0.06))  # idle again, and in step with nobody's timer
            key = kind.key(number)
            began = time.perf_counter()
            enricher.execute(kind.flip_one, [key])
            # A record is in the master before its row says so: one after the other is as good as both at once.
            for side, times in ((master, arrived), (workspace, settled)):
                _hear(side, key, process)
                times.append((time.perf_counter() - began) * 1000)
    return {
        "milliseconds": [round(one, 3) for one in arrived[WARM_UP:]],
        "settled_milliseconds": [round(one, 3) for one in settled[WARM_UP:]],
    }


def _hear(side: psycopg.Connection[Any], key: str, process: Process) -> None:
    told = [note.payload for note in side.notifies(timeout=MOST_WAIT, stop_after=1)]
    process.check()
    if told != [key]:
        raise TimedOut(f"record {key}: {told or f'nothing within {MOST_WAIT:.0f} s'}")


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
