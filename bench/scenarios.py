"""The scenarios: which trials, with whom, how large, how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench import counts, features, flips, latency, people, pulls, starts
from bench.contestants import CONTESTANTS, PEERS
from bench.rounds import Bench
from bench.sizes import FAR, FAR_PATIENCE

LATENCY = ("worker", *PEERS, "naive", "floor")
BACKLOG = (*LATENCY, "set-based")
FAR_BACKLOG = ("worker", "pgqueuer", "graphile-worker", "floor")
FAR_BACKLOG_SETS = ("worker", "floor", "set-based")
PULLS = ("worker", "worker, a role", "psql")


def _round_trips(bench: Bench) -> None:
    for rows in (1, 500):
        bench.interleave(
            f"round trips of {rows}", ["worker"], lambda _, rows=rows: counts.round_trips(bench.lab, rows), rounds=1
        )
    bench.interleave(
        "statements of a flip", ["worker"], lambda _: counts.statements(bench.lab, bench.sizes.counted_flips), rounds=1
    )


def _idle(bench: Bench) -> None:
    bench.interleave("idle", ["worker"], lambda _: counts.idle(bench.lab, bench.sizes.idle_seconds), rounds=1)


def _latency(bench: Bench) -> None:
    def trial(name: str) -> dict[str, Any]:
        # The poller's latency is its pause: a few flips show it.
        number = 4 if name == "naive" else bench.sizes.flips
        return latency.single(bench.lab, CONTESTANTS[name], number)

    names = bench.those(LATENCY)
    bench.interleave("latency", [name for name in names if name != "naive"], trial)
    bench.interleave("latency", [name for name in names if name == "naive"], trial, rounds=1)


def _latency_far(bench: Bench) -> None:
    def trial(name: str) -> dict[str, Any]:
        return latency.single(bench.lab, CONTESTANTS[name], bench.sizes.far_flips, delay=FAR)

    names = [name for name in bench.those(LATENCY) if name != "naive"]
    bench.interleave("latency, 20 ms", names, trial, rounds=1)


def _latency_crowd(bench: Bench) -> None:
    few, many = bench.sizes.crowd

    def trial(name: str) -> dict[str, Any]:
        rows = int(name)
        return latency.crowded(bench.lab, rows, rows // 10 if rows == many else 0, bench.sizes.flips // 2)

    bench.interleave("latency in a crowd", [str(few), str(many)], trial)
    bench.lab.forget(f"crowd{few}", f"crowd{many}")


def _backlog(bench: Bench) -> None:
    for rows in bench.sizes.backlogs:
        names = [name for name in bench.those(BACKLOG) if CONTESTANTS[name].most >= rows]
        # A round of the largest takes minutes: two show the spread. The least is there for the naive one.
        rounds = min(2, bench.rounds) if rows > 50_000 else 1 if rows <= 1_000 else bench.rounds
        bench.interleave(
            f"backlog {rows}",
            names,
            lambda name, rows=rows: flips.backlog(bench.lab, CONTESTANTS[name], rows),
            rounds=rounds,
        )
        if rows > 50_000:
            bench.lab.forget(rows)


def _backlog_far(bench: Bench) -> None:
    with_queues, without = bench.sizes.far_backlogs
    for rows, those, rounds in ((with_queues, FAR_BACKLOG, 1), (without, FAR_BACKLOG_SETS, bench.rounds)):
        bench.interleave(
            f"backlog {rows}, 20 ms", bench.those(those),
            # So long that whoever works at all is done: a job a record, one after the other, takes minutes.
            lambda name, rows=rows: flips.backlog(
                bench.lab, CONTESTANTS[name], rows, delay=FAR, seconds=FAR_PATIENCE
            ),
            rounds=rounds,
        )  # fmt: skip


def _workers(bench: Bench) -> None:
    rows, worker = bench.sizes.workers_backlog, CONTESTANTS["worker"]
    # With batches of 50 the links are the limit, not the cores: there it shows whether workers share the queue well.
    # With the default batches two cores soon are.
    for batch in bench.sizes.worker_batches:
        bench.interleave(
            f"workers, backlog {rows}, batches of {batch}, 20 ms", ["1", "2"],
            lambda name, batch=batch: flips.backlog(
                bench.lab, worker, rows, delay=FAR, workers=int(name), WORKER_BATCH_SIZE=str(batch)
            ),
            rounds=min(2, bench.rounds),
        )  # fmt: skip
    bench.lab.forget(rows)


def _pull_first(bench: Bench) -> None:
    rows = bench.sizes.pull
    bench.interleave(
        f"pull of {rows}", list(PULLS),
        lambda name: pulls.first(bench.lab, name, rows, seconds=60 + rows / 1000), rounds=min(2, bench.rounds),
    )  # fmt: skip
    bench.lab.forget(f"t{rows}_unpulled")


def _pull_ten(bench: Bench) -> None:
    sizes = bench.sizes
    with pulls.TenMore(bench.lab, sizes.few) as few, pulls.TenMore(bench.lab, sizes.pull) as many:
        both = {f"of {one.rows}": one for one in (few, many)}
        for one in both.values():
            for _ in range(pulls.WARM_UP):
                one.pull()
        bench.interleave(
            "pull of ten", list(both), lambda name: {"milliseconds": [round(both[name].pull() * 1000, 3)]},
            rounds=sizes.pulls_of_ten,
        )  # fmt: skip


def _memory(bench: Bench) -> None:
    worker = CONTESTANTS["worker"]
    bench.interleave(
        "memory", [str(rows) for rows in bench.sizes.memory],
        lambda rows: flips.backlog(bench.lab, worker, int(rows), seconds=120 + int(rows) / 500), rounds=1,
    )  # fmt: skip
    bench.lab.forget(*bench.sizes.memory)
    bench.interleave(
        "memory, waiting", [str(rows) for rows in bench.sizes.waiting],
        lambda rows: people.memory_of_waiting(bench.lab, int(rows), seconds=120 + int(rows) / 4_000), rounds=1,
    )  # fmt: skip
    bench.lab.forget(*(f"waiting{rows}" for rows in bench.sizes.waiting))


def _duplicates(bench: Bench) -> None:
    rows = bench.sizes.duplicates
    bench.interleave(
        f"duplicates among {rows}", list(features.POLICIES), lambda name: features.duplicates(bench.lab, name, rows)
    )
    bench.lab.forget(rows)


def _who(bench: Bench) -> None:
    rows = bench.sizes.flip
    bench.interleave(
        f"flip of {rows} by one statement", list(features.STATEMENTS),
        lambda name: features.flip(bench.lab, name, rows), rounds=bench.sizes.flips_of_many,
    )  # fmt: skip
    bench.lab.forget(rows)


def _help(bench: Bench) -> None:
    # A turn more, of which nothing is kept: the first of either reads its files from the disk.
    for name in starts.LINES:
        starts.milliseconds(name)
    bench.interleave(
        "help", list(starts.LINES), lambda name: {"milliseconds": [starts.milliseconds(name)]},
        rounds=bench.sizes.starts,
    )  # fmt: skip


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "round-trips": _round_trips,
    "idle": _idle,
    "latency": _latency,
    "latency-20ms": _latency_far,
    "latency-crowd": _latency_crowd,
    "backlog": _backlog,
    "backlog-20ms": _backlog_far,
    "workers": _workers,
    "duplicates": _duplicates,
    "who": _who,
    "pull": _pull_first,
    "pull-ten": _pull_ten,
    "memory": _memory,
    "help": _help,
}
"""In this order the templates of a million are used one after the other, and dropped."""
