"""What was measured: the table of SPEC 10's targets, the table of contestants, JSON, and the plot."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from bench.measured import Results, Spread, spread
from bench.scenarios import DEFAULT_BATCH, FAR, SMALL_BATCH

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "enrichment-worker"  # the same figures make the same file


@dataclass(frozen=True)
class Row:
    """One target."""

    what: str
    target: str
    measured: str
    met: bool | None
    """None where it was not measured."""


def targets(results: Results) -> list[Row]:
    """SPEC 10's table, row by row, measured."""
    return [
        _trips(results),
        *_latency(results),
        _far(results),
        _against_queues(results),
        _against(results, "backlog rows/s against set-based SQL without rules", r"backlog \d+", "set-based", 0.5),
        _against(results, "first pull rows/s against psql COPY | psql COPY", r"pull of \d+", "psql", 0.5),
        _ten(results),
        _memory(results),
        *_workers(results),
        *_idle(results),
        _help(results),
    ]


def _row(what: str, target: str, measured: str | None, met: bool | None) -> Row:
    return Row(what, target, measured or "not measured", met if measured else None)


def _trips(results: Results) -> Row:
    counts = {name: results.of(name, "worker") for name in results.scenarios(r"round trips of \d+")}
    found = {name.rpartition(" ")[2]: values[0]["round_trips"] for name, values in counts.items() if values}
    shown = ", ".join(f"{trips} for a batch of {rows}" for rows, trips in found.items())
    return _row(
        "round trips from claim to acknowledgement",
        "3, for 1 and for 500",
        shown,
        set(found.values()) == {3} and len(found) == 2,
    )


def _latency(results: Results) -> list[Row]:
    rows = []
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        ours = results.pooled("latency", "worker", share)
        others = {name: results.pooled("latency", name, share) for name in ("pgqueuer", "procrastinate")}
        known = {name: value for name, value in others.items() if value is not None}
        shown = (
            ours and known and f"{ours:.1f} ms; " + ", ".join(f"{name} {value:.1f} ms" for name, value in known.items())
        )
        met = bool(ours and known and len(known) == 2 and all(ours < value for value in known.values()))
        rows.append(_row(f"flip to promoted, idle worker, {label}", "faster than both queues", shown or None, met))
    return rows


def _far(results: Results) -> Row:
    ours = results.pooled("latency, 20 ms", "worker", 0.5)
    # The notification travels half a round trip, the acknowledgement takes effect after half of its own.
    must = 3 * 2 * FAR * 1000
    shown = ours and f"{ours / must:.2f} × ({ours:.0f} ms of 3 round trips of {2 * FAR * 1000:.0f} ms)"
    return _row(
        "the same with 20 ms each way", "≤ 1.25 × of its round trips", shown or None, bool(ours and ours / must <= 1.25)
    )


def _largest(results: Results, pattern: str) -> str | None:
    names = results.scenarios(pattern)
    return max(names, key=lambda name: int(re.findall(r"\d+", name)[0])) if names else None


def _against_queues(results: Results) -> Row:
    what, target = "backlog rows/s against the better queue", "≥ 6 ×"
    scenario = _largest(results, r"backlog \d+")
    if scenario is None:
        return _row(what, target, None, None)
    ours = results.each(scenario, "worker", "rows_per_second")
    others = {n: s for n in ("pgqueuer", "procrastinate") if (s := results.each(scenario, n, "rows_per_second"))}
    if ours is None or not others:
        return _row(what, target, None, None)
    best = max(others, key=lambda name: others[name].median)
    ratio = ours.median / others[best].median
    shown = f"{ratio:.2f} × of {best} ({scenario}: {ours.median:,.0f} against {others[best].median:,.0f})"
    return _row(what, target, shown, ratio >= 6)


def _against(results: Results, what: str, pattern: str, other: str, least: float) -> Row:
    target, scenario = f"≥ {least} ×", _largest(results, pattern)
    ours = scenario and results.each(scenario, "worker", "rows_per_second")
    theirs = scenario and results.each(scenario, other, "rows_per_second")
    if not ours or not theirs:
        return _row(what, target, None, None)
    ratio = ours.median / theirs.median
    return _row(
        what, target, f"{ratio:.2f} × ({scenario}: {ours.median:,.0f} against {theirs.median:,.0f})", ratio >= least
    )


