"""The person's slot: of the role that the title names, never of another. SPEC 2."""

from __future__ import annotations

import pytest
from records import (
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    insert,
    ledger,
    master,
    person,
    slot,
    work,
)

TITLES = {
    "CEO": [
        "CEO", "Chief Executive Officer", "chief executive", "Founder & CEO", "Founder and President",
        "President / Founder", "Executive Director", "Managing Director", "President & CEO",
    ],
    "CFO": [
        "CFO", "Chief Financial Officer", "Chief Administrative and Financial Officer", "VP Finance", "VP of Finance",
        "Vice President, Financial Services", "Controller", "Treasurer", "Chief School Business Official",
    ],
    "HR": [
        "CHRO", "Chief Human Resources Officer", "Chief People Officer", "VP of Human Resources",
        "Vice President Human Resources", "HR Director", "Human Resources Manager", "hr coordinator",
        "HR Benefits Specialist", "Benefits and Leave Manager",
    ],
    None: [
        "CTO", "Chief Information Officer", "President", "Founder", "Vice President", "HR", "Human Resources",
        "Financial Analyst", "Office Manager", "Director of Sales", "Chrome Specialist", "Ceorl", "", None,
    ],
}  # fmt: skip
"""Role → titles; the customer's patterns."""


def three_slots(neon, how: str, first: int = 1, of: int = 1) -> dict[str, str]:
    """A company's slots for the three roles; role → slot."""
    labels = {"CEO": "CEO", "CFO": "CFO", "HR": "HR Director"}
    found = {}
    for number, (role, label) in enumerate(labels.items(), first):
        columns = {"slot_type": "executive", "slot_label": label} if how == "label" else {"slot_type": role}
        found[role] = add_slot(neon, number, of, **columns)
    return found


def promote(steps, supabase, *numbers: int, **columns) -> None:
    steps.pull("people")
    for number in numbers:
        complete(supabase, person(number), email=f"robin{number}@alder.example", **columns)
    steps.deliver("people")


@pytest.mark.parametrize("how", ["label", "type"])
@pytest.mark.parametrize("role", TITLES, ids=str)
def test_a_title_names_the_slot(steps, neon, supabase, how, role) -> None:
    add_master(neon, 1)
    slots = three_slots(neon, how)
    numbers = range(1, len(TITLES[role]) + 1)
    for number, title in zip(numbers, TITLES[role], strict=True):
        add_people(neon, number, title=title)
    promote(steps, supabase, *numbers)
    for number, title in zip(numbers, TITLES[role], strict=True):
        row, here = master(neon, person(number)), work(supabase, person(number))
        if role:
            assert row, title
            assert row["company_slot_unique_id"] == slots[role], title
        else:
            assert row is None, title
            assert (here["enrichment_status"], here["waiting_for"]) == ("complete", company(1))
            assert (title or "without a title") in here["sync_note"]
            assert "CEO, CFO, HR" in here["sync_note"]


def test_the_customers_170_people_find_as_many_slots_as_he_counted(steps, neon, supabase) -> None:
    """75 CEO, 66 CFO and 13 HR, and 16 whose title names no role."""
    counts = {"CEO": 75, "CFO": 66, "HR": 13, None: 16}
    add_master(neon, 1)
    slots = three_slots(neon, "label")
    number = 0
    for role, many in counts.items():
        titles = [title for title in TITLES[role] if title]
        for one in range(many):
            number += 1
            add_people(neon, number, title=titles[one % len(titles)])
    assert number == 170
    promote(steps, supabase, *range(1, number + 1))
    found = neon.execute(
        "SELECT company_slot_unique_id AS slot, count(*) AS people FROM marketing.people_master GROUP BY 1"
    ).fetchall()
    assert {row["slot"]: row["people"] for row in found} == {slots[role]: counts[role] for role in slots}
    waiting = supabase.execute("SELECT count(*) AS rows FROM people_needs_enrichment WHERE waiting_for IS NOT NULL")
    assert waiting.fetchone()["rows"] == counts[None]


@pytest.mark.parametrize(
    ("slots", "title", "taken"),
    [
        ([{"slot_type": "CEO"}, {"slot_type": "default"}], "CTO", 2),
        ([{"slot_type": "CEO"}, {"slot_type": "Default"}], None, 2),
        ([{"slot_type": "default"}, {"slot_type": "CEO"}], "CEO", 2),
        ([{"slot_type": "CEO"}, {"slot_type": "sales", "slot_label": "Sales"}], "CTO", 2),
        ([{"slot_type": "sales"}, {"slot_type": "legal"}], "CTO", None),
        ([{"slot_type": "sales"}, {"slot_type": None, "slot_label": None}], "CTO", None),
        ([{"slot_type": None, "slot_label": None}], "CTO", 1),
        ([{"slot_type": "default", "slot_label": "CEO"}], "CFO", None),
        ([{"slot_type": "executive", "slot_label": "Director"}], "CEO", 1),
        ([{"slot_type": "executive", "slot_label": "CFO"}], "CEO", None),
        (
            [{"slot_type": "Human Resources", "slot_label": "Human Resources"}, {"slot_type": "CEO"}],
            "Chief  Executive Officer",
            2,
        ),
        ([{"slot_type": "Human Resources"}], "CTO", None),
        ([{"slot_type": "hr_director"}], "CTO", None),
        ([{"slot_type": "executive", "slot_label": "Chief Finance Officer"}], "CEO", None),
    ],
)
def test_who_has_no_role_takes_the_default_slot_or_the_only_one_without_a_role(
    steps, neon, supabase, slots, title, taken
) -> None:
    add_master(neon, 1)
    for number, columns in enumerate(slots, 1):
        add_slot(neon, number, 1, **columns)
    add_people(neon, 1, title=title)
    promote(steps, supabase, 1)
    row = master(neon, person(1))
    assert (row and row["company_slot_unique_id"]) == (taken and slot(taken))


