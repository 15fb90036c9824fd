"""An enricher's edits against the worker's writes, earlier versions, and records that left Neon and came back. SPEC 3, 5, 6."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import psycopg
import pytest
from conftest import connect
from declared import COMPANY, PEOPLE
from records import (
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    insert,
    invalid,
    ledger,
    master,
    person,
    work,
)
from steps import Steps

from worker.domain.model import Receipt, new_run_id
from worker.neon.books import Run
from worker.sync import acknowledge
from worker.sync.catch_up import acknowledge_missed
from worker.sync.deliver import deliver
from worker.sync.judging import judge
from worker.sync.settling import settle_batch


@pytest.fixture
def steps(steps, neon) -> Steps:
    add_companies(neon, 1, 2, 3)
    steps.pull()
    return steps


def settle_and_lose_the_claim(steps: Steps, between=lambda: None, entity=COMPANY) -> list[Receipt | None]:
    """A delivery whose connection to the workspace breaks before the settlement commits. Returns the receipts that were not shown."""

    async def work_(opened) -> list[Receipt | None]:
        route = opened.routes[entity.name]
        async with opened.neon.connection() as there:
            async with opened.supabase.connection() as here:
                batch = await route.queue.claim(here, 10)
            between()  # the claim is gone with its connection: the row may be edited
            judged = [judge(entity, claimed, claimed.snapshot, claimed.snapshot_hash) for claimed in batch]
            run = Run(new_run_id("deliver"), "w", "m")
            settled, _ = await settle_batch(route, there, judged, run)
        return [one.answer.receipt for one in settled]

    return steps.run(work_)


def test_what_was_saved_while_its_earlier_version_was_settled_is_not_lost(steps, neon, supabase) -> None:
    complete(supabase, company(1), website="n/a")
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), website="good.example"))
    assert invalid(neon, company(1))["website"] == "n/a"
    steps.deliver()
    assert master(neon, company(1))["website_url"] == "https://good.example"
    row = work(supabase, company(1))
    assert row["enrichment_status"] == "complete"
    assert "newer value" not in row["sync_note"]
    assert ledger(neon, company(1))[-1]["conflicts"] == []


def test_what_the_master_refused_is_judged_anew_when_it_is_set_complete_as_it_is(steps, neon, supabase) -> None:
    """The operator has fixed the master meanwhile: the values are the same, and it is no repeat."""
    neon.execute("ALTER TABLE marketing.company_master ADD CONSTRAINT theirs CHECK (website_url NOT LIKE '%good%')")
    for _ in range(2):  # what was tidied the first time is as it is the second time
        complete(supabase, company(1), website="https://good.example")
        steps.deliver()
        assert work(supabase, company(1))["enrichment_status"] == "failed"
    neon.execute("ALTER TABLE marketing.company_master DROP CONSTRAINT theirs")
    complete(supabase, company(1))
    steps.deliver()
    assert work(supabase, company(1))["promoted_at"] is not None
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["flagged", "flagged", "promoted"]


def test_a_value_that_was_sent_and_then_cleared_again_stays_cleared(steps, neon, supabase) -> None:
    complete(supabase, company(1), website="n/a", city="Elkins")
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), website="good.example", city=None))
    steps.deliver()
    row = master(neon, company(1))
    assert (row["website_url"], row["address_city"]) == ("https://good.example", None)


@pytest.mark.parametrize("then", ["deliver", "take back and pull"])
def test_what_the_worker_tidied_in_neon_is_no_change_of_neons(steps, neon, supabase, then) -> None:
    neon.execute("UPDATE marketing.company_invalid SET phone = '(304) 555-0101', city = ' Elkins '")
    steps.pull(full=True)
    complete(supabase, company(1), website="n/a")
    settle_and_lose_the_claim(
        steps, lambda: edit(supabase, company(1), website="good.example", phone="(304) 555-0199", city="Berea")
    )
    assert (invalid(neon, company(1))["phone"], invalid(neon, company(1))["city"]) == ("+13045550101", "Elkins")
    if then != "deliver":
        edit(supabase, company(1), enrichment_status="in_progress")
        steps.pull()
        assert work(supabase, company(1))["phone"] == "(304) 555-0199"
        complete(supabase, company(1))
    steps.deliver()
    row = master(neon, company(1))
    assert (row["company_phone"], row["address_city"]) == ("+13045550199", "Berea")
    assert "newer value" not in work(supabase, company(1))["sync_note"]
    assert all(entry["conflicts"] == [] for entry in ledger(neon, company(1)))


def test_what_the_worker_tidied_and_neon_then_changed_is_neons(steps, neon, supabase) -> None:
    neon.execute("UPDATE marketing.company_invalid SET phone = '(304) 555-0101'")
    steps.pull(full=True)
    complete(supabase, company(1), website="n/a")
    settle_and_lose_the_claim(steps)
    neon.execute("UPDATE marketing.company_invalid SET phone = '+13045550107', updated_at = now() AT TIME ZONE 'UTC'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    edit(supabase, company(1), website="good.example")
    steps.deliver()
    assert master(neon, company(1))["company_phone"] == "+13045550107"
    assert ledger(neon, company(1))[-1]["conflicts"] == [], "nobody but Neon changed it"


def test_what_followed_from_a_name_that_was_corrected_meanwhile_does_not_stay(steps, neon, supabase) -> None:
    add_master(neon, 9)
    add_slot(neon, 9, of=9)
    (key,) = add_people(neon, 5, of=9, full_name=None)
    steps.pull("people")
    complete(supabase, key, full_name="Robin Alder", email="no address")
    settle_and_lose_the_claim(
        steps, lambda: edit(supabase, key, full_name="Robin Birch", email="robin@alder.example"), PEOPLE
    )
    assert invalid(neon, key)["last_name"] == "Alder"
    steps.deliver("people")
    assert master(neon, key)["full_name"] == "Robin Birch"


def test_a_correction_of_neons_is_as_old_as_it_was_before_the_worker_wrote_beside_it(steps, neon, supabase) -> None:
    complete(supabase, company(1), website="n/a", zip="26501")
    neon.execute("UPDATE marketing.company_invalid SET zip = '26502', updated_at = clock_timestamp() AT TIME ZONE 'UTC'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), website="good.example", zip="26503"))
    assert invalid(neon, company(1))["zip"] == "26502", "Neon's was newer than what was sent first"
    steps.deliver()
    assert master(neon, company(1))["address_zip"] == "26503", "and is older than what he typed after"
    assert "newer value" not in work(supabase, company(1))["sync_note"]
    (conflict,) = ledger(neon, company(1))[-1]["conflicts"]
    assert conflict == {"field": "zip", "enricher": "26503", "neon": "26502", "winner": "enricher"}


@pytest.mark.parametrize("website", ["good.example", "n/a"])
def test_an_edit_that_lost_is_told_though_the_answer_to_its_settlement_was_lost(steps, neon, supabase, website) -> None:
    complete(supabase, company(1), website=website, zip="26501")
    neon.execute("UPDATE marketing.company_invalid SET zip = '26502', updated_at = clock_timestamp() AT TIME ZONE 'UTC'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    settle_and_lose_the_claim(steps)
    steps.deliver()
    row = work(supabase, company(1))
    assert row["zip"] == "26502"
    assert "Your change to zip was not kept" in row["sync_note"]


def test_neons_own_change_meanwhile_still_counts(steps, neon, supabase) -> None:
    complete(supabase, company(1), website="n/a")
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), website="good.example"))
    neon.execute("UPDATE marketing.company_invalid SET zip = '26501', updated_at = now() AT TIME ZONE 'UTC'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    steps.deliver()
    row = master(neon, company(1))
    assert (row["website_url"], row["address_zip"]) == ("https://good.example", "26501")


@pytest.mark.parametrize("status", ["complete", "in_progress"])
def test_going_back_to_the_old_value_after_a_promotion_that_was_not_told_is_an_edit(
    steps, neon, supabase, status
) -> None:
    complete(supabase, company(1), website="n/a")
    steps.deliver()
    complete(supabase, company(1), website="good.example")
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), website="n/a", enrichment_status=status))
    steps.deliver()
    steps.pull(full=True)
    row = work(supabase, company(1))
    assert master(neon, company(1))["website_url"] == "https://good.example"
    assert (row["enrichment_status"], row["website"]) == ("complete", "n/a")
    assert "Edits after promotion are not carried" in row["sync_note"]


def test_neons_own_correction_that_was_promoted_is_no_edit(steps, neon, supabase) -> None:
    neon.execute("UPDATE marketing.company_invalid SET website = 'good.example', updated_at = now() AT TIME ZONE 'UTC'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    complete(supabase, company(1))
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), enrichment_status="in_progress"))
    steps.pull(full=True)
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["website"]) == ("complete", "https://good.example")
    assert "before you took it back" in row["sync_note"]
    assert "not carried" not in row["sync_note"]


def test_a_promotion_that_had_taken_effect_before_he_took_it_back_is_told(steps, neon, supabase) -> None:
    complete(supabase, company(1), website="good.example")
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), enrichment_status="in_progress", city="Elkins"))
    steps.pull()
    row = work(supabase, company(1))
    assert row["promoted_at"] is not None
    assert row["city"] == "Elkins", "what he typed stays his"
    assert row["validation_warnings"] == ledger(neon, company(1))[-1]["warnings"] != {}
    assert "promoted" in row["sync_note"]
    assert "before you took it back" in row["sync_note"]
    steps.pull(full=True)
    assert "another way" not in work(supabase, company(1))["sync_note"]


def test_who_takes_his_row_back_while_replies_are_told_one_by_one_hears_of_it(
    steps, neon, supabase, monkeypatch
) -> None:
    """One row refuses its reply, and the claim's locks go with the batch's."""
    supabase.execute("ALTER TABLE company_needs_enrichment ADD CHECK (neon_id <> 2 OR pushed_to_neon_at IS NULL)")
    for number in (1, 2):
        complete(supabase, company(number), website="good.example")
    apart = acknowledge._acknowledge_singly

    async def late(*arguments):
        edit(supabase, company(1), enrichment_status="in_progress")
        return await apart(*arguments)

    monkeypatch.setattr(acknowledge, "_acknowledge_singly", late)
    missed = steps.deliver().missed
    assert work(supabase, company(1))["promoted_at"] is None
    assert company(1) in missed
    steps.run(lambda opened: acknowledge_missed(opened, COMPANY, missed))
    assert work(supabase, company(1))["promoted_at"] is not None


def test_who_waits_for_a_company_whose_row_is_told_late_goes_on_then(steps, neon, supabase) -> None:
    add_people(neon, 1, of=1)
    add_slot(neon, 1, of=1)
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example")
    steps.deliver("people")
    complete(supabase, company(1), website="good.example")
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), enrichment_status="in_progress"))
    assert work(supabase, person(1))["waiting_for"] == company(1)
    steps.run(lambda opened: acknowledge_missed(opened, COMPANY))
    assert work(supabase, company(1))["promoted_at"] is not None
    assert work(supabase, person(1))["waiting_for"] is None


def test_a_promotion_that_commits_after_a_later_one_is_told_though_a_pull_came_in_between(
    steps, databases, neon, supabase
) -> None:
    """It has its ledger id before others see it: a pull has not seen all rows up to the latest id."""
    complete(supabase, company(1), website="good.example")
    settle_and_lose_the_claim(steps, lambda: edit(supabase, company(1), enrichment_status="in_progress"))
    complete(supabase, company(2), website="b.example")
    steps.deliver()
    assert ledger(neon, company(1))[-1]["id"] < ledger(neon, company(2))[-1]["id"]
    # As others see the ledger while the first settlement is under way.
    neon.execute(
        "CREATE TABLE late AS SELECT * FROM marketing.enrichment_ledger WHERE key = '04.04.01.01.00001.001';"
        "DELETE FROM marketing.enrichment_ledger WHERE key = '04.04.01.01.00001.001'"
    )
    with psycopg.connect(databases.neon_url) as settlement:
        settlement.execute("INSERT INTO marketing.enrichment_ledger OVERRIDING SYSTEM VALUE SELECT * FROM late")
        steps.pull()
        assert work(supabase, company(1))["promoted_at"] is None
        settlement.commit()
    steps.pull()
    row = work(supabase, company(1))
    assert row["promoted_at"] is not None
    assert "before you took it back" in row["sync_note"]


def test_a_row_taken_back_before_it_was_flagged_hears_of_it_from_the_next_worker(
    steps, supabase, daemon, env, eventually
) -> None:
    complete(supabase, company(1), website="n/a")
    settle_and_lose_the_claim(
        steps, lambda: edit(supabase, company(1), enrichment_status="in_progress", website="half-typed")
    )
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    daemon()
    eventually(lambda: "not promoted" in (work(supabase, company(1))["sync_note"] or ""))
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["website"]) == ("in_progress", "half-typed")


@pytest.mark.parametrize("edited", [True, False], ids=["edited", "not edited yet"])
@pytest.mark.parametrize("status", ["in_progress", "pending", "failed"])
@pytest.mark.parametrize("stage", ["pull", "revalidate and promote", "pull full"])
def test_what_was_taken_back_after_a_push_is_promoted_by_no_stage(steps, neon, supabase, stage, status, edited) -> None:
    complete(supabase, company(1), website="old.example")
    steps.push()
    edit(supabase, company(1), enrichment_status=status)
    assert work(supabase, company(1))["sync_note"] is None, "it does not wait for re-validation any more"
    if edited:
        edit(supabase, company(1), website="corrected.example")
    if stage == "revalidate and promote":
        assert steps.revalidate().passed == []
        judged = steps.promote(company(1))
        assert judged.promoted == []
        assert "taken it back" in judged.left[company(1)]
    else:
        steps.pull(full=stage == "pull full")
    assert master(neon, company(1)) is None
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["website"]) == (
        status,
        "corrected.example" if edited else "https://old.example",
    )
    complete(supabase, company(1), website="corrected.example")
    steps.deliver()
    assert master(neon, company(1))["website_url"] == "https://corrected.example"


def test_a_record_that_left_and_came_back_is_as_pulled_anew(steps, neon, supabase) -> None:
    edit(supabase, company(1), city="Elkins")
    complete(supabase, company(2), website="b.example")
    edit(supabase, company(3), city="Parsons", enrichment_status="in_progress")
    kept = [invalid(neon, company(number)) for number in (1, 2, 3)]
    neon.execute("DELETE FROM marketing.company_invalid")
    steps.deliver()
    steps.pull(full=True)
    assert "another way" in work(supabase, company(1))["sync_note"]
    assert work(supabase, company(2))["enrichment_status"] == "failed"
    assert "another way" in work(supabase, company(3))["sync_note"]
    for row in kept:
        row["validation_errors"] = '{"website": "empty or blank"}'
        insert(neon, "marketing.company_invalid", {name: value for name, value in row.items() if value is not None})
    steps.pull(full=True)
    for number, status in {1: "pending", 2: "pending", 3: "in_progress"}.items():  # somebody is at work on the third
        row = work(supabase, company(number))
        assert (row["enrichment_status"], row["sync_note"]) == (status, None)
    assert work(supabase, company(1))["city"] == "Elkins"
    assert work(supabase, company(2))["website"] == "b.example"
    assert work(supabase, company(3))["city"] == "Parsons"
    complete(supabase, company(2))
    steps.deliver()
    assert master(neon, company(2))["website_url"] == "https://b.example"


def test_notes_of_release_0_1_0_are_understood_when_the_record_comes_back(steps, neon, supabase) -> None:
    supabase.execute("SET enrichment_worker.writer = on")
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'failed', sync_note = 'This record is no longer in the"
        " invalid table: it left by another way than this worker, which does not know why. Nothing was carried; your"
        " edit is still here.' WHERE company_unique_id = %s", [company(1)]
    )  # fmt: skip
    supabase.execute(
        "UPDATE company_needs_enrichment SET city = 'Elkins', sync_note = 'This record left Neon''s invalid table by"
        " another way. Your edit is kept here, but there is nothing to carry it to.' WHERE company_unique_id = %s",
        [company(2)],
    )
    steps.pull(full=True)
    for number in (1, 2):
        row = work(supabase, company(number))
        assert (row["enrichment_status"], row["sync_note"]) == ("pending", None)


def test_a_row_added_by_hand_reads_where_records_come_from(steps, neon, supabase) -> None:
    insert(supabase, "public.company_needs_enrichment", {
        "company_unique_id": company(9), "company_name": "By Hand", "website": "hand.example",
        "enrichment_status": "complete",
    })  # fmt: skip
    insert(supabase, "public.company_needs_enrichment", {
        "company_unique_id": company(8), "company_name": "By Hand", "neon_snapshot": '{"company_name": "By Hand"}',
    })  # fmt: skip
    steps.deliver()
    steps.pull(full=True)
    for number in (8, 9):
        note = work(supabase, company(number))["sync_note"]
        assert "new records come from there" in note
        assert "no longer" not in note


def test_a_note_on_a_finished_row_with_a_generated_column_does_not_queue_it(steps, neon, supabase) -> None:
    supabase.execute(
        "ALTER TABLE company_needs_enrichment ADD COLUMN shout TEXT GENERATED ALWAYS AS (upper(company_name)) STORED,"
        " ADD COLUMN assignee TEXT"
    )
    complete(supabase, company(1), website="a.example")
    steps.deliver()
    before = work(supabase, company(1))
    edit(supabase, company(1), company_name=before["company_name"])
    assert work(supabase, company(1)) == before, "saving a cell as it is changes nothing"
    edit(supabase, company(1), enrichment_notes="seen", assignee="robin")
    row = work(supabase, company(1))
    assert row["pushed_to_neon_at"] == before["pushed_to_neon_at"]
    assert row["sync_note"] == before["sync_note"]
    edit(supabase, company(1), city="Elkins")
    assert work(supabase, company(1))["pushed_to_neon_at"] is None, "a data column does"


def test_after_a_truncate_the_next_pull_brings_all(steps, supabase) -> None:
    supabase.execute("TRUNCATE company_needs_enrichment")
    assert steps.pull().new == 3


def test_what_the_guides_scripts_promoted_is_adopted(steps, neon, supabase) -> None:
    # Their push marks the row, and their promotion moves the record; neither knows the worker's columns.
    supabase.execute("SET enrichment_worker.writer = on")
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete', pushed_to_neon_at = '2025-11-08 10:00',"
        " website = 'https://a.example', neon_snapshot = NULL, last_sync_hash = 'theirs' WHERE company_unique_id = ANY(%s)",
        [[company(1), company(2)]],
    )
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = ANY(%s)", [[company(1), company(2)]])
    add_master(neon, 1, website_url="https://a.example")
    steps.pull(full=True)
    row = work(supabase, company(1))
    assert (row["enrichment_status"], str(row["promoted_at"])) == ("complete", "2025-11-08 10:00:00")
    assert "promoted" in row["sync_note"]
    # That one is nowhere: it left by another way.
    assert work(supabase, company(2))["promoted_at"] is None


def test_who_waits_for_a_company_that_the_guides_scripts_promoted_goes_on_with_its_adoption(
    steps, neon, supabase
) -> None:
    add_people(neon, 1, of=1)
    add_slot(neon, 1, of=1)
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example")
    steps.deliver("people")
    assert work(supabase, person(1))["waiting_for"] == company(1)
    supabase.execute("SET enrichment_worker.writer = on")
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete', pushed_to_neon_at = '2025-11-08 10:00'"
        " WHERE company_unique_id = %s",
        [company(1)],
    )
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    add_master(neon, 1)
    steps.pull(full=True)
    assert work(supabase, company(1))["promoted_at"] is not None
    assert work(supabase, person(1))["waiting_for"] is None
    steps.deliver("people")
    assert work(supabase, person(1))["promoted_at"] is not None


def test_promote_undo_promote_promotes(steps, neon, supabase) -> None:
    complete(supabase, company(1), website="a.example")
    steps.push()
    for _ in range(3):
        assert steps.promote(company(1)).promoted == [company(1)]
        assert master(neon, company(1)) is not None
        assert work(supabase, company(1))["promoted_at"] is not None
        assert list(steps.undo(company(1)).undone) == [company(1)]
        assert master(neon, company(1)) is None
    outcomes = [entry["outcome"] for entry in ledger(neon, company(1))]
    assert outcomes == ["waiting", *["promoted", "undone"] * 3]


def test_a_record_put_back_by_hand_as_it_was_is_promoted_again(steps, neon, supabase) -> None:
    complete(supabase, company(1), website="a.example")
    steps.push()
    before = {name: value for name, value in invalid(neon, company(1)).items() if value is not None}
    steps.promote(company(1))
    neon.execute("DELETE FROM marketing.company_master")
    before["validation_errors"] = "{}"
    insert(neon, "marketing.company_invalid", {k: v for k, v in before.items() if not k.startswith("validation_w")})
    assert steps.promote(company(1)).promoted == [company(1)]
    assert master(neon, company(1)) is not None
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["waiting", "promoted", "promoted"]


def test_a_row_whose_promotion_was_taken_back_and_whose_record_is_gone_is_not_told_promoted(
    steps, neon, supabase
) -> None:
    complete(supabase, company(1), website="a.example")
    steps.deliver()
    steps.undo(company(1))
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    complete(supabase, company(1))
    steps.deliver()
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["promoted_at"]) == ("failed", None)
    assert "taken back" in row["sync_note"]


@pytest.mark.parametrize("judged", [True, False], ids=["flagged meanwhile", "only typed into"])
@pytest.mark.parametrize("told_by", ["its delivery", "a full pull"])
def test_what_was_typed_into_a_record_that_came_back_and_left_again_stays(
    steps, neon, supabase, judged, told_by
) -> None:
    """What was promoted before it came back is no word on what was typed since."""
    complete(supabase, company(1), website="a.example", city="Ripley")
    steps.deliver()
    insert(neon, "marketing.company_invalid", {"company_unique_id": company(1), "company_name": "Alder Mills",
           "reason_code": "EMPTY_WEBSITE", "validation_errors": "{}", "updated_at": datetime.now(UTC).replace(tzinfo=None)})  # fmt: skip
    steps.pull()
    assert work(supabase, company(1))["enrichment_status"] == "pending"
    edit(supabase, company(1), company_name="Beech Works", phone="(304) 555-0101", city="Elkins")
    if judged:
        complete(supabase, company(1), website="n/a")
        steps.deliver()
        assert work(supabase, company(1))["enrichment_status"] == "failed"
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    if told_by == "its delivery":
        complete(supabase, company(1), website="b.example")
        steps.deliver()
    else:
        edit(supabase, company(1), website="b.example")
        steps.pull(full=True)
    row = work(supabase, company(1))
    typed = {"company_name": "Beech Works", "city": "Elkins", "website": "b.example"}
    assert {name: row[name] for name in typed} == typed
    assert row["phone"] in ("(304) 555-0101", "+13045550101")
    if judged:
        assert (row["enrichment_status"], row["promoted_at"]) == ("failed", None)
        assert row["sync_code"] in ("gone", "left")
        assert "somebody else" not in row["sync_note"]
    else:
        assert "not carried" in row["sync_note"]


def test_who_waits_and_was_not_told_of_it_waits_on_though_neon_holds_what_he_sent(steps, neon, supabase) -> None:
    """A worker died after its settlement, twice: what it wrote for the enricher never counts as a correction of Neon's."""
    add_people(neon, 1)
    steps.pull("people")
    complete(supabase, person(1), email="n/a", city="Elkins")
    settle_and_lose_the_claim(steps, entity=PEOPLE)
    assert invalid(neon, person(1))["city"] == "Elkins"
    complete(supabase, person(1), email="robin@alder.example")
    settle_and_lose_the_claim(steps, entity=PEOPLE)
    assert [entry["outcome"] for entry in ledger(neon, person(1))] == ["flagged", "waiting"]
    steps.deliver("people")
    row = work(supabase, person(1))
    assert row["waiting_for"]
    assert row["neon_snapshot"]["city"] == "Elkins"
    for full in (False, True):
        assert steps.pull("people", full=full).released == 0
    assert work(supabase, person(1)) == row
    assert len(ledger(neon, person(1))) == 2


