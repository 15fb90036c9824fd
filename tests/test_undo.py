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


def test_a_master_row_changed_since_is_refused_with_the_difference(cli, promoted_row, neon, supabase) -> None:
    _, key = promoted_row
    neon.execute("UPDATE marketing.company_master SET industry = 'Steel'")
    before = master(neon, key), ledger(neon, key), everything(supabase)
    done = cli("undo", key)
    assert done.returncode == 1
    assert "industry was None and is 'Steel'" in done.stderr
    assert (master(neon, key), ledger(neon, key), everything(supabase)) == before


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
