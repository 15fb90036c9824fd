"""The state machine's long profile: ``python tests/soak.py [MINUTES]``. Prints what was done and compared."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import HypothesisException
from hypothesis.stateful import run_state_machine_as_test

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from machine import Loop, struck  # noqa: E402 - the path comes first

LONG = settings(
    max_examples=60, stateful_step_count=50, deadline=None, database=None, print_blob=True,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip


def main() -> int:
    """Run for so many minutes, ten by default."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < minutes * 60:
            run_state_machine_as_test(Loop, settings=LONG)
    except (AssertionError, HypothesisException) as error:
        print(f"FAILED after {time.monotonic() - begun:.0f} s: {error}")
        raise
    finally:
        print(", ".join(f"{number} {what}" for what, number in sorted(struck.items())))
    print("Nothing was lost, and nothing done twice.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