@pytest.mark.parametrize("beside", ["a good record", "a refused record"])
def test_a_master_row_that_comes_in_the_moment_of_a_settlement_is_not_taken_for_its_own(
    steps, neon, supabase, databases, beside
) -> None:
    # Somebody's transaction holds the key, not committed, when the settlement looks; and commits while it inserts.
    complete(supabase, company(1), website="a.example")
    complete(supabase, company(2), website="b.example")
    complete(supabase, company(3), website="c.example", employee_count=-5 if beside == "a refused record" else 5)
    with psycopg.connect(databases.neon_url) as other, connect(databases.neon_url) as watch:
        add_master(other, 1, industry="Timber")

        async def settle_beside(opened) -> None:
            async def commit() -> None:
                while True:
                    waiting = await anyio.to_thread.run_sync(
                        lambda: watch.execute(
                            "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                            " AND datname = current_database()"
                        ).fetchone()["n"]
                    )
                    if waiting:
                        break
                await anyio.to_thread.run_sync(other.commit)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(commit)
                tasks.start_soon(deliver, opened, COMPANY)

        steps.run(settle_beside)
    promoted = [entry for entry in ledger(neon, company(1)) if entry["outcome"] == "promoted"]
    assert [entry["master_before"]["industry"] for entry in promoted] == ["Timber"]
    done = steps.undo(company(1))
    assert list(done.undone) == [company(1)]
    assert master(neon, company(1))["industry"] == "Timber"
    assert master(neon, company(2)) is not None
    assert (master(neon, company(3)) is None) is (beside == "a refused record")


