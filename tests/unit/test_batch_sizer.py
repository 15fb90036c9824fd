"""How large the next batch is, and which rows it leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.daemon.batch_sizer import BatchSizer


def test_it_begins_with_a_whole_batch_from_the_head() -> None:
    sizer = BatchSizer(500)
    assert (sizer.limit, sizer.skip) == (500, 0)


def test_a_fault_halves_the_batch_down_to_one_record() -> None:
    sizer = BatchSizer(10)
    limits = []
    for _ in range(4):
        sizer.failed(sizer.limit)
        limits.append(sizer.limit)
    assert limits == [5, 2, 1, 1]


def test_a_batch_that_was_not_full_is_halved_from_what_it_held() -> None:
    sizer = BatchSizer(500)
    sizer.failed(6)
    assert (sizer.limit, sizer.skip) == (3, 0)


def test_a_record_that_fails_alone_is_skipped() -> None:
    sizer = BatchSizer(500)
    sizer.failed(1)
    assert (sizer.limit, sizer.skip) == (1, 1)
    sizer.failed(1)
    assert (sizer.limit, sizer.skip) == (1, 2)


def test_a_fault_that_came_from_no_record_skips_none() -> None:
    sizer = BatchSizer(500)
    for _ in range(20):
        sizer.failed(0)
    assert (sizer.limit, sizer.skip) == (1, 0)


def test_a_success_doubles_the_batch_up_to_the_maximum() -> None:
    sizer = BatchSizer(6)
    sizer.failed(2)
    limits = []
    for _ in range(4):
        assert sizer.delivered(sizer.limit, progress=True)
        limits.append(sizer.limit)
    assert limits == [2, 4, 6, 6]


def test_what_was_skipped_stays_skipped_while_the_batches_behind_it_are_full() -> None:
    sizer = BatchSizer(4)
    sizer.failed(1)
    assert sizer.delivered(1, progress=True)
    assert sizer.delivered(2, progress=True)
    assert (sizer.limit, sizer.skip) == (4, 1)


def test_a_batch_that_is_not_full_is_the_last_and_the_next_begins_at_the_head() -> None:
    sizer = BatchSizer(4)
    sizer.failed(1)
    assert not sizer.delivered(0, progress=False)
    assert sizer.skip == 0


def test_a_full_batch_of_which_nothing_moved_is_skipped_whole() -> None:
    sizer = BatchSizer(4)
    assert sizer.delivered(4, progress=False)
    assert (sizer.limit, sizer.skip) == (4, 4)
    assert not sizer.delivered(3, progress=False)
    assert sizer.skip == 0


def test_rewinding_begins_at_the_head_with_the_same_size() -> None:
    sizer = BatchSizer(500)
    sizer.failed(1)
    sizer.rewind()
    assert (sizer.limit, sizer.skip) == (1, 0)


@given(st.integers(1, 64), st.lists(st.booleans(), min_size=1, max_size=64))
def test_whichever_records_are_poison_each_other_one_is_delivered_in_one_pass(maximum, poison) -> None:
    """A queue in which a batch fails where it holds a poison record: what is left in it at the end of a pass."""
    queue, sizer = list(enumerate(poison)), BatchSizer(maximum)
    for _ in range(200 * len(poison)):
        batch = queue[sizer.skip : sizer.skip + sizer.limit]
        if any(bad for _, bad in batch):
            sizer.failed(len(batch))
        else:
            queue = [row for row in queue if row not in batch]
            if not sizer.delivered(len(batch), progress=bool(batch)):
                break
        assert 1 <= sizer.limit <= maximum
    else:
        pytest.fail("the pass does not end")
    assert queue == [row for row in enumerate(poison) if row[1]]
    assert sizer.skip == 0
