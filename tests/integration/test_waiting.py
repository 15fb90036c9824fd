"""Rows that wait for something in Neon: they follow Neon, however many they are. SPEC 3, 5."""

from __future__ import annotations

import pytest
from records import add_master, add_people, add_slot, company, complete, ledger, master, person, work

from worker.domain.messages import CORRECTED
from worker.postgres import transaction
from worker.supabase import pause
from worker.sync.waiting import PAGE


@pytest.fixture
def waits(steps, neon, supabase) -> str:
    """A person whose company is not in the master."""
    add_people(neon, 1, of=1)
    steps.pull("people")
    complete(supabase, person(1), email="robin@a.example")
    steps.deliver("people")
    assert work(supabase, person(1))["waiting_for"] == company(1)
    return person(1)


def correct(neon, key: str, **columns) -> None:
    edit_in_neon = ", ".join(f"{name} = %({name})s" for name in columns)
    neon.execute(f"UPDATE marketing.people_invalid SET {edit_in_neon}, updated_at = clock_timestamp() AT TIME ZONE 'UTC'"
                 " WHERE unique_id = %(key)s", {**columns, "key": key})  # fmt: skip


def test_who_waits_for_a_company_that_neon_corrects_to_one_that_is_there_is_promoted(
    steps, waits, neon, supabase
) -> None:
    add_master(neon, 2)
    add_slot(neon, 2, 2)
    correct(neon, waits, company_unique_id=company(2))
    assert steps.pull("people").released == 1
    kept = supabase.execute("SELECT last_result AS of FROM enrichment_pull_position WHERE entity = 'people'").fetchone()
    assert kept["of"]["released"] == 1
    row = work(supabase, waits)
    assert (row["waiting_for"], row["sync_note"], row["sync_code"]) == (None, CORRECTED, "released")
    (told,) = steps.deliver("people").summaries
    assert told.delay is None, "how long it waited for another is no delay of the worker's"
    assert work(supabase, waits)["promoted_at"]
    assert master(neon, waits)["company_unique_id"] == company(2)
    assert master(neon, waits)["email"] == "robin@a.example"


def test_who_waits_for_a_company_that_neon_corrects_to_one_that_is_not_there_waits_for_that(
    steps, waits, neon, supabase
) -> None:
    correct(neon, waits, company_unique_id=company(2))
    assert steps.pull("people").released == 1
    steps.deliver("people")
    assert work(supabase, waits)["waiting_for"] == company(2)
    add_master(neon, 2)
    add_slot(neon, 2, 2)
    assert steps.pull("people").released == 1
    steps.deliver("people")
    assert work(supabase, waits)["promoted_at"]


def test_a_name_that_is_corrected_while_its_person_waits_goes_with_him(steps, waits, neon, supabase) -> None:
    correct(neon, waits, title="CEO")
    assert steps.pull("people").released == 1
    steps.deliver("people")
    assert work(supabase, waits)["waiting_for"] == company(1)
    add_master(neon, 1)
    add_slot(neon, 1, 1)
    steps.pull("people")
    steps.deliver("people")
    assert (master(neon, waits)["title"], master(neon, waits)["email"]) == ("CEO", "robin@a.example")


def test_who_waits_and_is_as_he_was_is_left_alone(steps, waits, supabase) -> None:
    before = work(supabase, waits)
    for full in (False, True):
        assert steps.pull("people", full=full).released == 0
    assert work(supabase, waits) == before


def test_a_waiting_row_that_a_trigger_does_not_let_go_holds_up_no_other(steps, cli, neon, supabase) -> None:
    add_people(neon, 1, 2, 3, of=1)
    steps.pull("people")
    for number in (1, 2, 3):
        complete(supabase, person(number), email=f"robin{number}@a.example")
    steps.deliver("people")
    supabase.execute(
        "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.unique_id LIKE '%.00002.%' AND"
        " NEW.waiting_for IS NULL THEN PERFORM nobody_made_this(1); END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER stay BEFORE UPDATE ON people_needs_enrichment FOR EACH ROW EXECUTE FUNCTION stay()"
    )
    add_master(neon, 1)
    add_slot(neon, 1, 1)
    done = cli("pull", "--entity", "people")
    assert done.returncode == 0, done.stderr
    assert "pull.refused" in done.stderr
    assert person(2) in done.stderr
    assert [work(supabase, person(number))["waiting_for"] for number in (1, 2, 3)] == [None, company(1), None]


MANY = 4 * PAGE


def test_twenty_thousand_that_wait_are_looked_at_page_by_page(steps, neon, supabase, monkeypatch) -> None:
    """No statement brings or is given more than one page; each row is looked at once."""
    key = "format('04.04.02.01.%s.001', lpad(i::text, 5, '0'))"
    neon.execute(f"INSERT INTO marketing.people_invalid (unique_id, full_name, company_unique_id, reason_code, validation_errors)"
                 f" SELECT {key}, 'Robin Alder', '{company(1)}', 'EMPTY_EMAIL', '{{}}' FROM generate_series(1, {MANY}) i")  # fmt: skip
    steps.pull("people")
    supabase.execute("ALTER TABLE people_needs_enrichment DISABLE TRIGGER USER")
    supabase.execute("UPDATE people_needs_enrichment SET enrichment_status = 'complete', waiting_for = %s,"
                     " sync_code = 'waiting'", [company(1)])  # fmt: skip
    supabase.execute("ALTER TABLE people_needs_enrichment ENABLE TRIGGER USER")
    correct(neon, person(MANY), company_unique_id=company(2))
    read: list[int] = []
    given: list[int] = []
    order: list[str] = []
    honest = transaction.send

    async def send(connection, *some, **options):
        order.extend("guard" for statement, _ in some if statement is pause._READ)
        results = await honest(connection, *some, **options)
        for (_, params), result in zip(some, results, strict=True):
            read.append(len(result.rows) if hasattr(result, "rows") else result.rowcount)
            order.extend(["page"] * (read[-1] == PAGE))
            values = [value.obj if hasattr(value, "obj") else value for value in (params or {}).values()]
            given.extend(len(value) for value in values if isinstance(value, list))
        return results

    monkeypatch.setattr(transaction, "send", send)
    assert steps.pull("people").released == 1
    assert max(read) <= PAGE
    assert max(given) <= PAGE
    assert sum(1 for number in read if number == PAGE) >= MANY // PAGE
    # Else the transaction that makes it the puller would be taken for one of a dead host.
    assert order.count("page") >= MANY // PAGE
    assert "page page" not in " ".join(order)
    assert [ledger(neon, person(1)), work(supabase, person(MANY))["waiting_for"]] == [[], None]
