"""The bench works, and disqualifies who loses or repeats a record: small runs of it, for what they find, not how fast."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from embedded import in_memory

pytestmark = pytest.mark.timeout(300)


def bench(folder, *arguments, **more) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--fsync", "off", "--out", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, **({"TMPDIR": str(memory)} if (memory := in_memory()) else {}), **more},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Figures to reach" in done.stdout
    assert (folder / "bench.svg").exists() or "backlog" not in arguments
    return json.loads((folder / "bench.json").read_text())


def test_every_contestant_takes_every_record_to_its_one_fate(tmp_path) -> None:
    found = bench(tmp_path, "--scenario", "backlog")
    assert found["disqualified"] == {}
    assert {trial["contestant"] for trial in found["trials"]} == {
        "worker", "pgqueuer", "procrastinate", "graphile-worker", "naive", "floor", "set-based"
    }  # fmt: skip
    # Only what Node.js runs may be missing; the reason is in the results, and in the test's.
    assert {name.rpartition(": ")[2] for name in found["skipped"]} <= {"graphile-worker"}
    for trial in found["trials"]:
        if not trial["skipped"]:
            assert set(trial["values"]["cpu"]) == {"itself", "neon", "supabase"}
    if found["skipped"]:
        pytest.skip(f"graphile-worker took no part, because {next(iter(found['skipped'].values()))}")


def test_a_contestant_that_cannot_be_had_is_skipped_with_the_reason(tmp_path) -> None:
    # Neither Node.js nor a package that is kept: npm would have to ask a registry that is not there.
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error https://registry.example' >&2\nexit 1\n")
    npm.chmod(0o755)
    node = tmp_path / "bin" / "node"
    node.write_text("#!/bin/sh\necho v99.0.0\n")
    node.chmod(0o755)
    found = bench(
        tmp_path, "--scenario", "backlog", "--contestants", "floor,graphile-worker",
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", XDG_CACHE_HOME=str(tmp_path / "cache"),
    )  # fmt: skip
    assert found["disqualified"] == {}
    assert found["skipped"] == {
        "backlog 200: graphile-worker": "npm could not install it (it ended with 1): is there a network?"
    }
    assert not any((tmp_path / "cache" / "enrichment-worker-bench").iterdir())
    # Without one of the peers nothing is said to be met, or not, against the best of them.
    (row,) = [row for row in found["targets"] if "best peer" in row["what"] and row["what"].startswith("backlog")]
    assert row["met"] is None


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
    # How many statements a flip may send is the worker's own test to say.
    assert met.pop("statements sent for one flip") is not None
    assert met == {
        "round trips from claim to acknowledgement": True,
        "statements to Neon from an idle worker": True,
        "statements to Supabase from an idle worker, a second": True,
    }  # fmt: skip


def test_latency_pulls_workers_and_memory_are_measured(tmp_path) -> None:
    wanted = ("latency", "latency-20ms", "latency-crowd", "backlog-20ms", "workers", "pull", "pull-ten", "memory")
    chosen = [part for name in wanted for part in ("--scenario", name)]
    found = bench(tmp_path, "--contestants", "worker,floor,set-based", *chosen)
    assert found["disqualified"] == {}
    assert set(found["conditions"]["scenario_seconds"]) == set(wanted)
    # What a delay line adds, it adds: two round trips of 40 ms to the master and three to the answer cannot take less.
    far = [trial["values"] for trial in found["trials"] if trial["scenario"] == "latency, 20 ms"]
    assert far
    assert min(one for values in far for one in values["milliseconds"]) >= 80
    assert min(one for values in far for one in values["settled_milliseconds"]) >= 120
    # Every line of the table has its figure here but those of scenarios and peers that were left out.
    missing = {row["what"].partition(",")[0] for row in found["targets"] if row["measured"] == "not measured"}
    assert missing == {
        "round trips from claim to acknowledgement", "statements sent for one flip", "flip to promoted", "backlog",
        "the same against set-based SQL without rules", "the same", "statements to Neon from an idle worker",
        "statements to Supabase from an idle worker", "`enrichment-worker --help` against `python -c pass`",
    }  # fmt: skip
