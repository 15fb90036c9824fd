"""The bench works, and disqualifies who loses or repeats a record: small runs of it, for what they find, not how fast."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from embedded import in_memory

pytestmark = pytest.mark.timeout(300)


def bench(folder, *arguments) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--fsync", "off", "--out", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, **({"TMPDIR": str(memory)} if (memory := in_memory()) else {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Figures to reach" in done.stdout
    assert (folder / "bench.svg").exists() or "backlog" not in arguments
    return json.loads((folder / "bench.json").read_text())


def test_every_contestant_takes_every_record_to_its_one_fate(tmp_path) -> None:
    found = bench(tmp_path, "--scenario", "backlog")
    assert found["disqualified"] == {}
    assert {trial["contestant"] for trial in found["trials"]} == {
        "worker", "pgqueuer", "procrastinate", "naive", "floor", "set-based"
    }  # fmt: skip


def test_who_loses_or_repeats_a_record_or_ends_is_disqualified(tmp_path) -> None:
    found = bench(tmp_path, "--scenario", "backlog", "--contestants", "floor,loses,repeats,breaks")
    out = {name.rpartition(": ")[2]: reason for name, reason in found["disqualified"].items()}
    assert set(out) == {"loses", "repeats", "breaks"}
    assert "1 lost" in out["loses"]
    assert "1 promoted twice" in out["repeats"]
    assert "told to break" in out["breaks"]


def test_the_figures_that_are_counts_are_met(tmp_path) -> None:
    found = bench(tmp_path, "--scenario", "round-trips", "--scenario", "idle")
    met = {row["what"]: row["met"] for row in found["targets"] if row["met"] is not None}
    assert met == {
        "round trips from claim to acknowledgement": True,
        "statements to Neon from an idle worker": True,
        "statements to Supabase from an idle worker, a second": True,
    }  # fmt: skip


def test_latency_pulls_workers_and_memory_are_measured(tmp_path) -> None:
    wanted = ("latency", "latency-20ms", "backlog-20ms", "workers", "pull", "pull-ten", "memory")
    chosen = [part for name in wanted for part in ("--scenario", name)]
    found = bench(tmp_path, "--contestants", "worker,floor", *chosen)
    assert found["disqualified"] == {}
    assert set(found["conditions"]["scenario_seconds"]) == set(wanted)
    # What a delay line adds, it adds: three round trips of 40 ms cannot take less.
    far = [one for t in found["trials"] if t["scenario"] == "latency, 20 ms" for one in t["values"]["milliseconds"]]
    assert far
    assert min(far) >= 120
