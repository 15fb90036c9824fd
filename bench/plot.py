"""Draws the plot of who reached what, from the results."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.measured import Results

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "enrichment-worker"  # the same figures make the same file


def draw(results: Results, path: Path, caption: str) -> None:
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
        lambda: "#9aa5b1", dict.fromkeys(("worker", "worker, a role", "1", "2"), "#1f6f5c")
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
