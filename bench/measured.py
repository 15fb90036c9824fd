"""What a run of the benchmarks measured."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.contestants.graphile_worker import package_version
from bench.rounds import Trial


@dataclass(frozen=True)
class Spread:
    """A median, with the least and the most, of the rounds."""

    median: float
    least: float
    most: float
    rounds: int

    def show(self, digits: int = 1) -> str:
        """``12.3 (11.9–13.0)``, or of one round ``12.3 (once)``."""
        if self.rounds == 1:
            return f"{self.median:,.{digits}f} (once)"
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}–{self.most:,.{digits}f})"


def spread(values: Iterable[float]) -> Spread | None:
    """Of some values; None of none."""
    some = sorted(values)
    return Spread(statistics.median(some), some[0], some[-1], len(some)) if some else None


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


class Results:
    """The trials, asked by scenario and contestant."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = trials
        self.out = {(t.scenario, t.contestant): t.disqualified for t in trials if t.disqualified}
        self.skipped = {(t.scenario, t.contestant): t.skipped for t in trials if t.skipped}

    def of(self, scenario: str, contestant: str) -> list[dict[str, Any]]:
        """The values of each round; none of a contestant that was disqualified."""
        if {(scenario, contestant)} & (self.out.keys() | self.skipped.keys()):
            return []
        return [t.values for t in self.trials if (t.scenario, t.contestant) == (scenario, contestant)]

    def each(self, scenario: str, contestant: str, value: str) -> Spread | None:
        """The spread of one value over the rounds."""
        return spread(v[value] for v in self.of(scenario, contestant) if v.get(value) is not None)

    def times(self, scenario: str, contestant: str, share: float, value: str = "milliseconds") -> Spread | None:
        """The spread of a quantile of the milliseconds over the rounds; of p99, the median of the rounds'."""
        return spread(quantile(v[value], share) for v in self.of(scenario, contestant) if v.get(value))

    def processor(self, scenario: str, contestant: str, part: str | None = None) -> Spread | None:
        """The spread of the processor time of a record in microseconds: of one part, by default of all together."""
        return spread(
            sum(seconds for name, seconds in cpu.items() if part in (None, name)) / v["rows"] * 1e6
            for v in self.of(scenario, contestant)
            if (cpu := v.get("cpu"))
        )

    def pooled(self, scenario: str, contestant: str, share: float) -> float | None:
        """A quantile of the milliseconds of all rounds together."""
        times = [one for v in self.of(scenario, contestant) for one in v["milliseconds"]]
        return quantile(times, share) if times else None

    def cores_used(self, scenario: str, contestant: str) -> float | None:
        """How many processors it and both servers kept busy, at the median of the rounds."""
        used = spread(sum(cpu.values()) / v["seconds"] for v in self.of(scenario, contestant) if (cpu := v.get("cpu")))
        return used.median if used else None

    @property
    def cores(self) -> int | None:
        """How many processors the machine has."""
        return os.cpu_count()

    def scenarios(self, pattern: str) -> list[str]:
        """The scenarios whose names fit, in the order they ran."""
        return list(dict.fromkeys(t.scenario for t in self.trials if re.fullmatch(pattern, t.scenario)))


def machine() -> dict[str, Any]:
    """What it was measured on."""
    facts: dict[str, Any] = {"system": platform.platform(terse=True), "python": platform.python_version()}
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = re.findall(r"model name\s*: (.*)", info.read_text())
        facts |= {"cores": len(models), "processor": models[0] if models else None}
        facts["memory_gib"] = round(
            int(re.findall(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[0]) / 2**20, 1
        )
    packages: dict[str, str] = {}
    for name in ("psycopg", "pgqueuer", "asyncpg", "procrastinate", "uvloop"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    packages["graphile-worker"] = package_version()
    return facts | {"packages": packages}
