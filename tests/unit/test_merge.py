"""Merge by field: SPEC 6."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.merge import merge
from worker.domain.steps import Conflict

EARLY, LATE = datetime(2026, 1, 1), datetime(2026, 1, 2)
BASE = {"name": "Alder", "website": None, "phone": "1"}


def test_what_the_enricher_changed_is_kept() -> None:
    merged = merge(BASE, {**BASE, "website": "https://a.example"}, BASE)
    assert merged.data == {**BASE, "website": "https://a.example"}
    assert merged.enriched_fields == ("website",)


def test_what_neon_changed_meanwhile_is_kept_too() -> None:
    merged = merge(BASE, {**BASE, "website": "https://a.example"}, {**BASE, "phone": "2"}, LATE, EARLY)
    assert merged.data == {"name": "Alder", "website": "https://a.example", "phone": "2"}
    assert merged.conflicts == ()


@pytest.mark.parametrize(
    ("mine_at", "theirs_at", "winner"),
    [
        (LATE, EARLY, "enricher"),
        (EARLY, LATE, "neon"),
        (LATE, LATE, "enricher"),
        (None, LATE, "enricher"),
        (EARLY, None, "enricher"),
    ],
)
def test_the_newer_change_of_the_same_field_wins_and_a_tie_goes_to_the_enricher(
    mine_at: datetime | None, theirs_at: datetime | None, winner: str
) -> None:
    merged = merge(BASE, {**BASE, "phone": "mine"}, {**BASE, "phone": "theirs"}, mine_at, theirs_at)
    assert merged.data["phone"] == ("mine" if winner == "enricher" else "theirs")
    assert merged.conflicts == (Conflict("phone", "mine", "theirs", winner),)
    assert merged.enriched_fields == (("phone",) if winner == "enricher" else ())


def test_the_same_change_on_both_sides_is_no_conflict() -> None:
    merged = merge(BASE, {**BASE, "phone": "2"}, {**BASE, "phone": "2"}, EARLY, LATE)
    assert merged.data["phone"] == "2"
    assert merged.conflicts == ()


def test_a_value_that_normalises_to_neons_is_no_conflict() -> None:
    merged = merge(
        BASE,
        {**BASE, "website": "A.example"},
        {**BASE, "website": "a.example"},
        normalise=lambda data: {name: value.lower() if value else value for name, value in data.items()},
    )
    assert merged.data["website"] == "a.example"
    assert merged.conflicts == ()


def test_a_field_the_enricher_emptied_is_empty() -> None:
    merged = merge(BASE, {**BASE, "phone": None}, {**BASE, "name": "Birch"})
    assert merged.data == {"name": "Birch", "website": None, "phone": None}


VALUES = st.one_of(st.none(), st.integers(0, 2), st.sampled_from(["a", "b", "c"]))
RECORDS = st.fixed_dictionaries(dict.fromkeys("xyz", VALUES))


@given(base=RECORDS, mine=RECORDS, theirs=RECORDS, mine_is_newer=st.booleans())
def test_every_field_has_the_value_of_the_side_that_changed_it(
    base: dict[str, object], mine: dict[str, object], theirs: dict[str, object], mine_is_newer: bool
) -> None:
    times = (LATE, EARLY) if mine_is_newer else (EARLY, LATE)
    merged = merge(base, mine, theirs, *times)
    for name, value in merged.data.items():
        if mine[name] == base[name]:
            assert value == theirs[name]
        elif theirs[name] == base[name]:
            assert value == mine[name]
        else:
            assert value == (mine[name] if mine_is_newer else theirs[name])
    lost = {conflict.field for conflict in merged.conflicts}
    assert lost == {n for n in "xyz" if mine[n] != base[n] and theirs[n] != base[n] and mine[n] != theirs[n]}
