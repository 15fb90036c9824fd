"""``pull``: SPEC 5."""

import json
from datetime import datetime, timedelta

import psycopg
import pytest
from declared import ENTITIES
from records import (
    Connection,
    add_companies,
    add_people,
    company,
    complete,
    edit,
    everything,
    invalid,
    ledger,
    master,
    person,
    work,
)


def pull(cli, *options: str) -> dict[str, dict]:
    done = cli("pull", "--json", *options)
    assert done.returncode == 0, done.stderr
    return {result["entity"]: result for result in json.loads(done.stdout)}


@pytest.fixture
def pulled(cli, prepared, neon):
    add_companies(neon, 1, 2, 3)
    pull(cli)


def test_all_records_arrive_pending_with_every_column(cli, prepared, neon: Connection, supabase) -> None:
    neon.execute(
        "INSERT INTO marketing.company_invalid (company_unique_id, company_name, domain, industry,"
        " employee_count, phone, address, city, state, zip, reason_code, validation_errors,"
        " validation_warnings, batch_id, created_at) SELECT format('04.04.01.01.%s.001', lpad(i::text, 5, '0')),"
        " 'Alder ' || i, 'alder.example', 'Wood', i, '304', E'1 Main\\tSt\\\\', 'Ünterstadt', 'WV', '26501',"
        " 'EMPTY_WEBSITE', '{\"website\": \"empty or blank\"}', '{\"phone\": \"missing\"}', 'B-1',"
        " '2025-11-07 16:32:09' FROM generate_series(1, 119) i"
    )
    add_people(neon, 1, 2, 3, 4, 5)
    assert {name: result["new"] for name, result in pull(cli).items()} == {"company": 119, "people": 5}
    row, source = work(supabase, company(7)), invalid(neon, company(7))
    assert row["enrichment_status"] == "pending"
    assert {c: row[c] for c in ENTITIES["company"].columns} == {c: source[c] for c in ENTITIES["company"].columns}
    assert row["neon_id"] == source["id"]
    assert row["original_validation_errors"] == {"website": "empty or blank"}
    assert row["original_validation_warnings"] == {"phone": "missing"}
    assert (row["reason_code"], row["source_batch_id"]) == ("EMPTY_WEBSITE", "B-1")
    assert row["created_at"] == datetime(2025, 11, 7, 16, 32, 9)
    assert row["neon_snapshot"] == {c: source[c] for c in ENTITIES["company"].columns}
    digest = supabase.execute("SELECT md5(%s::jsonb::text) AS h", [json.dumps(row["neon_snapshot"])]).fetchone()
    assert row["last_sync_hash"] == digest["h"]
    # A list of sentences is kept as it is.
    assert work(supabase, person(5))["original_validation_errors"] == ["Email is missing"]


def test_a_second_pull_changes_nothing(cli, pulled, supabase) -> None:
    before = everything(supabase)
    again = pull(cli)
    full = pull(cli, "--full")
    for result in (*again.values(), *full.values()):
        assert (result["new"], result["changed"], result["withdrawn"]) == (0, 0, 0)
    after = everything(supabase)
    for table in ("public.company_needs_enrichment", "public.company_needs_enrichment_id_seq"):
        assert after[table] == before[table]


def test_new_and_changed_records_arrive(cli, pulled, neon, supabase) -> None:
    add_companies(neon, 4)
    neon.execute(
        "UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now() AT TIME ZONE 'UTC'"
        " WHERE company_unique_id = %s", [company(1)]
    )  # fmt: skip
    result = pull(cli)["company"]
    assert (result["new"], result["changed"], result["full"]) == (1, 1, False)
    assert work(supabase, company(1))["city"] == "Elkins"
    assert work(supabase, company(4))["enrichment_status"] == "pending"


def test_a_pull_costs_what_changed_not_what_is_there(cli, prepared, neon: Connection) -> None:
    add_companies(neon, *range(1, 50), updated_at=datetime(2025, 1, 1))
    pull(cli)
    add_companies(neon, 100)
    assert pull(cli)["company"]["seen"] == 1


def test_a_commit_behind_the_position_is_not_lost(cli, pulled, databases, neon, supabase) -> None:
    with psycopg.connect(databases.neon_url) as late:
        # Further behind than any margin that a pull leaves.
        late.execute("UPDATE marketing.company_invalid SET city = 'Late', updated_at = '2025-01-01'"
                     " WHERE company_unique_id = %s", [company(2)])  # fmt: skip
        pull(cli)
        assert pull(cli)["company"]["full"] is False, "it does not compare all again"
        late.commit()
    result = pull(cli)["company"]
    assert (result["full"], result["changed"]) == (False, 1)
    assert work(supabase, company(2))["city"] == "Late"