def test_a_row_that_was_held_when_it_was_to_be_told_is_told_when_it_is_let_go(
    steps, databases, supabase, daemon, env, eventually
) -> None:
    """Though no pull is due for long."""
    env["WORKER_PULL_INTERVAL"] = "1h"
    for number in (1, 2):
        complete(supabase, company(number), website="good.example")

    def take_back() -> None:
        for number in (1, 2):
            edit(supabase, company(number), enrichment_status="in_progress")

    settle_and_lose_the_claim(steps, take_back)
    with connect(databases.supabase_url) as theirs, theirs.transaction():
        theirs.execute("SELECT FROM company_needs_enrichment WHERE company_unique_id = %s FOR UPDATE", [company(1)])
        daemon()
        eventually(lambda: work(supabase, company(2))["promoted_at"])
    eventually(lambda: work(supabase, company(1))["promoted_at"])


def test_telling_is_not_done_while_a_row_that_was_not_told_is_on_its_way_once_more(steps, supabase) -> None:
    complete(supabase, company(1), website="good.example")
    settle_and_lose_the_claim(steps)
    assert steps.run(lambda opened: acknowledge_missed(opened, COMPANY)) is False
    edit(supabase, company(1), enrichment_status="in_progress")
    assert steps.run(lambda opened: acknowledge_missed(opened, COMPANY)) is True
    assert work(supabase, company(1))["promoted_at"] is not None


