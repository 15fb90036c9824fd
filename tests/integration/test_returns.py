"""How often records came back: in each row and in ``needs_attention``, and by week and reason, from the ledger."""

import json

import pytest
from conftest import connect
from declared import COMPANY, PEOPLE
from records import (
    add_companies,
    add_people,
    company,
    complete,
    edit,
    ledger,
    master,
    person,
    untell,
    work,
)

from worker.domain import messages
from worker.domain.model import Code, Receipt
from worker.operate.status import read_status
from worker.postgres.transaction import transact
from worker.supabase.acknowledgement import Reply
from worker.sync.catch_up import acknowledge_missed


def flag(steps, supabase, key: str, value: str = "n/a") -> dict:
    complete(supabase, key, website=value)
    steps.deliver()
    return work(supabase, key)


def shown(row: dict) -> tuple[int, int, bool]:
    return row["times_returned"], len(row["returned_at"] or []), messages.RETURNED_OFTEN in (row["sync_note"] or "")


def as_worker(supabase, statement: str, *values: object) -> None:
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(statement, values)


def read(steps) -> dict:
    async def status(opened) -> dict:
        async with opened.supabase.connection() as supabase:
            return await read_status(supabase, (COMPANY, PEOPLE))

    return steps.run(status)["entities"]


@pytest.mark.needs_view
def test_a_row_counts_each_flag_once_and_the_fourth_in_a_month_says_so(steps, cli, neon, supabase) -> None:
    key, *others = add_companies(neon, 1, 2, 3)
    add_people(neon, 1)
    steps.pull()
    steps.pull("people")
    assert shown(work(supabase, key)) == (0, 0, False)
    for times in (1, 2, 3):
        assert shown(flag(steps, supabase, key)) == (times, times, False)
    # A worker that dies before it has told the fourth: it is told from the ledger, and counted then.
    complete(supabase, key, website="n/a")
    before = work(supabase, key)
    steps.deliver()
    assert shown(work(supabase, key)) == (4, 4, True)
    untell(supabase, key, before)
    steps.deliver()
    assert shown(work(supabase, key)) == (4, 4, True)
    edit(supabase, key, enrichment_status="in_progress")
    steps.run(lambda opened: acknowledge_missed(opened, COMPANY, [key]))
    assert shown(work(supabase, key)) == (4, 4, True)

    async def repeat(opened) -> None:
        row = work(supabase, key)
        reply = Reply(key, row["updated_at"], "failed", "Not promoted.", pushed=True, code=Code.FLAGGED,
                      receipt=Receipt(row["receipt_id"], row["receipt_hash"]))  # fmt: skip
        async with opened.supabase.connection() as connection:
            for _ in range(2):
                await transact(connection, opened.routes["company"].workspace.acknowledge([reply]))

    steps.run(repeat)
    assert shown(work(supabase, key)) == (4, 4, True)
    # An enricher does not write it, by no import either.
    edit(supabase, key, times_returned=0, returned_at=None, city="Elkins")
    assert shown(work(supabase, key)) == (4, 4, True)
    supabase.execute(
        "INSERT INTO company_needs_enrichment (company_unique_id, times_returned) VALUES (%s, 9)", [company(9)]
    )
    assert work(supabase, company(9))["times_returned"] == 0
    supabase.execute("DELETE FROM company_needs_enrichment WHERE company_unique_id = %s", [company(9)])

    # The most worthwhile first: few problems, few returns, old; what is hopeless last.
    flag(steps, supabase, others[0], "test.com")
    complete(supabase, others[1], website="n/a", company_name="n/a")
    steps.deliver()
    rows = supabase.execute("SELECT key, times_returned, what_to_do FROM needs_attention").fetchall()
    assert [(row["key"], row["times_returned"]) for row in rows] == [
        (person(1), 0), (others[0], 1), (others[1], 1), (key, 4)
    ]  # fmt: skip
    assert messages.RETURNED_OFTEN in rows[-1]["what_to_do"]
    assert read(steps)["company"]["returned_often"] == 1
    assert "1 failed that came back four times or more within 30 days" in cli("status").stdout

    # Long ago is not often; a fifth one keeps the times of four.
    as_worker(supabase, "UPDATE company_needs_enrichment SET returned_at[1] = now() - interval '31 days',"
              " returned_at[2] = now() - interval '31 days' WHERE company_unique_id = %s", key)  # fmt: skip
    assert read(steps)["company"]["returned_often"] == 0
    assert shown(flag(steps, supabase, key)) == (5, 4, False)
    # A promotion ends the story, and so does an undo.
    complete(supabase, key, website="https://one.example")
    steps.deliver()
    assert shown(work(supabase, key)) == (0, 0, False)
    steps.undo(key)
    assert shown(work(supabase, key)) == (0, 0, False)
    assert shown(flag(steps, supabase, key)) == (1, 1, False)