def test_full_finds_an_edit_that_did_not_touch_updated_at(cli, pulled, neon, supabase) -> None:
    neon.execute("UPDATE marketing.company_invalid SET updated_at = '2025-01-01'")
    pull(cli, "--full")
    neon.execute("UPDATE marketing.company_invalid SET city = 'Quiet' WHERE company_unique_id = %s", [company(2)])
    assert pull(cli)["company"]["changed"] == 0
    assert pull(cli, "--full")["company"]["changed"] == 1
    assert work(supabase, company(2))["city"] == "Quiet"


def test_a_record_that_was_put_into_neon_anew_has_its_new_number_in_its_row(cli, pulled, neon, supabase) -> None:
    """It is as it was before; what the number is of, such as the master's source_record_id, is another row now."""
    before = work(supabase, company(2))["neon_id"]
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(2)])
    add_companies(neon, 2)
    assert pull(cli)["company"]["changed"] == 1
    row = work(supabase, company(2))
    assert row["neon_id"] == invalid(neon, company(2))["id"] != before
    assert row["enrichment_status"] == "pending"


@pytest.mark.parametrize("stage", ["deliver", "push"])
@pytest.mark.parametrize("same", [True, False])
def test_a_record_that_left_and_came_again_between_two_pulls_is_to_be_repaired_anew(
    cli, steps, pulled, neon, supabase, stage, same
) -> None:
    """What the row says of the one that left, Neon no longer says; and what was carried of that, nobody would judge."""
    complete(supabase, company(1), city="Elkins")
    assert steps.deliver() if stage == "deliver" else cli("push").returncode == 0
    assert work(supabase, company(1))["enrichment_status"] == ("failed" if stage == "deliver" else "complete")
    carried = invalid(neon, company(1))
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    add_companies(neon, 1, reason_code="PLACEHOLDER_WEBSITE", validation_errors='{"website": "is made up"}')
    if same:
        neon.execute(
            "UPDATE marketing.company_invalid SET (city, state, phone, address, website, company_name) = ROW"
            " (%(city)s::text, %(state)s, %(phone)s, %(address)s, %(website)s, %(company_name)s)"
            " WHERE company_unique_id = %(company_unique_id)s", carried,
        )  # fmt: skip
    pull(cli)
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["pushed_to_neon_at"], row["validation_errors"]) == ("pending", None, {})
    assert (row["original_validation_errors"], row["reason_code"]) == ({"website": "is made up"}, "PLACEHOLDER_WEBSITE")
    complete(supabase, company(1), website="https://one.example")
    steps.deliver()
    assert work(supabase, company(1))["promoted_at"]


def test_an_untouched_row_whose_record_left_is_withdrawn_with_a_ledger_row(cli, pulled, neon, supabase) -> None:
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(2)])
    assert pull(cli, "--full")["company"]["withdrawn"] == 1
    assert [row["company_unique_id"] for row in supabase.execute(
        "SELECT company_unique_id FROM company_needs_enrichment ORDER BY 1").fetchall()
    ] == [company(1), company(3)]  # fmt: skip
    assert [entry["outcome"] for entry in ledger(neon, company(2))] == ["withdrawn"]


def test_rows_whose_records_left_are_withdrawn_whatever_page_they_are_on(steps, neon, supabase, monkeypatch) -> None:
    """Rows came in another order than that of their keys."""
    for number in (3, 1, 4, 2):
        add_companies(neon, number)
        steps.pull()
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id <> %s", [company(3)])
    monkeypatch.setattr("worker.sync.pull_run.STAGE_ROWS", 1)
    assert steps.pull(full=True).withdrawn == 3
    rows = supabase.execute("SELECT company_unique_id AS key FROM company_needs_enrichment").fetchall()
    assert [row["key"] for row in rows] == [company(3)]


def test_an_edited_row_whose_record_left_stays_with_a_note(cli, pulled, neon, supabase) -> None:
    edit(supabase, company(2), website="https://mine.example")
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(2)])
    assert pull(cli, "--full")["company"]["withdrawn"] == 0
    row = work(supabase, company(2))
    assert row["website"] == "https://mine.example"
    assert "left" in row["sync_note"]


def test_a_pull_merges_by_field_and_never_over_an_enrichers_work(cli, pulled, neon, supabase) -> None:
    edit(supabase, company(1), website="https://mine.example", enrichment_status="in_progress")
    neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now() AT TIME ZONE 'UTC'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    pull(cli)
    row = work(supabase, company(1))
    assert (row["website"], row["city"], row["enrichment_status"]) == (
        "https://mine.example", "Elkins", "in_progress",
    )  # fmt: skip
    assert row["neon_snapshot"]["website"] is None
    assert row["neon_snapshot"]["city"] == "Elkins"
    sealed = "SELECT FROM company_needs_enrichment WHERE last_sync_hash = md5(neon_snapshot::text)"
    assert supabase.execute(sealed).rowcount == supabase.execute("SELECT FROM company_needs_enrichment").rowcount