def test_a_delivery_that_is_carried_again_as_its_record_comes_back_is_booked_each_time(steps, neon, supabase) -> None:
    """Nobody tells the row, and the record comes back, twice: no promotion goes without its ledger row."""
    complete(supabase, company(1), website="a.example")
    for times in (1, 2, 3):
        settle_and_lose_the_claim(steps)
        entries = ledger(neon, company(1))
        assert [entry["outcome"] for entry in entries] == ["promoted"] * times
        assert (invalid(neon, company(1)), bool(master(neon, company(1)))) == (None, True)
        settle_and_lose_the_claim(steps)  # a repeat: it takes no effect
        assert ledger(neon, company(1)) == entries
        if times < 3:
            add_companies(neon, 1)
    steps.deliver()
    assert work(supabase, company(1))["promoted_at"]
    assert work(supabase, company(1))["receipt_id"] == ledger(neon, company(1))[-1]["id"]


def test_who_is_carried_again_and_waits_then_is_booked_once(steps, neon, supabase) -> None:
    add_slot(neon, 1, 1)
    add_master(neon, 1)
    add_people(neon, 1)
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example")
    settle_and_lose_the_claim(steps, entity=PEOPLE)
    add_people(neon, 1)
    neon.execute("DELETE FROM marketing.company_master")
    first, again = (settle_and_lose_the_claim(steps, entity=PEOPLE) for _ in range(2))
    promoted, waits = ledger(neon, person(1))
    assert (promoted["outcome"], waits["outcome"]) == ("promoted", "waiting")
    assert first == again == [Receipt(waits["id"], waits["delivery_hash"])]
    steps.deliver("people")
    assert work(supabase, person(1))["waiting_for"]
    assert len(ledger(neon, person(1))) == 2