@pytest.mark.needs_view
def test_a_front_end_that_was_let_in_before_still_reads_the_view(cli, prepared, databases, supabase) -> None:
    supabase.execute("DROP VIEW needs_attention; CREATE ROLE looker_of_columns")
    try:
        for table in ("company", "people"):
            supabase.execute(
                f"ALTER TABLE {table}_needs_enrichment DROP COLUMN times_returned, DROP COLUMN returned_at"
            )
            columns = supabase.execute("SELECT string_agg(quote_ident(attname), ', ') AS names FROM pg_attribute WHERE"
                                       " attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                                       [f"{table}_needs_enrichment"]).fetchone()["names"]  # fmt: skip
            supabase.execute(f"GRANT SELECT ({columns}) ON {table}_needs_enrichment TO looker_of_columns")
        assert "added column company_needs_enrichment.times_returned" in cli("setup").stdout
        supabase.execute("GRANT SELECT ON needs_attention TO looker_of_columns")
        with connect(databases.supabase_url) as connection:
            connection.execute("SET ROLE looker_of_columns")
            assert connection.execute("SELECT key FROM needs_attention").fetchall() == []
        assert cli("setup").stdout.endswith("Supabase: everything is in place\n")
    finally:
        supabase.execute("DROP OWNED BY looker_of_columns; DROP ROLE looker_of_columns")


def counted(supabase) -> dict[tuple[str, str], tuple[int, int]]:
    rows = supabase.execute("SELECT reason_code, field, sum(records)::int AS records, sum(recent)::int AS recent"
                            " FROM enrichment_failures WHERE records + recent > 0 GROUP BY 1, 2").fetchall()  # fmt: skip
    return {(row["reason_code"], row["field"]): (row["records"], row["recent"]) for row in rows}


def test_pulls_count_failures_by_week_once_and_anew_after_a_restore(steps, neon, supabase) -> None:
    keys = add_companies(neon, 1, 2, 3)
    steps.pull()
    for number, key in enumerate(keys):
        complete(supabase, key, website="n/a", employee_count=-1 if number else 3)
    steps.deliver()
    complete(supabase, keys[0], website="https://one.example", employee_count=-1)
    steps.deliver()
    assert [row["reason_code"] for row in ledger(neon, keys[0])] == ["PLACEHOLDER_WEBSITE", "REFUSED_BY_MASTER"]
    of_each = {
        ("PLACEHOLDER_WEBSITE", ""): 3, ("PLACEHOLDER_WEBSITE", "website"): 3,
        ("PLACEHOLDER_WEBSITE", "employee_count"): 2,
        ("REFUSED_BY_MASTER", ""): 1, ("REFUSED_BY_MASTER", "employee_count"): 1,
    }  # fmt: skip
    for _ in range(2):  # what may still commit is counted anew
        steps.pull()
        steps.pull("people")
        assert counted(supabase) == {reason: (0, records) for reason, records in of_each.items()}
    neon.execute("UPDATE marketing.enrichment_ledger SET recorded_at = recorded_at - interval '10 minutes'")
    for_good = {reason: (records, 0) for reason, records in of_each.items()}
    for _ in range(2):
        steps.pull()
        assert counted(supabase) == for_good
    flag(steps, supabase, keys[0])
    steps.pull()
    assert counted(supabase)["PLACEHOLDER_WEBSITE", "website"] == (3, 1)

    # Neon comes back as it was before: the ledger lacks the row, or has another one with its number.
    first = ledger(neon, keys[0])[0]["id"]
    neon.execute("DELETE FROM marketing.enrichment_ledger WHERE id <> %s", [first])
    steps.pull()
    assert counted(supabase) == {("PLACEHOLDER_WEBSITE", ""): (1, 0), ("PLACEHOLDER_WEBSITE", "website"): (1, 0)}
    neon.execute("UPDATE marketing.enrichment_ledger SET run_id = 'of another history', reason_code = NULL")
    steps.pull()
    assert counted(supabase) == {("", ""): (1, 0), ("", "website"): (1, 0)}
    [reason] = read(steps)["company"]["failures_by_week"]
    assert (reason["reason_code"], reason["fields"], len(reason["weeks"])) == ("OTHER", ["website"], 12)
    assert sum(reason["weeks"].values()) == 1

    # Retention has removed the row: the weeks that it has left in full are counted anew, the others stay.
    supabase.execute("INSERT INTO enrichment_failures (entity, week, reason_code, field, records) SELECT 'company',"
                     " date_trunc('week', now() AT TIME ZONE 'UTC')::date - 7 * w, 'EMPTY_WEBSITE', '', 10 * w FROM"
                     " unnest(ARRAY[2, 3, 60]) w")  # fmt: skip
    neon.execute("DELETE FROM marketing.enrichment_ledger; UPDATE marketing.enrichment_receipts SET pruned_id = 1")
    steps.pull()
    assert counted(supabase) == {("", ""): (1, 0), ("", "website"): (1, 0), ("EMPTY_WEBSITE", ""): (50, 0)}
    [first, _] = read(steps)["company"]["failures_by_week"]
    assert [records for records in first["weeks"].values() if records] == [30, 20]


def test_reasons_are_bounded_and_shown_as_codes_only(steps, supabase) -> None:
    supabase.execute("INSERT INTO enrichment_failures (entity, week, reason_code, field, records) SELECT e, date_trunc('week',"
                     " now() AT TIME ZONE 'UTC')::date, CASE WHEN n > 90 THEN '<b>robin@example.org ' || n ELSE 'R_' || n END,"
                     " '', n FROM generate_series(1, 100) n, unnest(ARRAY['company', 'gone']) e")  # fmt: skip
    found = read(steps)
    reasons = found["company"]["failures_by_week"]
    assert [one["reason_code"] for one in reasons] == [*(f"R_{n}" for n in range(90, 71, -1)), "OTHER"]
    assert sum(sum(one["weeks"].values()) for one in reasons) == sum(range(1, 101))
    assert found["people"]["failures_by_week"] == []
    assert "robin" not in json.dumps(found)


def test_a_stage_by_hand_counts_as_a_delivery_does(steps, neon, supabase) -> None:
    [key] = add_companies(neon, 1)
    steps.pull()
    complete(supabase, key, website="n/a")
    steps.push()
    assert work(supabase, key)["times_returned"] == 0
    steps.revalidate()
    steps.pull()
    assert (shown(work(supabase, key)), master(neon, key)) == ((1, 1, False), None)
