"""``revalidate`` and every dry run say what the master table itself will say. SPEC 7."""

from __future__ import annotations

import json
import re

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


def both(neon, supabase) -> list[dict[str, object]]:
    """A rehearsal locks rows, and rolls back."""
    return [everything(neon, locks=False), everything(supabase, locks=False)]


@pytest.fixture
def carried(steps, neon, supabase) -> None:
    """Companies that pass the rules; the master refuses the second by its CHECK, the third by a trigger."""
    neon.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.company_name = 'Alder Works 3' THEN RAISE EXCEPTION 'no mills, please'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    add_companies(neon, 1, 2, 3)
    steps.pull()
    for number, count in ((1, 5), (2, -1), (3, 5)):
        complete(supabase, company(number), website=f"https://a{number}.example", employee_count=count)
    neon.execute("UPDATE marketing.company_invalid SET company_name = 'Alder Works 3' WHERE company_unique_id = %s",
                 [company(3)])  # fmt: skip
    steps.pull()
    steps.push()


@pytest.mark.parametrize("dry", [True, False])
def test_revalidate_passes_only_what_the_master_takes(carried, cli, neon, supabase, dry) -> None:
    before = both(neon, supabase)
    done = cli("revalidate", "--entity", "company", *(["--dry-run"] if dry else []))
    assert done.stdout.split() == [company(1)]
    assert "FAILED: 2 companies" in done.stderr
    if dry:
        assert both(neon, supabase) == before
        return
    assert invalid(neon, company(2))["still_invalid"]
    assert work(supabase, company(2))["enrichment_status"] == "failed"
    assert "employee_count" in work(supabase, company(2))["validation_errors"]
    assert "no mills, please" in json.dumps(work(supabase, company(3))["validation_errors"])
    assert master(neon, company(1)) is None
    assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["waiting"]
    assert cli("promote", input=done.stdout).returncode == 0
    assert master(neon, company(1))


def test_a_dry_promotion_says_what_the_promotion_says(carried, cli, neon, supabase) -> None:
    keys = "\n".join(company(number) for number in (1, 2, 3))
    before = both(neon, supabase)
    dry = cli("promote", "--dry-run", input=keys)
    assert both(neon, supabase) == before
    assert dry.returncode == 1
    real = cli("promote", input=keys)
    assert real.returncode == 1
    for said in (dry, real):
        assert company(2) in said.stderr
        assert "employee_count" in said.stderr
        assert "no mills, please" in said.stderr
    assert company(1) in dry.stdout
    assert company(2) not in dry.stdout
    assert master(neon, company(1))


@pytest.mark.parametrize("missing", ["company", "slot", "fitting slot"])
def test_a_person_who_would_wait_is_not_said_to_pass(steps, cli, neon, supabase, missing) -> None:
    if missing != "company":
        add_master(neon, 1)
    if missing == "fitting slot":
        add_slot(neon, 1, 1, slot_type="CEO")
    add_people(neon, 1, title="Gardener")
    steps.pull("people")
    complete(supabase, person(1), email="robin@alder.example")
    steps.push("people")
    before = both(neon, supabase)
    dry = cli("promote", "--dry-run", input=person(1))
    assert dry.returncode == 1
    assert f"Waiting: company {company(1)}" in dry.stderr
    judged = cli("revalidate", "--entity", "people", "--dry-run")
    assert judged.stdout == ""
    assert f"Waiting: company {company(1)}" in judged.stderr
    assert both(neon, supabase) == before
    judged = cli("revalidate", "--entity", "people")
    assert judged.stdout == ""
    add_master(neon, 1) if missing == "company" else None
    add_slot(neon, 9, 1)
    assert cli("revalidate", "--entity", "people").stdout.split() == [person(1)]


def test_a_person_whose_company_passes_in_the_same_run_passes_if_there_is_a_slot(steps, cli, neon, supabase) -> None:
    add_companies(neon, 1, 2)
    add_slot(neon, 1, 1)
    for number in (1, 2):
        add_people(neon, number, of=number)
    steps.pull()
    steps.pull("people")
    for number in (1, 2):
        complete(supabase, company(number), website=f"https://a{number}.example")
        complete(supabase, person(number), email=f"robin{number}@alder.example")
    steps.push()
    steps.push("people")
    before = both(neon, supabase)
    done = cli("revalidate")
    assert done.stdout.split() == [company(1), company(2), person(1)]
    assert f"{person(2)} was left: Waiting: company {company(2)} has no slot" in done.stderr
    assert cli("revalidate", "--entity", "people").stdout == "", "without its company it is not promoted"
    dry = cli("promote", "--dry-run", input=done.stdout)
    assert all(key in dry.stdout for key in (company(1), company(2), person(1)))
    assert [len(ledger(neon, key)) for key in (company(1), person(1))] == [1, 1]
    assert before[1] == both(neon, supabase)[1]
    assert cli("promote", input=done.stdout).returncode == 0
    assert master(neon, person(1))


def test_people_of_two_companies_that_are_not_promoted_together_wait(steps, cli, neon, supabase) -> None:
    neon.execute("CREATE UNIQUE INDEX ON marketing.company_master (website_url)")
    add_companies(neon, 1, 2, 3)
    for number in (1, 3):
        add_slot(neon, number, number)
        add_people(neon, number, of=number)
    steps.pull()
    steps.pull("people")
    for number in (1, 2, 3):
        complete(supabase, company(number), website=f"https://a{number % 2}.example")
    for number in (1, 3):
        complete(supabase, person(number), email=f"robin{number}@alder.example")
    steps.push()
    steps.push("people")
    done = cli("revalidate", "--dry-run", "--batch-size", "2")
    assert done.returncode == 0, done.stderr
    assert {company(1), company(2)} <= set(done.stdout.split())


def test_the_dry_run_of_a_pipeline_says_what_the_pipeline_then_does(cli, prepared, neon, supabase) -> None:
    """Of what is queued, and what waits for a record that passes in the same run."""
    add_companies(neon, *range(1, 8))
    add_people(neon, 1, of=1)
    add_people(neon, 2, of=7)
    add_people(neon, 3, of=2)
    for number in (1, 2):
        add_slot(neon, number, of=number)
    assert cli("pull").returncode == 0
    complete(supabase, company(4), website="https://d.example")
    complete(supabase, company(1), website="https://a.example")
    complete(supabase, company(2), website="https://b.example", employee_count=-1)
    complete(supabase, company(3), website="n/a")
    for number in (1, 2, 3):
        complete(supabase, person(number), email="robin@a.example", title="Clerk")
    before = everything(neon, locks=False), everything(supabase)
    dry = cli("pipeline", "--dry-run", "--batch-size", "2")
    assert dry.returncode == 0, dry.stderr
    assert (everything(neon, locks=False), everything(supabase)) == before
    done = cli("pipeline", "--yes")

    def counts(said: str) -> list[str]:
        return re.findall(r"(?:PASSED|FAILED): \d+ \w+", said)

    assert counts(dry.stderr) == counts(done.stderr)
    promoted = {
        row["key"]
        for row in neon.execute("SELECT key FROM marketing.enrichment_ledger WHERE outcome = 'promoted'").fetchall()
    }
    assert promoted == {company(1), company(4), person(1)}
    assert f"would promote {len(promoted)} records" in dry.stdout
    assert all(f"{key} would be promoted" in dry.stdout for key in promoted), dry.stdout
