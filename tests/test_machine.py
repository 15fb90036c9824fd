"""The state machine's short profile. The long one: ``python tests/soak.py``."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Loop, struck

SHORT = settings(
    max_examples=15, stateful_step_count=30, deadline=None, database=None, print_blob=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.timeout(600)
def test_whatever_befalls_nothing_is_lost_and_nothing_done_twice() -> None:
    run_state_machine_as_test(Loop, settings=SHORT)
    # The first example that hypothesis makes is the simplest: nothing happens in it.
    assert struck["workers killed while busy"] > 3
    assert struck["servers restarted"] > 3
    assert struck["COMMITs unanswered"] > 3
