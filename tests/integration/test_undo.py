"""``undo``: promotions taken back from the ledger's before-images. SPEC 7."""

from __future__ import annotations

import pytest
from records import (
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    everything,
    invalid,
    ledger,
    master,
    person,
    work,
)


@pytest.fixture
def promoted_row(cli, prepared, neon, supabase, daemon, eventually):
    add_companies(neon, 1, employee_count=7)
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT FROM company_needs_enrichment").fetchone() is not None)
    before = invalid(neon, company(1))
    complete(supabase, company(1), website="c1.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    assert worker.terminate() == 0
    return before, company(1)


def test_a_new_master_row_is_removed_and_everything_is_as_it_was(cli, promoted_row, neon, supabase) -> None:
    before, key = promoted_row
    done = cli("undo", key)
    assert done.returncode == 0, done.stderr
    assert master(neon, key) is None
    assert invalid(neon, key) == before
    row = work(supabase, key)
    assert (row["enrichment_status"], row["promoted_at"], row["pushed_to_neon_at"]) == ("pending", None, None)
    assert row["website"] == "https://c1.example", "the enricher's work stays in the cells"
    assert row["neon_snapshot"]["website"] is None
    digest = supabase.execute("SELECT md5(neon_snapshot::text) AS h FROM company_needs_enrichment").fetchone()
    assert row["last_sync_hash"] == digest["h"]
    assert ledger(neon, key)[-1]["outcome"] == "undone"


def test_promoted_undone_repaired_and_promoted_again_reads_as_that_story(
    cli, promoted_row, daemon, neon, supabase, eventually
) -> None:
    _, key = promoted_row
    assert cli("undo", key).returncode == 0
    assert "taken back before" in cli("undo", key).stderr
    daemon()
    complete(supabase, key, website="https://other.example")
    eventually(lambda: master(neon, key))
    assert master(neon, key)["website_url"] == "https://other.example"
    assert [entry["outcome"] for entry in ledger(neon, key)] == ["promoted", "undone", "promoted"]
    story = cli("history", key).stdout
    assert story.index("promoted") < story.index("taken back") < story.rindex("promoted to the master table")


def test_a_master_row_that_stood_before_is_as_it_was(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 2)
    add_master(neon, 2, industry="Timber", keywords=["a", "b c"], data_quality_score="0.75")
    cli("pull")
    before = master(neon, company(2))
    complete(supabase, company(2), website="c2.example")
    assert cli("pipeline", "--yes").returncode == 0
    assert master(neon, company(2)) != before
    done = cli("undo", company(2))
    assert "as it was" in done.stdout
    assert master(neon, company(2)) == before
    # What the stages had pushed is not promoted again by the next pull.
    cli("pull", "--full")
    assert master(neon, company(2)) == before
    assert invalid(neon, company(2)) is not None


def test_a_record_that_had_been_flagged_before_its_promotion_is_as_flagged(steps, neon, supabase) -> None:
    add_companies(neon, 1)
    steps.pull()
    complete(supabase, company(1), website="n/a")
    steps.deliver()
    flagged = invalid(neon, company(1))
    assert (flagged["enrichment_status"], flagged["still_invalid"]) == ("complete", True)
    complete(supabase, company(1), website="c1.example")
    steps.deliver()
    assert list(steps.undo(company(1)).undone) == [company(1)]
    assert invalid(neon, company(1)) == flagged


def test_a_master_row_changed_since_is_refused_with_the_difference(cli, promoted_row, neon, supabase) -> None:
    _, key = promoted_row
    neon.execute("UPDATE marketing.company_master SET industry = 'Steel'")
    before = master(neon, key), ledger(neon, key), everything(supabase)
    done = cli("undo", key)
    assert done.returncode == 1
    assert "industry was None and is 'Steel'" in done.stderr
    assert (master(neon, key), ledger(neon, key), everything(supabase)) == before


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_record_that_is_invalid_again_is_refused_as_that(cli, promoted_row, neon, supabase, options) -> None:
    _, key = promoted_row
    add_companies(neon, 1)
    before = master(neon, key), invalid(neon, key), work(supabase, key)
    done = cli("undo", key, *options)
    assert done.returncode == 1
    assert f"refused {key}: it is in the invalid table again" in done.stderr
    assert (master(neon, key), invalid(neon, key), work(supabase, key)) == before


SCORE = """
CREATE FUNCTION score() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  {before}UPDATE marketing.company_master SET data_quality_score = coalesce(employee_count, 0) / 10.0
    WHERE company_unique_id = {key} AND data_quality_score IS DISTINCT FROM coalesce(employee_count, 0) / 10.0;{after}
  RETURN NULL;
END $$;
CREATE {kind} score AFTER INSERT OR UPDATE ON {table} {more} FOR EACH ROW {when} EXECUTE FUNCTION score()
"""
OWN = {"kind": "TRIGGER", "table": "marketing.company_master", "key": "NEW.company_unique_id", "more": ""}
OWN |= {"before": "", "after": "", "when": ""}


def promote(cli, supabase, *numbers: int, **columns) -> None:
    assert cli("pull", "--full").returncode == 0
    for number in numbers:
        complete(supabase, company(number), website=f"c{number}.example", **columns)
    assert cli("pipeline", "--yes").returncode in {0, 1}


@pytest.mark.parametrize(
    "trigger",
    [
        OWN,
        {**OWN, "kind": "CONSTRAINT TRIGGER", "more": "DEFERRABLE INITIALLY DEFERRED"},
        {**OWN, "table": "marketing.enrichment_ledger", "key": "NEW.key", "when": "WHEN (NEW.outcome <> 'waiting')"},
    ],
    ids=["the master's", "deferred", "another table's"],
)
def test_what_the_masters_own_triggers_made_of_the_row_is_no_change_of_somebody_elses(
    cli, prepared, neon, supabase, trigger
) -> None:
    add_companies(neon, 1, 2, employee_count=7)
    add_master(neon, 2, data_quality_score="0.35", employee_count=4)
    neon.execute(SCORE.format(**trigger))
    stood = master(neon, company(2))
    promote(cli, supabase, 1, 2)
    scores = [str(master(neon, company(number))["data_quality_score"])[:3] for number in (1, 2)]
    assert scores == ["0.7", "0.7"]
    neon.execute("VACUUM FREEZE marketing.company_master, marketing.enrichment_ledger")
    neon.execute("ANALYZE")
    done = cli("undo", company(1), company(2))
    assert done.returncode == 0, done.stderr
    assert master(neon, company(1)) is None
    now = master(neon, company(2))
    assert {**now, "data_quality_score": None} == {**stood, "data_quality_score": None}
    # Put back, the row has what the trigger makes of it again, and that is said.
    assert "as it was, but for its own triggers: data_quality_score was 0.35 and is 0.4" in done.stdout


def test_somebody_elses_change_is_refused_beside_a_trigger_of_the_masters(cli, prepared, neon, supabase) -> None:
    neon.execute(SCORE.format(**OWN))
    add_companies(neon, 1, 2, employee_count=7)
    add_master(neon, 2)
    promote(cli, supabase, 1, 2)
    neon.execute("UPDATE marketing.company_master SET industry = 'Steel'")
    done = cli("undo", company(1), company(2))
    assert done.returncode == 1
    assert done.stderr.count("industry was None and is 'Steel'") == 2
    assert [ledger(neon, company(number))[-1]["outcome"] for number in (1, 2)] == ["promoted"] * 2


def test_a_batch_that_was_taken_apart_is_taken_back_where_a_trigger_changed_its_rows(
    cli, prepared, neon, supabase
) -> None:
    neon.execute(SCORE.format(**OWN))
    add_companies(neon, 1, 2, 3, employee_count=7)
    assert cli("pull").returncode == 0
    complete(supabase, company(2), employee_count=-1)
    promote(cli, supabase, 1, 2, 3)
    assert work(supabase, company(2))["enrichment_status"] == "failed"
    done = cli("undo", company(1), company(3))
    assert done.returncode == 0, done.stderr
    assert master(neon, company(1)) is master(neon, company(3)) is None


def test_the_last_of_several_promotions_is_taken_back_though_a_trigger_changed_each(
    cli, prepared, neon, supabase
) -> None:
    neon.execute(SCORE.format(**OWN))
    add_companies(neon, 1, employee_count=7)
    promote(cli, supabase, 1)
    add_companies(neon, 1, employee_count=9)
    promote(cli, supabase, 1, city="Elkins")
    assert str(master(neon, company(1))["data_quality_score"])[:3] == "0.9"
    runs = [entry["run_id"] for entry in ledger(neon, company(1)) if entry["outcome"] == "promoted"]
    done = cli("undo", "--run", runs[0])
    assert done.returncode == 1
    assert "its master row has changed since" in done.stderr, "the later run's promotion is not taken back for it"
    assert "employee_count was 7 and is 9" in done.stderr
    done = cli("undo", company(1))
    assert done.returncode == 0, done.stderr
    now = master(neon, company(1))
    assert (now["employee_count"], now["address_city"], str(now["data_quality_score"])[:3]) == (7, None, "0.7")


def test_a_trigger_that_catches_errors_leaves_no_proof_and_is_refused_with_the_difference(
    cli, prepared, neon, supabase
) -> None:
    caught = {"before": "BEGIN ", "after": " EXCEPTION WHEN division_by_zero THEN NULL; END;"}
    neon.execute(SCORE.format(**{**OWN, **caught}))
    add_companies(neon, 1, employee_count=7)
    promote(cli, supabase, 1)
    done = cli("undo", company(1))
    assert done.returncode == 1
    assert "data_quality_score was None and is 0.7" in done.stderr


@pytest.mark.parametrize(
    "rewrite",
    [
        # As a restore in one transaction leaves it: whatever stood in the dump is of one transaction.
        (
            "UPDATE marketing.enrichment_ledger SET note = note; UPDATE marketing.company_master SET keywords = keywords;"
            "UPDATE shq_validation_log SET notes = notes"
        ),
        (
            "UPDATE marketing.company_master SET keywords = keywords; ALTER TABLE marketing.enrichment_ledger"
            " ALTER COLUMN rules_version TYPE varchar(200)"
        ),
        (
            "ALTER TABLE marketing.company_master ADD tag text DEFAULT clock_timestamp()::text;"
            "UPDATE marketing.enrichment_ledger SET note = note"
        ),
    ],
)
def test_rows_that_one_transaction_rewrote_prove_nothing(cli, promoted_row, neon, rewrite) -> None:
    _, key = promoted_row
    neon.execute("UPDATE marketing.company_master SET industry = 'Steel'")
    with neon.transaction():
        neon.execute(rewrite)
    done = cli("undo", key)
    assert done.returncode == 1
    assert "industry was None and is 'Steel'" in done.stderr
    assert master(neon, key) is not None


def test_a_ledger_that_was_restored_in_one_transaction_proves_nothing_by_itself(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    promote(cli, supabase, 1)
    promote(cli, supabase, 2)
    neon.execute("UPDATE marketing.company_master SET industry = 'Steel'")
    with neon.transaction():
        neon.execute("UPDATE marketing.enrichment_ledger SET note = note")
        neon.execute("UPDATE marketing.company_master SET keywords = keywords")
    done = cli("undo", company(1), company(2))
    assert (done.returncode, done.stderr.count("industry was None and is 'Steel'")) == (1, 2)


def test_a_column_that_was_added_since_is_no_change_and_keeps_its_value(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    add_master(neon, 2)
    stood = master(neon, company(2))
    promote(cli, supabase, 1, 2)
    neon.execute("ALTER TABLE marketing.company_master ADD tier text NOT NULL DEFAULT 'new'")
    done = cli("undo", company(1), company(2))
    assert done.returncode == 0, done.stderr
    assert master(neon, company(1)) is None
    assert master(neon, company(2)) == {**stood, "tier": "new"}


def test_a_run_is_undone_as_a_whole(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    add_people(neon, 1, of=1)
    add_slot(neon, 1, of=1)
    cli("pull")
    for number in (1, 2):
        complete(supabase, company(number), website=f"c{number}.example")
    complete(supabase, person(1), email="robin@alder.example")
    assert cli("pipeline", "--yes").returncode == 0
    run = ledger(neon, company(1))[-1]["run_id"]
    before = everything(neon), everything(supabase)
    done = cli("undo", "--run", run, "--dry-run")
    assert f"would undo {company(2)}" in done.stdout
    assert (everything(neon), everything(supabase)) == before
    done = cli("undo", "--run", run)
    assert done.returncode == 0, done.stderr
    assert master(neon, company(1)) is master(neon, company(2)) is None
    assert master(neon, person(1)) is not None


def test_what_a_foreign_key_holds_is_refused_in_words(cli, promoted_row, neon) -> None:
    _, key = promoted_row
    neon.execute("CREATE TABLE marketing.deals (company_unique_id TEXT REFERENCES marketing.company_master)")
    neon.execute("INSERT INTO marketing.deals VALUES (%s)", [key])
    done = cli("undo", key)
    assert done.returncode == 1
    assert "refuses" in done.stderr
    assert master(neon, key) is not None


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "--run"),
        (["--run", "PROMOTE-20200101-000000-00000000"], 1, "promoted anything"),
        (["04.04.01.01.99999.999"], 1, "no promotion is on record"),
    ],
)
def test_nonsense_is_refused_in_one_line(cli, prepared, arguments, status, said) -> None:
    done = cli("undo", *arguments)
    assert done.returncode == status
    assert said in done.stderr


@pytest.mark.parametrize("full", [(), ("--full",)], ids=["pull", "pull --full"])
def test_a_row_that_retention_had_removed_comes_back_with_what_was_typed(cli, prepared, neon, supabase, full) -> None:
    add_companies(neon, 1, 2, updated_at="2020-01-01")
    cli("pull")
    complete(supabase, company(1), website="c1.example", phone="(304) 555-0101")
    cli("push")
    cli("promote", input=company(1))
    supabase.execute("DELETE FROM company_needs_enrichment WHERE company_unique_id = %s", [company(1)])
    cli("pull")
    neon.execute("VACUUM FREEZE marketing.company_invalid")  # whatever looks for what changed finds nothing of it
    assert "the next pull brings it back" in cli("undo", company(1)).stdout
    neon.execute("VACUUM FREEZE marketing.company_invalid")
    assert cli("pull", *full).returncode == 0
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["website"], row["phone"]) == ("pending", "https://c1.example", "+13045550101")
    assert "taken back" in row["sync_note"]
    complete(supabase, company(1))
    cli("pipeline", "--yes")
    assert master(neon, company(1))["company_phone"] == "+13045550101"
    assert cli("reconcile").returncode == 0
