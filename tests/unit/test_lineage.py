"""Which version of a row descends from what was carried of it: SPEC 13."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from worker.domain.lineage import descends, is_older, with_carried_values
from worker.domain.model import stamp
from worker.domain.steps import Claimed, Sent

EARLY, SENT_AT, LATE = datetime(2026, 1, 1), datetime(2026, 1, 2), datetime(2026, 1, 3)
ROW = Claimed(
    key="1", version=LATE, data={"city": None, "phone": "1"}, snapshot={"city": None, "phone": None}, snapshot_hash=None,
    delivery_hash="", enriched_by=None, enriched_at=EARLY, queued_versions=stamp(LATE),
)  # fmt: skip


def kept(versions: set[datetime]) -> str:
    """As the trigger keeps them."""
    return ",".join(map(stamp, sorted(versions)))


SENT = Sent({"city": "Elkins", "phone": "2"}, SENT_AT, EARLY)


@pytest.mark.parametrize(
    ("versions", "version", "descended"),
    [
        ({SENT_AT, LATE}, LATE, True),
        ({SENT_AT}, SENT_AT, True),
        (set(), SENT_AT, True),
        ({LATE}, LATE, False),
        ({EARLY, LATE}, LATE, False),
        (set(), EARLY, False),
    ],
)
def test_a_row_descends_from_the_versions_in_which_it_was_queued(versions, version, descended) -> None:
    assert descends(replace(ROW, version=version, queued_versions=kept(versions)), SENT) is descended


@pytest.mark.parametrize(
    ("enriched_at", "pushed_at", "descended"), [(EARLY, None, True), (LATE, None, False), (EARLY, LATE, False)]
)
def test_where_no_versions_were_kept_the_flip_tells(enriched_at, pushed_at, descended) -> None:
    row = replace(ROW, queued_versions=None, enriched_at=enriched_at, pushed_at=pushed_at)
    assert descends(row, SENT) is descended


def test_a_row_that_nobody_has_typed_into_since_the_restore_gets_all_that_went() -> None:
    row = replace(ROW, version=EARLY)
    assert is_older(row, SENT)
    assert with_carried_values(row, SENT) == {"city": "Elkins", "phone": "2"}


def test_what_is_typed_since_the_restore_stays_and_the_rest_comes_back() -> None:
    assert with_carried_values(ROW, SENT) == {"city": "Elkins", "phone": "1"}


def test_a_later_version_of_what_went_lacks_nothing() -> None:
    row = replace(ROW, queued_versions=kept({SENT_AT, LATE}))
    assert with_carried_values(row, SENT) == row.data


@pytest.mark.parametrize(("versions", "descended"), [(31, False), (32, True), (33, True)])
def test_what_was_queued_more_often_than_is_kept_is_no_row_of_a_backup(versions: int, descended: bool) -> None:
    later = [SENT_AT + timedelta(seconds=number) for number in range(1, versions + 1)]
    row = replace(ROW, version=later[-1], queued_versions=",".join(map(stamp, later[-32:])))
    assert descends(row, SENT) is descended
    # A backup of a full list, queued once more: what was carried in between is not in it.
    row = replace(row, queued_versions=",".join(stamp(SENT_AT - timedelta(seconds=n)) for n in range(32, 0, -1)))
    assert not descends(row, SENT)
