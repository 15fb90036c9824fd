"""The rounds of a scenario, interleaved among its contestants, and what each turn measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from bench.contestants import CONTESTANTS
from bench.lab import Lab
from bench.process import Failed, Skipped
from bench.sizes import LONG, Sizes


@dataclass
class Trial:
    """One contestant's turn in one round."""

    scenario: str
    contestant: str
    round: int
    values: dict[str, Any] = field(default_factory=dict)
    disqualified: str | None = None
    skipped: str | None = None


class Bench:
    """Runs scenarios and keeps every trial."""

    def __init__(self, lab: Lab, sizes: Sizes, rounds: int, contestants: Sequence[str] | None) -> None:
        self.lab, self.sizes, self.rounds = lab, sizes, rounds
        self._chosen = contestants
        self.trials: list[Trial] = []
        self.durations: dict[str, float] = {}

    def run(self, names: Sequence[str], scenarios: Mapping[str, Callable[[Bench], None]]) -> None:
        """Run the named scenarios; one that breaks is reported and the next begins."""
        for name in names:
            began, building = time.monotonic(), self.lab.building
            try:
                scenarios[name](self)
            except (Failed, psycopg.Error, OSError, ValueError) as error:
                broken = Trial(name, "bench", 0, disqualified=f"the bench failed: {_one_line(error)}")
                self.trials.append(broken)
                _say(broken)
            self.durations[name] = round(time.monotonic() - began, 1)
            templates = self.lab.building - building
            print(f"{name}: {self.durations[name]:.0f} s, {templates:.0f} of them for templates", file=sys.stderr)

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
                except Skipped as error:
                    out.add(name)
                    entry.skipped = _one_line(error)
                except (Failed, psycopg.Error, OSError) as error:
                    out.add(name)
                    # What no contestant did, the bench did.
                    entry.disqualified = ("" if isinstance(error, Failed) else "the bench failed: ") + _one_line(error)
                self.trials.append(entry)
                _say(entry)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _say(trial: Trial) -> None:
    shown = trial.disqualified or ", ".join(
        f"{name} {value}" for name, value in trial.values.items() if not isinstance(value, list) and value is not None
    )
    for name in ("milliseconds", "settled_milliseconds"):
        if times := trial.values.get(name):
            middle = f"median {sorted(times)[len(times) // 2]:.1f} ms of {len(times)}"
            shown = middle if name == "milliseconds" else f"{shown}, settled {middle}"
    verdict = "DISQUALIFIED: " if trial.disqualified else ""
    if trial.skipped:
        verdict, shown = "skipped, because ", trial.skipped
    print(f"{trial.scenario:<24} round {trial.round}  {trial.contestant:<15} {verdict}{shown}", file=sys.stderr)
