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


def test_who_loses_or_repeats_a_record_or_ends_is_disqualified_and_who_cannot_be_had_is_skipped(tmp_path) -> None:
    # A Node.js that is new enough, with an npm that finds no registry, and no packages of an earlier run.
    (tmp_path / "bin").mkdir()
    for name, script in (("node", "echo v99.0.0"), ("npm", "echo 'error: registry.example' >&2; exit 1")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    found = bench(
        tmp_path, "--scenario", "backlog", "--contestants", "floor,graphile-worker,loses,repeats,breaks",
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", XDG_CACHE_HOME=str(tmp_path / "cache"),
    )  # fmt: skip
    out = {name.rpartition(": ")[2]: reason for name, reason in found["disqualified"].items()}
    assert set(out) == {"loses", "repeats", "breaks"}
    assert "1 lost" in out["loses"]
    assert "1 promoted twice" in out["repeats"]
    assert "told to break" in out["breaks"]
    assert found["skipped"] == {
        "backlog 200: graphile-worker": "npm could not install it (it ended with 1): is there a network?"
    }
    assert not any((tmp_path / "cache" / "enrichment-worker-bench").iterdir())


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


def measured(found, wanted) -> set[str]:
    """The lines of the targets that have a figure."""
    assert found["disqualified"] == {}
    assert set(found["conditions"]["scenario_seconds"]) == set(wanted)
    return {row["what"] for row in found["targets"] if row["measured"] != "not measured"}


def chosen(names) -> list[str]:
    return [part for name in names for part in ("--scenario", name)]


def test_latency_and_backlogs_are_measured(tmp_path) -> None:
    wanted = ("latency", "latency-20ms", "latency-crowd", "backlog-20ms", "workers", "help")
    found = bench(tmp_path, "--contestants", "worker,floor,set-based", *chosen(wanted))
    assert measured(found, wanted) == {
        "the same, p50, against the hand-written floor", "the same, p50, with 20 ms each way",
        "the same, p50, with many rows, a tenth of them waiting and as many queued for the other entity, against few",
        "backlog with 20 ms each way against set-based SQL over the same links",
        "two workers against one, links of 20 ms, batches of 50", "`enrichment-worker --help` against `python -c pass`",
    }  # fmt: skip
    # What a delay line adds, it adds: two round trips of 40 ms to the master and three to the answer cannot take less.
    far = [trial["values"] for trial in found["trials"] if trial["scenario"] == "latency, 20 ms"]
    assert far
    assert min(one for values in far for one in values["milliseconds"]) >= 80
    assert min(one for values in far for one in values["settled_milliseconds"]) >= 120


def test_pulls_and_memory_are_measured(tmp_path) -> None:
    wanted = ("pull", "pull-ten", "memory")
    found = bench(tmp_path, *chosen(wanted))
    assert measured(found, wanted) == {
        "first pull against psql COPY | psql COPY", "the same as a role that row level security is active for",
        "pull of 10 new rows, with many there against few", "memory with a backlog of the larger against the smaller",
        "memory with many waiting against few",
    }  # fmt: skip
