"""The customer's later schema (``people.people_invalid``, ``people.people_master``) works by a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import slot

FILES = Path(__file__).parents[1] / "data/later_schema"
COMPANY = "04.04.01.00.000001.001"
PERSON, OTHER = "04.04.02.00.000001.001", "04.04.02.00.00002.001"


@pytest.fixture
def later(cli, neon, supabase, env):
    """His tables as they are now: made by others, people of six and of five digits, companies in the master only."""
    env["WORKER_ENTITIES"] = str(FILES)
    neon.execute("""
        CREATE SCHEMA people; CREATE SCHEMA marketing;
        CREATE TABLE people.people_invalid (id bigserial PRIMARY KEY, unique_id varchar(30) UNIQUE NOT NULL, full_name text,
          first_name text, last_name text, email text, phone text, title text, company_name text, company_unique_id text,
          linkedin_url text, city text, state text, reason_code text NOT NULL, validation_errors jsonb NOT NULL,
          validation_warnings jsonb, batch_id text, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
          promoted_to text);
        CREATE TABLE people.people_master (unique_id text PRIMARY KEY, company_unique_id text NOT NULL,
          company_slot_unique_id text NOT NULL, first_name text NOT NULL, last_name text NOT NULL, title text, email text,
          work_phone_e164 text, linkedin_url text, source_system text NOT NULL, source_record_id text,
          updated_at timestamptz DEFAULT now());
        CREATE TABLE marketing.company_master (company_unique_id text PRIMARY KEY, company_name text NOT NULL);
    """)
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    neon.cursor().executemany(
        "INSERT INTO people.people_invalid (unique_id, full_name, title, company_unique_id, reason_code, validation_errors)"
        " VALUES (%s, 'Robin Alder', 'Treasurer', %s, 'EMPTY_EMAIL', '{}')",
        [(PERSON, COMPANY), (OTHER, COMPANY)],
    )


def row(neon, table: str, key: str):
    return neon.execute(f"SELECT * FROM {table} WHERE unique_id = %s", [key]).fetchone()


def test_people_go_round_the_loop_in_other_tables(cli, later, neon, supabase, daemon, eventually) -> None:
    assert cli("doctor").returncode == 0, cli("doctor").stdout
    assert "pulled 2 people" in cli("pull").stdout
    worker = daemon()
    for key, email in ((PERSON, "robin@alder.example"), (OTHER, "n/a@n/a.com")):
        supabase.execute(
            "UPDATE people_needs_enrichment SET email = %s, enrichment_status = 'complete' WHERE unique_id = %s",
            [email, key],
        )

    def desk(key: str):
        return supabase.execute("SELECT * FROM people_needs_enrichment WHERE unique_id = %s", [key]).fetchone()

    eventually(lambda: desk(PERSON)["waiting_for"] == COMPANY and desk(OTHER)["enrichment_status"] == "failed")
    assert desk(PERSON)["sync_note"].startswith(f"Waiting: company {COMPANY} is not in the master yet.")
    neon.execute("INSERT INTO marketing.company_master VALUES (%s, 'Alder Works')", [COMPANY])
    neon.execute(
        "INSERT INTO marketing.company_slots (company_slot_unique_id, company_unique_id, slot_type, slot_label)"
        " VALUES (%s, %s, 'executive', 'CFO')", [slot(1), COMPANY]
    )  # fmt: skip
    assert cli("pull").returncode == 0
    eventually(lambda: desk(PERSON)["promoted_at"])
    assert row(neon, "people.people_master", PERSON)["company_slot_unique_id"] == slot(1)
    assert row(neon, "people.people_invalid", PERSON) is None
    assert row(neon, "people.people_invalid", OTHER)["reason_code"] == "PLACEHOLDER_EMAIL"
    assert worker.terminate() == 0
    assert cli("undo", PERSON).returncode == 0
    assert cli("reconcile").returncode == 0
