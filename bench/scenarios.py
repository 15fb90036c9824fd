"""The scenarios: which trials, with whom, how large, how often. Rounds are interleaved among the contestants."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from bench import counts, flips, pulls, starts
from bench.contestants import CONTESTANTS
from bench.lab import Lab
from bench.process import Failed

QUEUES = ("worker", "pgqueuer", "procrastinate")
LATENCY = (*QUEUES, "naive", "floor")
BACKLOG = (*LATENCY, "set-based")
FAR, NEAR = 0.020, 0.005
"""Seconds added to each direction of both links."""
LONG = 60.0
"""Seconds of a turn after which a contestant has no further one in its scenario."""
FAR_PATIENCE = 400.0
"""Seconds until a backlog over far links must be done."""
DEFAULT_BATCH, SMALL_BATCH = 500, 50
"""Records of a worker's batch: the default, and the least that the guide names."""


@dataclass(frozen=True)
class Sizes:
    """How large the scenarios are."""

    flips: int = 300
    far_flips: int = 25
    backlogs: tuple[int, ...] = (1_000, 20_000, 100_000)
    far_backlog: int = 2_000
    workers_backlog: int = 20_000
    pull: int = 1_000_000
    few: int = 1_000
    pulls_of_ten: int = 10
    starts: int = 20
    memory: tuple[int, int] = (10_000, 1_000_000)
    idle_seconds: float = 60.0
    worker_links: int = 3
    """On how many kinds of links and batches workers are counted."""

    def scaled(self, factor: float) -> Sizes:
        """These sizes times ``factor``, none below what can be measured at all."""

        def at(size: int, least: int) -> int:
            return min(size, max(least, int(size * factor)))

        return Sizes(
            at(self.flips, 5), at(self.far_flips, 3), tuple(sorted({at(size, 200) for size in self.backlogs})),
            at(self.far_backlog, 60), at(self.workers_backlog, 600), at(self.pull, 2_000), at(self.few, 200),
            at(self.pulls_of_ten, 3), at(self.starts, 3), (at(self.memory[0], 200), at(self.memory[1], 2_000)),
            max(20.0, self.idle_seconds * min(1.0, factor)), at(self.worker_links, 1),
        )  # fmt: skip


@dataclass
class Trial:
    """One contestant's turn in one round."""

    scenario: str
    contestant: str
    round: int
    values: dict[str, Any] = field(default_factory=dict)
    disqualified: str | None = None


class Bench:
    """Runs scenarios and keeps every trial."""

    def __init__(self, lab: Lab, sizes: Sizes, rounds: int, contestants: Sequence[str] | None) -> None:
        self.lab, self.sizes, self.rounds = lab, sizes, rounds
        self._chosen = contestants
        self.trials: list[Trial] = []
        self.durations: dict[str, float] = {}

    def run(self, names: Sequence[str]) -> None:
        """Run the named scenarios; one that breaks is reported and the next begins."""
        for name in names:
            began = time.monotonic()
            try:
                SCENARIOS[name](self)
            except (Failed, psycopg.Error, OSError, ValueError) as error:
                broken = Trial(name, "bench", 0, disqualified=f"the bench failed: {' '.join(str(error).split())[:400]}")
                self.trials.append(broken)
                _say(broken)
            self.durations[name] = round(time.monotonic() - began, 1)

    def those(self, names: Sequence[str]) -> list[str]:
        """The contestants of a scenario that were chosen; by default all of its own."""
        if self._chosen is None:
            return list(names)
        return [name for name in self._chosen if name in names or (name in CONTESTANTS and CONTESTANTS[name].hidden)]

    def interleave(
        self, scenario: str, names: Sequence[str], trial: Callable[[str], dict[str, Any]], *, rounds: int | None = None
    ) -> None:
        """Every contestant once a round, each round begun by another. Who fails is out of the scenario, and who took
        longer than ``LONG`` for his turn has no more of them: his figure is that of the rounds he had.
        """
        out: set[str] = set()
        for number in range(rounds or self.rounds):
            for name in [*names[number % len(names) :], *names[: number % len(names)]] if names else []:
                if name in out:
                    continue
                entry = Trial(scenario, name, number + 1)
                try:
                    entry.values = trial(name)
                    if entry.values.get("seconds", 0) > LONG:
                        out.add(name)
                except (Failed, psycopg.Error, OSError) as error:
                    out.add(name)
                    reason = " ".join(str(error).split())[:400]
                    # What no contestant did, the bench did.
                    entry.disqualified = reason if isinstance(error, Failed) else f"the bench failed: {reason}"
                self.trials.append(entry)
                _say(entry)


