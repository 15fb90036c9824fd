"""Repairs from a spreadsheet: an import is laid over the workspace, whole or not at all. SPEC 3."""

from __future__ import annotations

import json

import psycopg
import pytest
from psycopg import sql
from records import add_companies, add_people, add_slot, company, complete, edit, master, person, work

NOTHING = "nothing of this import was taken"


@pytest.fixture
def pulled(cli, prepared, neon):
    add_companies(neon, *range(1, 6), city="Ripley", employee_count=7)
    add_people(neon, 1, of=1)
    assert cli("pull").returncode == 0


def bring(supabase, rows, table="company_repairs") -> None:
    """As the dashboard imports a CSV: one statement, with all rows as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    supabase.execute(
        sql.SQL("INSERT INTO {t} ({c}) SELECT {c} FROM jsonb_populate_recordset(NULL::{t}, %s)").format(
            t=sql.Identifier(table), c=listed
        ),
        [json.dumps(rows)],
    )


def rows_of(supabase) -> list[dict]:
    return supabase.execute("SELECT * FROM company_needs_enrichment ORDER BY id").fetchall()


def test_repairs_are_edits_and_an_empty_cell_changes_nothing(cli, pulled, neon, supabase) -> None:
    bring(supabase, [
        {"company_unique_id": company(1), "website": "a.example", "city": "", "employee_count": "12",
         "enrichment_status": " Complete ", "enriched_by": "kim@alder.example", "enrichment_notes": "from the sheet"},
        {"company_unique_id": f" {company(2)} ", "website": None, "city": "Elkins", "employee_count": "",
         "enrichment_status": "", "enriched_by": None, "enrichment_notes": " "},
    ])  # fmt: skip
    first, second = work(supabase, company(1)), work(supabase, company(2))
    assert (first["website"], first["city"], first["employee_count"]) == ("a.example", "Ripley", 12)
    assert (first["enrichment_status"], first["enriched_by"]) == ("complete", "kim@alder.example")
    assert first["enrichment_notes"] == "from the sheet"
    assert (second["city"], second["employee_count"], second["enrichment_status"]) == ("Elkins", 7, "pending")
    assert supabase.execute("SELECT count(*) AS n FROM company_repairs").fetchone()["n"] == 0
    assert cli("pipeline", "--yes").returncode == 0
    assert master(neon, company(1))["website_url"] == "https://a.example"


def test_an_import_goes_through_where_all_tables_are_published(cli, pulled, supabase) -> None:
    """As for a replica or a warehouse: a table without a key may not be deleted from where it is published."""
    supabase.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    bring(supabase, [{"company_unique_id": company(1), "city": "Elkins"}])
    assert work(supabase, company(1))["city"] == "Elkins"
    # Of an earlier release.
    supabase.execute("ALTER TABLE company_repairs REPLICA IDENTITY DEFAULT")
    assert cli("setup").returncode == 0
    bring(supabase, [{"company_unique_id": company(1), "city": "Ripley"}])
    assert supabase.execute("SELECT FROM company_repairs").rowcount == 0


def test_people_have_one_too(cli, pulled, neon, supabase) -> None:
    add_slot(neon, 1, of=1)
    bring(supabase, [{"unique_id": person(1), "email": "robin@a.example"}], "people_repairs")
    assert work(supabase, person(1))["email"] == "robin@a.example"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"company_unique_id": "04.04.01.01.99999.001", "city": "x"}, "has the company_unique_id 04.04.01.01.99999.001"),
        ({"company_unique_id": "", "city": "x"}, "1 rows have no company_unique_id"),
        ({"company_unique_id": company(1), "city": "x"}, f"{company(1)} is there more than once"),
        ({"company_unique_id": company(3), "employee_count": "seven"}, f"{company(3)}: employee_count cannot be 'seven': it is of type integer"),
        ({"company_unique_id": company(3), "enrichment_status": "fertig"}, f"{company(3)}: enrichment_status cannot be 'fertig': use pending"),
    ],
    ids=["unknown key", "no key", "twice", "no number", "another language"],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_taken(pulled, supabase, bad, said) -> None:
    before = rows_of(supabase)
    good = [{"company_unique_id": company(n), "city": "Elkins", "enrichment_status": "complete"} for n in (1, 2)]
    with pytest.raises(psycopg.Error) as refused:
        bring(supabase, [*good, bad])
    assert said in str(refused.value)
    assert NOTHING in str(refused.value)
    assert rows_of(supabase) == before
    assert supabase.execute("SELECT count(*) AS n FROM company_repairs").fetchone()["n"] == 0


def test_an_unknown_column_is_refused_by_name(pulled, supabase) -> None:
    for name in ("webseite", "\ufeffcompany_unique_id", "company_unique_id;city"):
        with pytest.raises(psycopg.errors.UndefinedColumn, match=name):
            bring(supabase, [{"company_unique_id": company(1), name: "x"}])


def test_ten_thousand_rows_come_in_one_import_with_one_notification(cli, prepared, neon, supabase, databases) -> None:
    neon.execute(
        "INSERT INTO marketing.company_invalid (company_unique_id, company_name, reason_code, validation_errors)"
        " SELECT '04.04.01.01.' || lpad(n::text, 5, '0') || '.001', 'Alder ' || n, 'EMPTY_WEBSITE', '{}'"
        " FROM generate_series(1, 10000) n"
    )
    assert cli("pull").returncode == 0
    keys = [f"04.04.01.01.{n:05}.001" for n in range(1, 10001)]
    rows = [{"company_unique_id": key, "website": "a.example", "enrichment_status": "complete"} for key in keys]
    wrong = [dict(row) for row in rows]
    wrong[9998]["company_unique_id"] = "04.04.01.01.10001.001"
    with pytest.raises(psycopg.Error, match=r"04\.04\.01\.01\.10001\.001"):
        bring(supabase, wrong)
    assert supabase.execute("SELECT FROM company_needs_enrichment WHERE website IS NOT NULL").fetchone() is None
    with psycopg.connect(databases.supabase_url, autocommit=True) as ear:
        ear.execute("LISTEN enrichment_complete")
        bring(supabase, rows)
        assert [notice.payload for notice in ear.notifies(timeout=5, stop_after=1)] == ['{"entity": "company"}']
        assert list(ear.notifies(timeout=0)) == []
    done = supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment WHERE enrichment_status = 'complete'")
    assert done.fetchone()["n"] == 10_000


def test_what_is_repaired_after_a_promotion_is_told_so(cli, pulled, neon, supabase) -> None:
    complete(supabase, company(1), website="a.example")
    assert cli("pipeline", "--yes").returncode == 0
    bring(supabase, [{"company_unique_id": company(1), "city": "Elkins", "enrichment_status": "complete"}])
    assert cli("pipeline", "--yes").returncode == 0
    assert "Edits after promotion are not carried" in work(supabase, company(1))["sync_note"]
    assert master(neon, company(1))["address_city"] == "Ripley"


def test_setup_follows_the_file_and_touches_no_table_of_others(cli, pulled, supabase) -> None:
    supabase.execute("ALTER TABLE company_repairs ADD COLUMN old TEXT, DROP COLUMN city")
    assert cli("setup").returncode == 0
    assert "everything is in place" in cli("setup").stdout
    edit(supabase, company(1), city="Elkins")
    bring(supabase, [{"company_unique_id": company(1), "city": "Weston"}])
    assert work(supabase, company(1))["city"] == "Weston"
    supabase.execute("DROP TABLE company_repairs; CREATE TABLE company_repairs (note TEXT);"
                     "INSERT INTO company_repairs VALUES ('mine')")  # fmt: skip
    done = cli("setup")
    assert done.returncode == 1
    assert (
        "Supabase's public.company_repairs is a table of somebody else's, and `setup` needs the name for imports of"
        " repairs; rename it" in done.stderr
    )
    assert done.stdout == "", "nothing was done in either database"
    assert supabase.execute("SELECT note FROM company_repairs").fetchall() == [{"note": "mine"}]
