"""What a process remembers of an entity's records: the latest receipt."""

from __future__ import annotations

import pytest
from declared import COMPANY, PEOPLE

from worker.domain.model import Receipt
from worker.domain.postponed import Cause
from worker.sync.route import route_of


@pytest.mark.parametrize(
    ("known", "shown", "then"),
    [
        (None, [], None),
        (None, [None], None),
        (None, [Receipt(2, "b"), Receipt(3, "c"), None], Receipt(3, "c")),
        (Receipt(4, "d"), [Receipt(3, "c")], Receipt(4, "d")),
        (Receipt(3, "c"), [Receipt(4, "d")], Receipt(4, "d")),
    ],
)
def test_the_latest_receipt_is_remembered(known, shown, then) -> None:
    route = route_of(COMPANY)
    route.known = known
    route.remember(shown)
    assert route.known == then


def test_keys_are_cut_into_batches_in_their_order() -> None:
    assert route_of(COMPANY, batch_size=2).batches(list("abcde")) == [["a", "b"], ["c", "d"], ["e"]]
    assert route_of(COMPANY, batch_size=2).batches([]) == []


def test_what_one_entity_postpones_holds_up_no_other() -> None:
    companies, people = route_of(COMPANY), route_of(PEOPLE)
    companies.postponed.put(Cause.HELD, [("a", None)], "held")
    assert (companies.postponed.summary(Cause.HELD)[0], people.postponed.summary(Cause.HELD)[0]) == (1, 0)


def test_the_rows_that_wait_for_a_promoted_record_are_released_and_no_others() -> None:
    [step] = route_of(COMPANY).release.waiting_for(["04.04.01.00.00001.001"])
    assert str(PEOPLE.workspace_table.name) in step[0].as_string()
    assert route_of(COMPANY).release.waiting_for([]) == []
    assert route_of(PEOPLE).release.waiting_for(["04.04.02.00.00001.001"]) == []