def _say(trial: Trial) -> None:
    shown = trial.disqualified or ", ".join(
        f"{name} {value}" for name, value in trial.values.items() if not isinstance(value, list) and value is not None
    )
    if times := trial.values.get("milliseconds"):
        shown = f"median {sorted(times)[len(times) // 2]:.1f} ms of {len(times)}"
    verdict = "DISQUALIFIED: " if trial.disqualified else ""
    print(f"{trial.scenario:<24} round {trial.round}  {trial.contestant:<14} {verdict}{shown}", file=sys.stderr)


def _round_trips(bench: Bench) -> None:
    for rows in (1, 500):
        bench.interleave(
            f"round trips of {rows}", ["worker"], lambda _, rows=rows: counts.round_trips(bench.lab, rows), rounds=1
        )


def _idle(bench: Bench) -> None:
    bench.interleave("idle", ["worker"], lambda _: counts.idle(bench.lab, bench.sizes.idle_seconds), rounds=1)


def _latency(bench: Bench) -> None:
    def trial(name: str) -> dict[str, Any]:
        # The poller's latency is its pause: a few flips show it.
        number = 4 if name == "naive" else bench.sizes.flips
        return flips.latency(bench.lab, CONTESTANTS[name], number)

    bench.interleave("latency", bench.those(LATENCY), trial)


def _latency_far(bench: Bench) -> None:
    def trial(name: str) -> dict[str, Any]:
        return flips.latency(bench.lab, CONTESTANTS[name], bench.sizes.far_flips, delay=FAR)

    names = [name for name in bench.those(LATENCY) if name != "naive"]
    bench.interleave("latency, 20 ms", names, trial)


def _backlog(bench: Bench) -> None:
    for rows in bench.sizes.backlogs:
        names = [name for name in bench.those(BACKLOG) if CONTESTANTS[name].most >= rows]
        # A round of the largest takes minutes: three show the spread.
        rounds = min(3, bench.rounds) if rows > 50_000 else bench.rounds
        bench.interleave(
            f"backlog {rows}",
            names,
            lambda name, rows=rows: flips.backlog(bench.lab, CONTESTANTS[name], rows),
            rounds=rounds,
        )
        bench.lab.forget(rows)


def _backlog_far(bench: Bench) -> None:
    rows = bench.sizes.far_backlog
    names = [name for name in bench.those(BACKLOG) if name not in ("naive", "set-based")]
    bench.interleave(
        f"backlog {rows}, 20 ms", names,
        # So long that whoever works at all is done: a job a record, one after the other, takes minutes.
        lambda name: flips.backlog(bench.lab, CONTESTANTS[name], rows, delay=FAR, seconds=FAR_PATIENCE),
        rounds=min(3, bench.rounds),
    )  # fmt: skip


def _workers(bench: Bench) -> None:
    rows, worker = bench.sizes.workers_backlog, CONTESTANTS["worker"]
    # Where the cores are too few for what the target asks, smaller batches and farther links show whether workers share
    # the queue well: there the links are the limit.
    links = (NEAR, DEFAULT_BATCH), (NEAR, SMALL_BATCH), (FAR, DEFAULT_BATCH)
    for delay, batch in links[: bench.sizes.worker_links]:
        bench.interleave(
            f"workers, backlog {rows}, batches of {batch}, {delay * 1000:.0f} ms", ["1", "2", "4"],
            lambda name, delay=delay, batch=batch: flips.backlog(
                bench.lab, worker, rows, delay=delay, workers=int(name), WORKER_BATCH_SIZE=str(batch)
            ),
        )  # fmt: skip
    bench.lab.forget(rows)


def _pull_first(bench: Bench) -> None:
    rows = bench.sizes.pull
    bench.interleave(
        f"pull of {rows}", ["worker", "psql"],
        lambda name: pulls.first(bench.lab, name, rows, seconds=60 + rows / 1000), rounds=min(3, bench.rounds),
    )  # fmt: skip


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


def _help(bench: Bench) -> None:
    # A turn more, of which nothing is kept: the first of either reads its files from the disk.
    for name in starts.LINES:
        starts.milliseconds(name)
    bench.interleave(
        "help", list(starts.LINES), lambda name: {"milliseconds": [starts.milliseconds(name)]},
        rounds=bench.sizes.starts,
    )  # fmt: skip


def _memory(bench: Bench) -> None:
    worker = CONTESTANTS["worker"]
    bench.interleave(
        "memory", [str(rows) for rows in bench.sizes.memory],
        lambda rows: flips.backlog(bench.lab, worker, int(rows), seconds=120 + int(rows) / 500), rounds=1,
    )  # fmt: skip
    for rows in bench.sizes.memory:
        bench.lab.forget(rows)


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "round-trips": _round_trips,
    "idle": _idle,
    "latency": _latency,
    "latency-20ms": _latency_far,
    "backlog": _backlog,
    "backlog-20ms": _backlog_far,
    "workers": _workers,
    "pull": _pull_first,
    "pull-ten": _pull_ten,
    "memory": _memory,
    "help": _help,
}
