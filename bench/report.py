"""What was measured: the table of contestants, the table of SPEC 10's targets, and both as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measured import Results, Spread, spread
from bench.targets import targets

_PARTS = ("itself", "neon", "supabase", None)


def tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of what each contestant reached."""
    found: list[tuple[str, list[str], list[list[str]]]] = []
    shapes: list[tuple[str, list[str], Callable[[str, str], list[str]]]] = [
        (
            r"latency.*", ["p50 ms", "p99 ms", "told p50 ms", "told p99 ms"],
            lambda s, c: [
                _show(results.times(s, c, q, v)) for v in ("milliseconds", "settled_milliseconds") for q in (0.5, 0.99)
            ],
        ),
        (r"pull of ten|help", ["ms"], lambda s, c: [_show(results.times(s, c, 0.5))]),
        (
            r"(backlog|workers).*|memory",
            ["rows/s", "CPU µs a row: itself", "Neon", "Supabase", "all three", "peak MiB"],
            lambda s, c: [
                _show(results.each(s, c, "rows_per_second"), 0),
                *(_show(results.processor(s, c, part), 0) for part in _PARTS),
                _peak(results, s, c),
            ],
        ),
        (r"memory, waiting", ["peak MiB"], lambda s, c: [_peak(results, s, c)]),
        (r"pull of \d+", ["rows/s"], lambda s, c: [_show(results.each(s, c, "rows_per_second"), 0)]),
    ]  # fmt: skip
    for pattern, columns, cells in shapes:
        for scenario in results.scenarios(pattern):
            names = dict.fromkeys(t.contestant for t in results.trials if t.scenario == scenario)
            rows = []
            for name in names:
                if reason := results.out.get((scenario, name)):
                    rows.append([name, f"disqualified: {reason}", *[""] * (len(columns) - 1)])
                elif reason := results.skipped.get((scenario, name)):
                    rows.append([name, f"skipped, because {reason}", *[""] * (len(columns) - 1)])
                else:
                    rows.append([name, *cells(scenario, name)])
            found.append((scenario, columns, rows))
    return found


def _show(value: Spread | None, digits: int = 1) -> str:
    return value.show(digits) if value else ""


def _peak(results: Results, scenario: str, contestant: str) -> str:
    values = spread(v["peak_memory"] / 2**20 for v in results.of(scenario, contestant) if v.get("peak_memory"))
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


def as_json(results: Results) -> dict[str, Any]:
    """The targets and the tables, for scripts."""
    return {
        "targets": [asdict(row) for row in targets(results)],
        "disqualified": {f"{scenario}: {name}": why for (scenario, name), why in results.out.items()},
        "skipped": {f"{scenario}: {name}": why for (scenario, name), why in results.skipped.items()},
    }
