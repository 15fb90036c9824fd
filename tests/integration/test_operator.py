"""What the operator asks: ``history`` and ``doctor``. SPEC 7."""

from __future__ import annotations

import json
import re

import pooler
import pytest
from conftest import as_role
from findings import findings
from records import add_companies, company, complete


@pytest.fixture
def lived(cli, prepared, neon, supabase) -> str:
    """A company that was given back once, and then promoted."""
    add_companies(neon, 1)
    cli("pull")
    complete(supabase, company(1), website="n/a", enriched_by="ana@enrichers.example")
    cli("pipeline", "--yes")
    complete(supabase, company(1), website="Alder.example")
    cli("pipeline", "--yes")
    return company(1)


def test_status_says_where_the_records_stand(cli, lived, neon, supabase) -> None:
    add_companies(neon, 2, 3)
    cli("pull")
    complete(supabase, company(2), website="n/a")
    cli("pipeline", "--yes")
    found = json.loads(cli("status", "--json").stdout)["entities"]["company"]
    assert found["counts"] == {
        "pending": 1, "in_progress": 0, "complete": 0, "waiting": 0, "promoted": 1, "failed": 1,
    }  # fmt: skip
    assert found["queue"] == 0
    assert found["failures"][0]["keys"] == [company(2)]
    done = cli("status")
    assert done.returncode == 0
    assert "PLACEHOLDER_WEBSITE (website)" in done.stdout
    assert company(2) in done.stdout


def test_status_names_the_latest_keys_of_a_reason(cli, prepared, supabase) -> None:
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        for number in range(1, 8):
            supabase.execute(
                "INSERT INTO company_needs_enrichment (company_unique_id, enrichment_status, reason_code,"
                " pushed_to_neon_at, updated_at) VALUES (%s, 'failed', 'EMPTY_WEBSITE', now(), %s)",
                [company(number), f"2025-11-07 16:0{number}"],
            )
    (failure,) = json.loads(cli("status", "--json").stdout)["entities"]["company"]["failures"]
    assert (failure["records"], failure["keys"]) == (7, [company(number) for number in (7, 6, 5, 4, 3)])


def test_history_tells_a_records_life(cli, lived) -> None:
    done = cli("history", lived)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"company {lived}"
    story = ["failed the initial validation", "pulled", "given back", "promoted to the master table", "now: in"]
    places = [next(n for n, line in enumerate(lines) if part in line) for part in story]
    assert places == sorted(places)
    assert "error in website" in done.stdout
    assert "'n/a'" in done.stdout
    assert "ana@enrichers.example" in done.stdout
    assert [line.strip() for line in lines if "(enricher)" in line] == [
        "website: empty → 'n/a' (enricher)", "website: 'n/a' → 'https://alder.example' (enricher)",
    ]  # fmt: skip
    assert not [line for line in lines if "website:" in line and "(normalised)" in line], "it has one reason to change"
    assert "marketing.company_master" in lines[-1]


def test_history_tells_the_reasons_of_the_intake_also_when_a_repair_failed_for_others(
    cli, steps, neon, supabase
) -> None:
    add_companies(neon, 1)
    steps.pull()
    complete(supabase, company(1), website="n/a")
    steps.deliver()
    lines = [line.strip() for line in cli("history", company(1)).stdout.splitlines()]
    first = next(number for number, line in enumerate(lines) if "failed the initial validation" in line)
    assert lines[first + 1] == "EMPTY_WEBSITE: website: empty or blank"


def test_history_as_json(cli, lived) -> None:
    found = json.loads(cli("history", lived, "--json").stdout)
    assert found["key"] == lived
    assert [event["what"].split(",")[0] for event in found["events"]][-1] == "promoted to the master table"


def test_history_of_an_unknown_key_is_one_line_and_exit_1(cli, prepared) -> None:
    done = cli("history", "04.04.01.01.99999.999")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_doctor_finds_nothing_wrong_where_nothing_is(cli, prepared) -> None:
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    assert "problem" not in done.stdout
    assert "a notification arrives" in done.stdout


@pytest.mark.parametrize(
    ("side", "damage", "check", "said"),
    [
        ("supabase", "DROP TRIGGER enrichment_b_row ON company_needs_enrichment", "company: triggers", "enrichment_b_row"),
        ("supabase", "ALTER TABLE people_needs_enrichment DISABLE TRIGGER ALL", "people: triggers", "enrichment_notify"),
        ("supabase", "ALTER TABLE company_needs_enrichment ENABLE REPLICA TRIGGER enrichment_b_row", "company: triggers",
         "enrichment_b_row"),
        ("supabase", "ALTER TABLE company_needs_enrichment DISABLE ROW LEVEL SECURITY",
         "public.company_needs_enrichment: row level security", "off"),
        ("supabase", "ALTER TABLE company_needs_enrichment DROP COLUMN promoted_at", "company: workspace", "promoted_at"),
        ("neon", "ALTER TABLE marketing.company_master ADD COLUMN region TEXT NOT NULL", "company: Neon's tables", "region"),
        ("neon", "DROP TABLE marketing.enrichment_ledger", "ledger and log", "enrichment_ledger"),
    ],
)  # fmt: skip
def test_doctor_names_what_is_broken_with_its_fix(cli, prepared, neon, supabase, side, damage, check, said) -> None:
    (neon if side == "neon" else supabase).execute(damage)
    found = findings(cli)
    assert found[check]["level"] == "problem"
    assert said in found[check]["text"]
    assert found[check]["hint"]
    assert cli("doctor").returncode == 1