@pytest.mark.parametrize(("minutes", "kept"), [(5, "theirs"), (-5, "mine")])
def test_the_same_field_changed_on_both_sides_goes_to_the_newer(
    cli, pulled, neon, supabase, minutes: int, kept: str
) -> None:
    edit(supabase, company(1), city="mine")
    at = work(supabase, company(1))["updated_at"] + timedelta(minutes=minutes)
    neon.execute("UPDATE marketing.company_invalid SET city = 'theirs', updated_at = %s"
                 " WHERE company_unique_id = %s", [at, company(1)])  # fmt: skip
    pull(cli, "--full")
    row = work(supabase, company(1))
    assert row["city"] == kept
    (entry,) = ledger(neon, company(1))
    assert entry["conflicts"] == [
        {"field": "city", "enricher": "mine", "neon": "theirs", "winner": "neon" if minutes > 0 else "enricher"}
    ]
    if minutes > 0:
        assert "city" in row["sync_note"]


def test_a_queued_row_is_left_alone(cli, pulled, neon, supabase) -> None:
    complete(supabase, company(1), website="https://mine.example")
    before = work(supabase, company(1))
    neon.execute("UPDATE marketing.company_invalid SET website = 'https://other.example', updated_at = now()"
                 " AT TIME ZONE 'UTC' WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    pull(cli, "--full")
    assert work(supabase, company(1)) == before


def test_a_promoted_record_that_turned_invalid_again_is_pending_with_the_new_errors(
    cli, pulled, neon: Connection, supabase
) -> None:
    complete(supabase, company(1), website="https://mine.example")
    assert cli("pipeline", "--yes").returncode == 0
    assert work(supabase, company(1))["promoted_at"] is not None
    add_companies(neon, 1, website="https://mine.example", validation_errors='{"company_name": "looks odd"}',
                  reason_code="ODD")  # fmt: skip
    pull(cli)
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["promoted_at"], row["pushed_to_neon_at"]) == ("pending", None, None)
    assert row["original_validation_errors"] == {"company_name": "looks odd"}
    assert row["reason_code"] == "ODD"


