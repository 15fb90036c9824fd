"""What enrichers do in the Table Editor, through the dashboard's own backend. SPEC 3."""

from __future__ import annotations

import pytest
from dashboard import USER, Refused, dashboard
from records import add_companies, company, master, work

pytestmark = pytest.mark.timeout(300)  # npm may install it first


@pytest.fixture
def board(prepared, databases, supabase):
    with dashboard(databases.supabase_url) as one:
        yield one


@pytest.mark.needs_view
def test_it_looks_at_the_workspace_edits_inserts_and_deletes(board, cli, neon, supabase) -> None:
    add_companies(neon, *range(1, 7))
    assert cli("pull").returncode == 0
    tables, columns = board.listed("tables"), board.listed("columns")
    for table in ("company_needs_enrichment", "people_needs_enrichment", "company_repairs", "people_repairs"):
        assert tables[table]["rls_enabled"] is True
    assert columns["company_needs_enrichment.employee_count"]["format"] == "int4"
    assert columns["company_repairs.employee_count"]["format"] == "text", "a cell that is no number is named"
    supabase.execute("INSERT INTO enrichment_enrichers (user_id, name) VALUES (%s, 'Kim')", [USER])

    (row,) = board.edit(
        "company_needs_enrichment",
        {"website": "it's.example", "enrichment_status": "Complete"},
        f"id = {work(supabase, company(1))['id']}",
    )
    assert (row["website"], row["enrichment_status"], row["enriched_by"]) == ("it's.example", "complete", "Kim")
    several = ",".join(str(work(supabase, company(n))["id"]) for n in (2, 3))
    rows = board.edit(
        "company_needs_enrichment", {"website": "b.example", "enrichment_status": "complete"}, f"id in ({several})"
    )
    assert {row["enriched_by"] for row in rows} == {"Kim"}
    with pytest.raises(Refused, match="use pending, in_progress, complete or failed"):
        board.edit("company_needs_enrichment", {"enrichment_status": "fertig"}, f"id in ({several})")
    with pytest.raises(Refused, match="company_unique_id"):
        board.edit("company_needs_enrichment", {"company_unique_id": company(9)}, f"id in ({several})")
    made = {"company_unique_id": company(9), "company_name": "Elm", "enrichment_status": "complete"}
    assert board.insert("company_needs_enrichment", [made], " returning *")[0]["company_name"] == "Elm"
    (gone,) = board.delete("company_needs_enrichment", f"id in ({work(supabase, company(6))['id']})")
    assert gone["company_unique_id"] == company(6)

    assert cli("pipeline", "--yes").returncode == 0
    assert master(neon, company(2))["validated_by"] == "Kim"
    assert work(supabase, company(1))["enrichment_status"] == "failed", "no web address"
    assert "never came from Neon" in work(supabase, company(9))["sync_note"]
    (shown,) = board.query("select * from public.needs_attention where key = '" + company(1) + "'")
    assert "website" in shown["errors"]


def test_an_import_of_ten_thousand_rows_comes_in_parts_each_whole_or_not_and_once_more(
    board, cli, neon, supabase
) -> None:
    neon.execute(
        "INSERT INTO marketing.company_invalid (company_unique_id, company_name, reason_code, validation_errors)"
        " SELECT '04.04.01.01.' || lpad(n::text, 5, '0') || '.001', 'Alder ' || n, 'EMPTY_WEBSITE', '{}'"
        " FROM generate_series(1, 10000) n"
    )
    assert cli("pull").returncode == 0
    lines = [f"04.04.01.01.{n:05}.001,a{n}.example,,complete" for n in range(1, 10_001)]

    def text() -> str:
        return "\n".join(["company_unique_id,website,city,enrichment_status", *lines, ""])

    rows = "SELECT md5(string_agg(t::text, '|' ORDER BY id)) AS rows FROM company_needs_enrichment t"
    before = supabase.execute(rows).fetchone()
    good = lines[0]
    for wrong, said in (
        (good.replace("complete", "fertig"), "enrichment_status cannot be 'fertig'"),
        (f"{good}\n{good}", "is there more than once"),
    ):
        lines[0] = wrong
        with pytest.raises(Refused, match=said):
            board.import_csv("company_repairs", text())
        assert supabase.execute(rows).fetchone() == before
    lines[0] = good
    for head in ("\ufeffcompany_unique_id,website,city,enrichment_status", "company_unique_id;website"):
        with pytest.raises(Refused, match="does not exist"):
            board.import_csv("company_repairs", "\n".join([head, *lines]))
        assert supabase.execute(rows).fetchone() == before

    good, lines[9998] = lines[9998], lines[9998].replace("09999", "10001")
    with pytest.raises(Refused, match=r"04\.04\.01\.01\.10001\.001.*nothing of this import was taken"):
        board.import_csv("company_repairs", text())
    done = "SELECT count(*) AS n FROM company_needs_enrichment WHERE enrichment_status = 'complete'"
    first = supabase.execute(done).fetchone()["n"]
    assert 0 < first < 9998, "the parts before it are taken: each is a transaction of the dashboard's"
    lines[9998] = good
    assert board.import_csv("company_repairs", text()) > 1
    assert supabase.execute(done).fetchone()["n"] == 10_000
    assert (
        supabase.execute("SELECT count(DISTINCT website) AS n FROM company_needs_enrichment").fetchone()["n"] == 10_000
    )
    assert supabase.execute("SELECT FROM company_repairs").fetchone() is None
