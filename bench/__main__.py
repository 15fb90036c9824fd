"""``python -m bench``: measures every figure of SPEC 10, side by side with others at the same job."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from bench import plot, report
from bench.contestants import CONTESTANTS
from bench.lab import NEON_VERSION, SETTINGS, SUPABASE_VERSION, Lab
from bench.measured import Results, machine
from bench.process import ROOT
from bench.rounds import Bench, Trial
from bench.scenarios import SCENARIOS
from bench.sizes import Sizes

QUICK = 0.002
QUIET = 0.3
"""The load of the last minute above which the machine is not quiet."""


@click.command()
@click.option(
    "--scenario", "chosen", multiple=True, type=click.Choice([*SCENARIOS]), help="Only these; may be repeated."
)
@click.option(
    "--contestants", help=f"Only these, with commas: {','.join(n for n, c in CONTESTANTS.items() if not c.hidden)}."
)
@click.option("--scale", type=click.FloatRange(0.0001, 1.0), default=1.0, show_default=True, help="Of the full sizes.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--quick", is_flag=True, help=f"One round at scale {QUICK}: shows that the bench works, and no figures.")
@click.option("--fsync", type=click.Choice(["on", "off"]), default="on", show_default=True, help="Of both servers.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "bench" / "results", help="Folder of JSON and plot."
)
@click.option(
    "--backlog", "backlogs", multiple=True, type=click.IntRange(60), help="Only these sizes; may be repeated."
)
@click.option("--keep", is_flag=True, help="Keep what OUT/bench.json has of other scenarios: goes on after a stop.")
def main(
    *,
    chosen: tuple[str, ...],
    contestants: str | None,
    scale: float,
    rounds: int,
    quick: bool,
    fsync: str,
    out: Path,
    keep: bool,
    backlogs: tuple[int, ...],
) -> None:
    """Measure, print the tables, write OUT/bench.json, draw OUT/bench.svg."""
    names = contestants.split(",") if contestants else None
    if unknown := sorted(set(names or ()) - set(CONTESTANTS)):
        raise click.UsageError(f"no such contestant: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    if quick:
        scale, rounds = QUICK, 1
    began, load = datetime.now(UTC), os.getloadavg()[0]
    if load > QUIET:
        print(f"bench: the machine is not quiet: its load is {load:.2f}", file=sys.stderr)
    clock = time.monotonic()
    with Lab(fsync=fsync == "on") as lab:
        sizes = Sizes().scaled(scale)
        bench = Bench(lab, replace(sizes, backlogs=backlogs or sizes.backlogs), rounds, names)
        try:
            bench.run(chosen or tuple(SCENARIOS), SCENARIOS)
        except KeyboardInterrupt:
            print("bench: interrupted; what was measured follows", file=sys.stderr)
    earlier = json.loads((out / "bench.json").read_text()) if keep and (out / "bench.json").exists() else None
    measured = {trial.scenario for trial in bench.trials}
    kept = [Trial(**trial) for trial in earlier["trials"] if trial["scenario"] not in measured] if earlier else []
    trials = [*kept, *bench.trials]
    results = Results(trials)
    conditions = {
        "at": began.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - clock), "scale": scale,
        "rounds": rounds, "load_before": round(load, 2), "quiet": load <= QUIET, "fsync": fsync,
        "servers": {"neon": NEON_VERSION, "supabase": SUPABASE_VERSION, "settings": SETTINGS},
        "scenario_seconds": bench.durations, "template_seconds": round(lab.building, 1), "command": ["python", "-m", "bench", *sys.argv[1:]],
        **({"kept_from": earlier["conditions"]} if earlier else {}),
    }  # fmt: skip
    host = machine()
    report.print_tables(results, Console(width=None if sys.stdout.isatty() else 150))
    out.mkdir(parents=True, exist_ok=True)
    whole = {
        "conditions": conditions,
        "machine": host,
        **report.as_json(results),
        "trials": [asdict(trial) for trial in trials],
    }
    (out / "bench.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    caption = (
        f"{host.get('cores', '?')} cores, {host.get('memory_gib', '?')} GiB, load {load:.2f} before; medians of {rounds} rounds,"
        f" bars from least to most; scale {scale:g}; fsync {fsync}; {began:%Y-%m-%d}"
    )
    plot.draw(results, out / "bench.svg", caption)
    print(f"{out / 'bench.json'}, {out / 'bench.svg'}", file=sys.stderr)


if __name__ == "__main__":
    main()
