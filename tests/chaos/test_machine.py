"""The state machine's short profile. The long one: ``python tests/chaos/soak.py``."""

from __future__ import annotations

import pytest
from ground import Ground
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Loop, struck

SHORT = settings(
    max_examples=8, stateful_step_count=30, deadline=None, database=None, print_blob=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.timeout(900)
def test_whatever_befalls_nothing_is_lost_and_nothing_done_twice() -> None:
    with Ground() as Loop.ground:
        run_state_machine_as_test(Loop, settings=SHORT)
    # The first example that hypothesis makes is the simplest: nothing happens in it.
    assert struck["workers killed while busy"] > 3
    assert struck["quiet moments compared"] > 3
    assert struck["restores of Neon"] + struck["restores of Supabase"] > 0
