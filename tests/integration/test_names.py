"""What enrichers type as names and phones, as it reaches the row and the master. SPEC 4."""

from __future__ import annotations

import pytest
from records import add_companies, add_master, add_people, add_slot, company, complete, master, person, untell, work


@pytest.mark.parametrize(
    ("edits", "first", "last"),
    [
        ({"full_name": "Vincent van Gogh"}, "Vincent van", "Gogh"),
        ({"first_name": "Vincent", "full_name": "Vincent van Gogh"}, "Vincent", "van Gogh"),
        ({"last_name": "Birch"}, "Robin", "Birch"),
        ({"first_name": "Kim"}, "Kim", "Alder1"),
    ],
)
def test_the_row_and_the_master_have_one_name(steps, neon, supabase, edits, first, last) -> None:
    add_master(neon, 1)
    add_slot(neon, 1, 1)
    add_people(neon, 1, first_name="Robin", last_name="Alder1")
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example", **edits)
    steps.deliver("people")
    row, there = work(supabase, person(1)), master(neon, person(1))
    assert (there["first_name"], there["last_name"]) == (first, last)
    assert (row["full_name"], row["first_name"], row["last_name"]) == (f"{first} {last}", first, last)


@pytest.mark.parametrize(
    ("phone", "there", "named"),
    [
        ("(304) 555-0101", "+13045550101", False), ("(304) 555-0101 x12", None, True), ("(3O4) 555-O1O1", None, True),
        ("N/A", None, True), (None, None, False),
    ],
)  # fmt: skip
def test_a_phone_that_does_not_reach_the_master_as_typed_is_named(steps, neon, supabase, phone, there, named) -> None:
    add_master(neon, 1)
    add_slot(neon, 1, 1)
    add_people(neon, 1, title="CEO")
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example", phone=phone, linkedin_url="null")
    steps.deliver("people")
    row = work(supabase, person(1))
    assert master(neon, person(1))["work_phone_e164"] == there
    assert master(neon, person(1))["linkedin_url"] is None
    assert row["sync_note"].startswith("Promoted to the master table.")
    assert ("phone" in row["sync_note"]) is named
    assert "linkedin_url" in row["sync_note"]


def test_a_placeholder_does_not_reach_a_companys_master_row(steps, neon, supabase) -> None:
    add_master(neon, 1, industry="Mills", company_phone="+13045550199")
    add_companies(neon, 1)
    steps.pull()
    complete(supabase, company(1), website="https://a.example", industry="none", phone="N/A")
    steps.deliver()
    there = master(neon, company(1))
    assert (there["industry"], there["company_phone"]) == ("Mills", "+13045550199")
    assert "industry, phone" in work(supabase, company(1))["sync_note"]


def test_a_corrected_first_name_stays_corrected_when_its_row_was_never_told(steps, neon, supabase) -> None:
    """The full name that the worker made of it is no edit of the enricher's."""
    add_master(neon, 1)
    add_slot(neon, 1, 1)
    add_people(neon, 1, full_name="Jon Smith", first_name="Jon", last_name="Smith", title="CEO")
    steps.pull("people")
    complete(supabase, person(1), first_name="John", email="nobody")
    before = work(supabase, person(1))
    steps.deliver("people")
    untell(supabase, person(1), before)
    complete(supabase, person(1), email="john@alder.example")
    steps.deliver("people")
    there = master(neon, person(1))
    assert (there["first_name"], there["last_name"]) == ("John", "Smith")
    assert work(supabase, person(1))["full_name"] == "John Smith"


def test_a_batch_that_is_bisected_tells_of_an_earlier_promotion(steps, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    steps.pull()
    complete(supabase, company(1), website="https://a.example")
    steps.deliver()
    add_companies(neon, 1)
    steps.pull()
    complete(supabase, company(1), website="n/a")
    steps.deliver()
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    complete(supabase, company(1), website="https://b.example")
    complete(supabase, company(2), website="https://c.example", employee_count=-1)
    steps.deliver()
    assert "came back after its promotion" in work(supabase, company(1))["sync_note"]
    assert "employee_count" in work(supabase, company(2))["validation_errors"]


def test_a_value_that_is_dropped_on_the_way_is_named_by_each_stage(steps, neon, supabase) -> None:
    add_master(neon, 1)
    add_slot(neon, 1, 1)
    add_people(neon, 1, first_name="Robin", last_name="Alder")
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example", phone="(304) 555-0101 x12", title="n/a")
    steps.push("people")
    row = work(supabase, person(1))
    assert (row["sync_note"].endswith("re-validation. Not in Neon as typed: title."), row["title"]) == (True, None)
    assert row["phone"] == "(304) 555-0101 x12"
    steps.promote(person(1), entity="people")
    assert work(supabase, person(1))["sync_note"].endswith("Not in the master as typed: phone.")