def test_who_waits_for_a_slot_goes_on_when_it_comes_or_the_title_is_repaired(steps, neon, supabase) -> None:
    add_master(neon, 1)
    three_slots(neon, "label")
    add_people(neon, 1, 2, title="CTO")
    promote(steps, supabase, 1, 2)
    assert steps.pull("people").released == 0
    edit(supabase, person(1), title="CFO", enrichment_status="complete")
    steps.deliver("people")
    assert master(neon, person(1))["company_slot_unique_id"] == slot(2)
    add_slot(neon, 9, 1, slot_type="default")
    assert steps.pull("people").released == 1
    steps.deliver("people")
    assert master(neon, person(2))["company_slot_unique_id"] == slot(9)


@pytest.mark.parametrize("title", ["CFO", "Gardener", None])
def test_a_person_who_is_in_the_master_keeps_slot_and_provenance(steps, neon, supabase, title) -> None:
    add_master(neon, 1)
    three_slots(neon, "label")
    insert(neon, "marketing.people_master", {
        "unique_id": person(1), "company_unique_id": company(1), "company_slot_unique_id": slot(1),
        "first_name": "Robin", "last_name": "Alder", "title": "CEO", "source_system": "intake", "source_record_id": "77",
        "promoted_from_intake_at": "2020-01-02", "created_at": "2020-01-01",
    })  # fmt: skip
    before = master(neon, person(1))
    add_people(neon, 1, title=title)
    promote(steps, supabase, 1)
    after = master(neon, person(1))
    kept = ("company_slot_unique_id", "source_system", "source_record_id", "promoted_from_intake_at", "created_at")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["email"] == "robin1@alder.example"
    assert after["title"] == (title or "CEO"), "never NULL over a value"
    assert ledger(neon, person(1))[-1]["master_before"]["source_record_id"] == "77"


def test_a_company_that_is_in_the_master_keeps_where_it_came_from(steps, neon, supabase) -> None:
    add_master(neon, 1, import_batch_id="B1", promoted_from_intake_at="2020-01-02")
    add_master(neon, 2, import_batch_id=None)
    before = master(neon, company(1))
    add_companies(neon, 1, 2, batch_id="B2")
    steps.pull()
    for number in (1, 2):
        complete(supabase, company(number), website=f"https://new{number}.example")
    steps.deliver()
    after = master(neon, company(1))
    kept = ("source_system", "source_record_id", "import_batch_id", "promoted_from_intake_at", "created_at")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["website_url"] == "https://new1.example"
    assert master(neon, company(2))["import_batch_id"] == "B2", "what was empty is filled"


def test_the_slots_may_have_columns_of_the_customers_own(steps, neon, supabase) -> None:
    for name in ("role", "named", "nameless", "slot", "since", "wanted", "by_default"):
        neon.execute(f"ALTER TABLE marketing.company_slots ADD COLUMN {name} TEXT")
    add_master(neon, 1)
    three_slots(neon, "label")
    add_people(neon, 1, title="CFO")
    promote(steps, supabase, 1)
    assert master(neon, person(1))["company_slot_unique_id"] == slot(2)


def test_a_company_id_with_a_blank_behind_it_waits_and_is_not_carried_again_and_again(steps, neon, supabase) -> None:
    add_people(neon, 1)
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example", company_unique_id=f"{company(9)} ")
    assert steps.deliver("people").claimed == 1
    assert work(supabase, person(1))["waiting_for"] == company(9)
    assert steps.deliver("people").claimed == 0
    assert steps.pull("people").released == 0


PIPELINE = """
CREATE TABLE marketing.pipeline_events (id bigserial PRIMARY KEY, event_type text NOT NULL, payload jsonb NOT NULL);
CREATE FUNCTION marketing.promoted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO marketing.pipeline_events (event_type, payload)
  VALUES ('company_promoted', jsonb_build_object('company', NEW.company_unique_id));
  PERFORM pg_notify('pipeline_event', NEW.company_unique_id);
  RETURN NEW;
END $$;
CREATE TRIGGER promoted AFTER INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION marketing.promoted();
"""
"""The customer's own: n8n hears of each new company, and makes its slots."""


def test_people_go_on_when_n8n_has_made_the_slots_of_a_company_that_was_promoted(
    prepared, neon, supabase, cli, env, daemon, eventually
) -> None:
    env["WORKER_PULL_INTERVAL"] = "0.3s"
    neon.execute(PIPELINE)
    neon.execute("LISTEN pipeline_event")
    add_companies(neon, 1)
    add_people(neon, 1, of=1, title="Treasurer")
    assert cli("pull").returncode == 0
    worker = daemon()
    complete(supabase, person(1), email="robin@alder.example")
    complete(supabase, company(1), website="alder.example")
    (heard,) = neon.notifies(timeout=60, stop_after=1)
    assert heard.payload == company(1)
    eventually(lambda: "no slot for people yet" in (work(supabase, person(1))["sync_note"] or ""))
    assert neon.execute("SELECT payload FROM marketing.pipeline_events").fetchall() == [
        {"payload": {"company": company(1)}}
    ]
    slots = three_slots(neon, "label")
    eventually(lambda: work(supabase, person(1))["promoted_at"])
    assert master(neon, person(1))["company_slot_unique_id"] == slots["CFO"]
    assert worker.terminate() == 0