def _ten(results: Results) -> Row:
    what, target = "pull of 10 among many against among few", "≤ 1.5 ×"
    sizes = sorted(
        {t.contestant for t in results.trials if t.scenario == "pull of ten"}, key=lambda n: int(n.split()[1])
    )
    found = [results.pooled("pull of ten", name, 0.5) for name in sizes]
    if len(found) != 2 or None in found:
        return _row(what, target, None, None)
    few, many = (one or math.nan for one in found)
    shown = f"{many / few:.2f} × ({many:.0f} ms {sizes[1]}, {few:.0f} ms {sizes[0]})"
    return _row(what, target, shown, many / few <= 1.5)


def _memory(results: Results) -> Row:
    what, target = "peak memory, large backlog against small", "≤ 1.2 ×"
    sizes = sorted({t.contestant for t in results.trials if t.scenario == "memory"}, key=int)
    found = [peak for name in sizes if (peak := results.each("memory", name, "peak_memory"))]
    if len(found) != 2:
        return _row(what, target, None, None)
    small, large = (peak.median / 2**20 for peak in found)
    shown = f"{large / small:.2f} × ({large:.0f} MiB with {sizes[1]}, {small:.0f} MiB with {sizes[0]})"
    return _row(what, target, shown, large / small <= 1.2)


def _workers(results: Results) -> list[Row]:
    rows = []
    for batch in (DEFAULT_BATCH, SMALL_BATCH):
        what = f"two workers against one, 5 ms each way, batches of {batch}"
        scenario = _largest(results, rf"workers, .* {batch}, 5 ms")
        found = {
            n: s.median for n in ("1", "2", "4") if scenario and (s := results.each(scenario, n, "rows_per_second"))
        }
        shown = None
        if {"1", "2"} <= set(found):
            four = f", four: {found['4'] / found['1']:.2f} ×" if "4" in found else ""
            shown = f"{found['2'] / found['1']:.2f} ×{four} ({found['2']:,.0f} against {found['1']:,.0f})"
        rows.append(_row(what, "≥ 1.8 ×", shown, bool(shown) and found["2"] / found["1"] >= 1.8))
    return rows


def _idle(results: Results) -> list[Row]:
    values = results.of("idle", "worker")
    shown = values and "{statements} in {seconds:.0f} s and {probes} probes, {connections} connections".format(
        **values[0]
    )
    met = bool(values and not values[0]["statements"] and not values[0]["connections"])
    rate = values[0]["supabase_statements"] / values[0]["seconds"] if values else None
    return [
        _row("statements to Neon from an idle worker", "0", shown or None, met),
        _row(
            "statements to Supabase from an idle worker, a second", "≤ 0.3", None if rate is None else f"{rate:.2f}",
            rate is not None and rate <= 0.3,
        ),
    ]  # fmt: skip


def _help(results: Results) -> Row:
    ours, bare = (results.pooled("help", name, 0.5) for name in ("worker", "python"))
    what, target = "`enrichment-worker --help` against `python -c pass`", "≤ 0.15 s more"
    if ours is None or bare is None:
        return _row(what, target, None, None)
    more = (ours - bare) / 1000
    return _row(what, target, f"{more:.3f} s more ({ours:.0f} ms against {bare:.0f} ms)", more <= 0.15)


def tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of what each contestant reached."""
    found: list[tuple[str, list[str], list[list[str]]]] = []
    shapes: list[tuple[str, list[str], Callable[[str, str], list[str]]]] = [
        (r"latency.*", ["p50 ms", "p99 ms"], lambda s, c: [_show(results.times(s, c, q)) for q in (0.5, 0.99)]),
        (r"pull of ten|help", ["ms"], lambda s, c: [_show(results.times(s, c, 0.5))]),
        (
            r"(backlog|workers|memory).*", ["rows/s", "CPU µs/row", "peak MiB"],
            lambda s, c: [_show(results.each(s, c, "rows_per_second"), 0), _cpu(results, s, c), _peak(results, s, c)],
        ),
        (r"pull of \d+", ["rows/s"], lambda s, c: [_show(results.each(s, c, "rows_per_second"), 0)]),
    ]  # fmt: skip
    for pattern, columns, cells in shapes:
        for scenario in results.scenarios(pattern):
            names = dict.fromkeys(t.contestant for t in results.trials if t.scenario == scenario)
            rows = []
            for name in names:
                if reason := results.out.get((scenario, name)):
                    rows.append([name, f"disqualified: {reason}", *[""] * (len(columns) - 1)])
                else:
                    rows.append([name, *cells(scenario, name)])
            found.append((scenario, columns, rows))
    return found


def _show(value: Spread | None, digits: int = 1) -> str:
    return value.show(digits) if value else ""


def _cpu(results: Results, scenario: str, contestant: str) -> str:
    values = spread(v["cpu_seconds"] / v["rows"] * 1e6 for v in results.of(scenario, contestant) if v["cpu_seconds"])
    return _show(values, 0)


def _peak(results: Results, scenario: str, contestant: str) -> str:
    values = spread(v["peak_memory"] / 2**20 for v in results.of(scenario, contestant) if v["peak_memory"])
    return _show(values, 0)


def print_tables(results: Results, console: Console) -> None:
    """Print what each contestant reached, and last SPEC 10's table."""
    for title, columns, rows in tables(results):
        table = Table("who", *columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    table = Table("what", "target", "measured", "met", title="Figures to reach (SPEC 10)", title_justify="left")
    for row in targets(results):
        table.add_row(row.what, row.target, row.measured, {True: "yes", False: "NO", None: "-"}[row.met])
    console.print(table)


def plot(results: Results, path: Path, caption: str) -> None:
    """Draw who reached what: backlogs, latency, pulls and workers."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - takes a second

    shapes = [
        (r"backlog.*", "rows/s, more is better", lambda s, c: results.each(s, c, "rows_per_second")),
        (r"latency.*", "ms at p50, less is better", lambda s, c: results.times(s, c, 0.5)),
        (r"pull of \d+", "rows/s, more is better", lambda s, c: results.each(s, c, "rows_per_second")),
        (r"workers.*", "rows/s by workers", lambda s, c: results.each(s, c, "rows_per_second")),
    ]
    panels = [(scenario, axis, value) for pattern, axis, value in shapes for scenario in results.scenarios(pattern)]
    if not panels:
        return
    colours: dict[str, Any] = defaultdict(
        lambda: "#9aa5b1", {"worker": "#1f6f5c", "1": "#1f6f5c", "2": "#1f6f5c", "4": "#1f6f5c"}
    )
    rows = math.ceil(len(panels) / 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10, 2.3 * rows), squeeze=False, layout="constrained")
    for (scenario, axis, value), panel in zip(panels, axes.flat, strict=False):
        names = dict.fromkeys(t.contestant for t in results.trials if t.scenario == scenario)
        if scenario == "latency":
            names.pop("naive", None)  # beside its seconds nobody else's milliseconds can be told apart
        bars = [(name, found) for name in reversed(list(names)) if (found := value(scenario, name))]
        panel.set_title(scenario, loc="left", fontsize=10)
        panel.set_xlabel(axis, fontsize=8)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        for place, (name, found) in enumerate(bars):
            error = [[found.median - found.least], [found.most - found.median]]
            panel.barh(place, found.median, color=colours[name], xerr=error, error_kw={"lw": 1, "capsize": 2})
            panel.annotate(
                f" {found.median:,.0f}" if found.median >= 100 else f" {found.median:,.1f}",
                (found.most, place),
                fontsize=8,
                va="center",
            )
        panel.set_yticks(range(len(bars)), [name for name, _ in bars])
        panel.margins(x=0.18)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    figure.suptitle(caption, fontsize=8, x=0.01, ha="left")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def as_json(results: Results) -> dict[str, Any]:
    """The targets and the tables, for scripts."""
    return {
        "targets": [asdict(row) for row in targets(results)],
        "disqualified": {f"{scenario}: {name}": why for (scenario, name), why in results.out.items()},
    }
