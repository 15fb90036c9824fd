"""How long a command takes that has nothing to do, beside Python's own start."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.process import ROOT, Failed, environment

LINES = {"worker": ["-m", "worker", "--help"], "python": ["-c", "pass"]}


def milliseconds(name: str) -> float:
    """Start it once, and wait for its end.

    Raises:
        Failed: it ended with another status than 0.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *LINES[name]], env=environment("", ""), cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    took = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise Failed(f"{' '.join(LINES[name])} ended with {done.returncode}")
    return round(took, 3)
