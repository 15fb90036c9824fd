"""The customer's day in one script, so that it stays true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(400)
def test_a_day_in_its_life_ends_with_both_databases_in_agreement() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "day.py")],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[:5] for line in done.stdout.splitlines()[:-1]] == [
        "08:00", "08:05", "09:00", "09:30", "10:00", "10:01", "10:30", "11:00", "12:00", "12:10", "13:00", "14:00", "15:00",
        "16:00", "17:00", "17:05", "17:06",
    ]  # fmt: skip