def test_doctor_names_a_missing_privilege(cli, prepared, env, neon, databases) -> None:
    neon.execute("DO $$ BEGIN CREATE ROLE meek LOGIN PASSWORD 'only-meek'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
                 "GRANT USAGE ON SCHEMA marketing TO meek; GRANT SELECT ON ALL TABLES IN SCHEMA marketing TO meek;"
                 "GRANT SELECT ON public.shq_validation_log TO meek")  # fmt: skip
    env["NEON_DATABASE_URL"] = as_role(databases.neon_url, "meek", "only-meek")
    found = findings(cli)
    assert "DELETE on marketing.company_invalid" in found["company: Neon's privileges"]["text"]
    assert "INSERT on marketing.enrichment_ledger" in found["ledger and log"]["text"]
    neon.execute("DROP OWNED BY meek")


def test_doctor_notices_that_row_level_security_hides_the_rows_from_the_worker(
    cli, prepared, env, supabase, databases
) -> None:
    supabase.execute("DO $$ BEGIN CREATE ROLE blind LOGIN PASSWORD 'only-blind'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
                     "GRANT ALL ON ALL TABLES IN SCHEMA public TO blind")  # fmt: skip
    env["SUPABASE_DATABASE_URL"] = as_role(databases.supabase_url, "blind", "only-blind")
    found = findings(cli)["public.company_needs_enrichment: row level security"]
    assert found["level"] == "problem"
    assert "BYPASSRLS" in found["hint"]
    supabase.execute("CREATE POLICY worker ON company_needs_enrichment TO blind USING (true) WITH CHECK (true)")
    assert findings(cli)["public.company_needs_enrichment: row level security"]["level"] == "ok"
    supabase.execute("DROP OWNED BY blind")


def says(connection, name: str, arguments: str, kind: str, value: str) -> None:
    """Have the server's sessions to come say another thing than it is: a function of its own comes first."""
    database = connection.execute("SELECT quote_ident(current_database()) AS it").fetchone()["it"]
    connection.execute(
        f"CREATE SCHEMA said; CREATE FUNCTION said.{name}({arguments}) RETURNS {kind} LANGUAGE sql AS $$ {value} $$;"
        f"ALTER DATABASE {database} SET search_path = said, pg_catalog, public"
    )


@pytest.mark.parametrize("ahead", [60, -60])
@pytest.mark.parametrize("side", ["Neon", "Supabase"])
def test_doctor_names_a_clock_that_is_wrong(cli, prepared, neon, supabase, side, ahead) -> None:
    later = f"SELECT pg_catalog.clock_timestamp() + interval '{ahead} seconds'"
    says(neon if side == "Neon" else supabase, "clock_timestamp", "", "timestamptz", later)
    found = findings(cli)
    assert found[f"{side} clock"]["level"] == "problem"
    assert re.search(r"\b(59|6\d) s apart", found[f"{side} clock"]["text"])
    assert "NTP" in found[f"{side} clock"]["hint"]
    assert found[f"{'Supabase' if side == 'Neon' else 'Neon'} clock"]["level"] == "ok"
    assert cli("doctor").returncode == 1


@pytest.mark.parametrize(("number", "text", "level"), [(130022, "13.22", "problem"), (140000, "14.0", "ok")])
@pytest.mark.parametrize("side", ["Neon", "Supabase"])
def test_doctor_names_a_version_that_is_too_old(cli, prepared, neon, supabase, side, number, text, level) -> None:
    setting = (
        f"SELECT CASE $1 WHEN 'server_version_num' THEN '{number}' WHEN 'server_version' THEN '{text}'"
        " ELSE pg_catalog.current_setting($1) END"
    )
    says(neon if side == "Neon" else supabase, "current_setting", "text", "text", setting)
    found = findings(cli)[f"{side} version"]
    assert (found["level"], found["text"]) == (level, f"PostgreSQL {text}")
    assert ("14" in found["hint"]) is (level == "problem")


@pytest.mark.skipif(not pooler.installed(), reason="pgbouncer is not installed: apt install pgbouncer")
def test_doctor_recognises_a_transaction_pooler_behind_the_listen_address(cli, prepared, env, databases) -> None:
    with pooler.Pooler(databases.supabase_url) as behind:
        env["SUPABASE_LISTEN_URL"] = behind.url
        found = findings(cli)["LISTEN"]
    assert found["level"] == "problem"
    assert "transaction" in found["text"]
    assert "5432" in found["hint"]


def test_doctor_with_a_database_down_says_the_rest_and_exits_3(cli, prepared, env) -> None:
    env["NEON_DATABASE_URL"] = "postgresql://somebody:hunter2@127.0.0.1:1/neon"
    done = cli("doctor")
    assert done.returncode == 3
    assert "NEON_DATABASE_URL" in done.stdout
    assert "LISTEN: a notification arrives" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