def test_new_reasons_reach_a_row_nobody_has_touched(cli, pulled, neon, supabase) -> None:
    neon.execute("UPDATE marketing.company_invalid SET validation_errors = '{\"phone\": \"odd\"}',"
                 " updated_at = now() AT TIME ZONE 'UTC' WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    pull(cli)
    assert work(supabase, company(1))["original_validation_errors"] == {"phone": "odd"}


def test_a_warning_that_neon_took_back_goes_from_a_row_nobody_has_touched(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, validation_warnings='{"phone": "missing"}')
    pull(cli)
    assert work(supabase, company(1))["original_validation_warnings"] == {"phone": "missing"}
    neon.execute(
        "UPDATE marketing.company_invalid SET validation_warnings = NULL, updated_at = now() AT TIME ZONE 'UTC'"
    )
    assert pull(cli)["company"]["changed"] == 1
    row = work(supabase, company(1))
    assert (row["original_validation_warnings"], row["original_validation_errors"]) == (
        None, {"website": "empty or blank"},
    )  # fmt: skip


def test_what_somebody_pushed_by_hand_is_judged_with_the_next_pull(cli, pulled, neon, supabase) -> None:
    neon.execute("UPDATE marketing.company_invalid SET enrichment_status = 'complete',"
                 " website = CASE company_unique_id WHEN %s THEN 'https://hand.example' END"
                 " WHERE company_unique_id = ANY(%s)", [company(1), [company(1), company(2)]])  # fmt: skip
    assert pull(cli)["company"]["judged"] == 2
    assert master(neon, company(1))["website_url"] == "https://hand.example"
    assert work(supabase, company(1))["promoted_at"] is not None
    assert invalid(neon, company(2))["still_invalid"] is True
    assert work(supabase, company(2))["enrichment_status"] == "failed"
    assert pull(cli)["company"]["judged"] == 0


def test_dry_run_names_each_record_and_writes_nothing(cli, pulled, neon, supabase) -> None:
    add_companies(neon, 4)
    before = everything(neon), everything(supabase)
    done = cli("pull", "--dry-run")
    assert f"{company(4)} new" in done.stdout
    assert (everything(neon), everything(supabase)) == before


def test_every_pull_leaves_its_row_in_the_log(cli, pulled, neon) -> None:
    rows = neon.execute("SELECT * FROM public.shq_validation_log WHERE source_table = 'marketing.company_invalid'")
    (row,) = rows.fetchall()
    assert row["validation_run_id"].startswith("PULL-")
    assert (row["total_records"], row["target_table"]) == (3, "public.company_needs_enrichment")


def test_what_a_pull_changed_and_withdrew_counts_in_the_log(cli, pulled, neon) -> None:
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    neon.execute(
        "UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now() AT TIME ZONE 'UTC'"
        " WHERE company_unique_id = %s", [company(2)]
    )  # fmt: skip
    run_id = pull(cli, "--full")["company"]["run_id"]
    rows = neon.execute("SELECT * FROM public.shq_validation_log WHERE validation_run_id = %s", [run_id])
    (row,) = rows.fetchall()
    assert (row["total_records"], row["passed_records"], row["failed_records"]) == (2, 2, 0)


def test_of_two_pulls_at_once_one_pulls(cli, pulled, databases) -> None:
    with psycopg.connect(databases.supabase_url) as other:
        other.execute("SELECT FROM enrichment_pull_position WHERE entity = 'company' FOR UPDATE")
        done = cli("pull", "--entity", "company")
    assert done.returncode == 0
    assert "another worker is pulling" in done.stdout


def test_batches_of_one_bring_the_same(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, 2, 3)
    assert pull(cli, "--batch-size", "1")["company"]["new"] == 3
    assert work(supabase, company(3))["neon_snapshot"]["company_name"] == "Alder Works 3"


def test_position_survives_a_session_in_another_time_zone(cli, prepared, neon: Connection, supabase) -> None:
    # Neon's default for every new session; the tables' timestamps are UTC all the same.
    name = neon.execute("SELECT quote_ident(current_database()) AS n").fetchone()["n"]
    neon.execute(f"ALTER DATABASE {name} SET TimeZone = 'Pacific/Auckland'")
    add_companies(neon, 1)
    pull(cli)
    add_companies(neon, 2)
    assert pull(cli)["company"]["new"] == 1
    assert work(supabase, company(1))["neon_snapshot"]["company_name"] == "Alder Works 1"


def test_a_first_pull_goes_on_where_a_row_came_in_meanwhile(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, 2, 3)
    # Somebody imports company 2 in the moment in which company 1 arrives in the empty workspace.
    supabase.execute(
        "CREATE FUNCTION import_2() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.company_unique_id = '" + company(1) + "' THEN"
        " INSERT INTO public.company_needs_enrichment (company_unique_id, company_name, city, enrichment_status)"
        " VALUES ('" + company(2) + "', 'Typed by hand', 'Elkins', 'in_progress'); END IF; RETURN NULL; END $$;"
        " CREATE TRIGGER import_2 AFTER INSERT ON public.company_needs_enrichment"
        " FOR EACH ROW EXECUTE FUNCTION import_2()"
    )
    result = pull(cli, "--batch-size", "1")["company"]
    assert (result["seen"], result["new"], result["changed"], result["refused"]) == (3, 2, 1, 0)
    row = work(supabase, company(2))
    assert (row["company_name"], row["city"], row["enrichment_status"]) == ("Typed by hand", "Elkins", "in_progress")
    assert row["neon_snapshot"]["company_name"] == invalid(neon, company(2))["company_name"]
    assert [work(supabase, company(n))["neon_id"] for n in (1, 3)] == [invalid(neon, company(n))["id"] for n in (1, 3)]


def test_updated_at_is_the_enrichers_and_the_pull_keeps_it(cli, pulled, neon, supabase) -> None:
    edit(supabase, company(1), website="https://mine.example")
    at = work(supabase, company(1))["updated_at"]
    neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins' WHERE company_unique_id = %s", [company(1)])
    pull(cli, "--full")
    assert work(supabase, company(1))["updated_at"] == at


def test_a_workspace_that_refuses_a_pull_is_told_at_once_and_the_next_pull_brings_all(
    cli, prepared, neon, supabase
) -> None:
    """The rows still come from Neon when the workspace refuses the first batch."""
    records = 600
    add_companies(neon, *range(1, records + 1), address="x" * 20_000)
    supabase.execute("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
                     "CREATE TRIGGER no BEFORE INSERT ON company_needs_enrichment FOR EACH ROW EXECUTE FUNCTION no()")  # fmt: skip
    done = cli("pull", "--entity", "company", "--batch-size", "10")
    assert done.returncode == 1
    assert "not now" in done.stderr
    supabase.execute("DROP TRIGGER no ON company_needs_enrichment")
    assert f"pulled {records} compan" in cli("pull", "--entity", "company").stdout
