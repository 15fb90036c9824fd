"""A database whose owner forbids DDL: only ``setup`` makes anything. SPEC 6."""

from __future__ import annotations

import json

import pytest
from declared import ENTITIES
from psycopg import sql
from records import add_companies, add_people, company, complete, edit, ledger, master, work


@pytest.fixture
def forbidden(cli, prepared, neon, supabase):
    """Any DDL is refused in both databases, that of temporary objects too."""
    for connection in (neon, supabase):
        connection.execute(
            "CREATE FUNCTION public.forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no DDL here: %', tg_tag; END $$;"
            "CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION public.forbid()"
        )
    yield
    for connection in (neon, supabase):
        connection.execute("DROP EVENT TRIGGER forbid")


def pulled(cli, *options: str) -> dict[str, int]:
    done = cli("pull", "--entity", "company", "--json", *options)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    return {name: result[name] for name in ("new", "changed", "withdrawn", "orphaned", "refused")}


def test_every_sort_of_pull_goes_on_where_ddl_is_forbidden(cli, forbidden, neon, supabase) -> None:
    nothing = {"new": 0, "changed": 0, "withdrawn": 0, "orphaned": 0, "refused": 0}
    add_companies(neon, 1, 2, 3)
    assert pulled(cli, "--dry-run") == {**nothing, "new": 3}
    assert pulled(cli) == {**nothing, "new": 3}
    assert pulled(cli) == pulled(cli, "--full") == nothing
    add_companies(neon, 4, 5)
    neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now() AT TIME ZONE 'UTC'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    assert pulled(cli, "--dry-run") == pulled(cli) == {**nothing, "new": 2, "changed": 1}
    assert work(supabase, company(1))["city"] == "Elkins"
    edit(supabase, company(2), city="Ripley")
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = ANY(%s)", [[company(2), company(3)]])
    assert pulled(cli, "--full") == {**nothing, "withdrawn": 1, "orphaned": 1}
    assert [row["outcome"] for row in ledger(neon, company(3))] == ["withdrawn"]


def test_a_worker_pulls_and_promotes_where_ddl_is_forbidden(cli, forbidden, neon, supabase, daemon, eventually) -> None:
    add_companies(neon, 1)
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT FROM company_needs_enrichment").fetchone() is not None)
    complete(supabase, company(1), website="https://a.example")
    eventually(lambda: master(neon, company(1)))
    add_companies(neon, 2)
    assert pulled(cli)["new"] == 1
    assert worker.health("/readyz")[0] == 200


ODD = [
    "a\\b", 'a"b', "a\tb", "a\nb\r\n", "\\n", "\\", "\\\\", '\\"', "Ünterstadt 🦫", "\x01\x1f", "{}", "null", "", " ", "\\N",
    "\\u0041", "a,b", "'", "%s %(rows)s", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("staged", [False, True], ids=["copied", "staged"])
def test_every_text_arrives_as_it_is(cli, prepared, neon, supabase, staged) -> None:
    """Straight into the empty workspace, and beside a row that is there."""
    if staged:
        add_companies(neon, 99)
        pulled(cli)
    for number, text in enumerate(ODD, start=1):
        add_companies(neon, number, city=text, batch_id=text, validation_errors=json.dumps({"website": [text, None]}))
    add_companies(neon, 50, validation_errors="null", employee_count=-7, company_name=None)
    assert pulled(cli)["new"] == len(ODD) + 1
    for number, text in enumerate(ODD, start=1):
        row = work(supabase, company(number))
        assert (row["city"], row["source_batch_id"]) == (text, text)
        assert row["original_validation_errors"] == {"website": [text, None]}
        assert row["neon_snapshot"]["city"] == text
    last = work(supabase, company(50))
    assert (last["employee_count"], last["company_name"], last["original_validation_errors"]) == (-7, None, None)
    # As Neon has it, whichever way it came: a full comparison finds nothing.
    assert pulled(cli, "--full") == {"new": 0, "changed": 0, "withdrawn": 0, "orphaned": 0, "refused": 0}


@pytest.mark.parametrize("staged", [False, True], ids=["copied", "staged"])
def test_both_ways_bring_the_same_rows(cli, prepared, neon, supabase, staged) -> None:
    """What is new comes as ``setup`` made the columns, whatever the way."""
    if staged:
        add_people(neon, 99)
        assert cli("pull").returncode == 0
    add_people(neon, 1, updated_at="2025-11-07 16:32:09.123456", created_at="infinity", validation_warnings="[]")
    assert cli("pull").returncode == 0
    row = supabase.execute(
        "SELECT to_jsonb(w) AS row FROM people_needs_enrichment w WHERE unique_id LIKE '%.00001.%'"
    ).fetchone()["row"]
    assert (row["created_at"], row["updated_at"]) == ("infinity", "2025-11-07T16:32:09.123456")
    assert row["original_validation_errors"] == ["Email is missing"]
    assert row["original_validation_warnings"] == []
    assert (row["enrichment_status"], row["neon_id"] > 0) == ("pending", True)
    assert set(row["neon_snapshot"]) == set(ENTITIES["people"].columns)
    sealed = supabase.execute("SELECT md5(%s::jsonb::text) AS hash", [json.dumps(row["neon_snapshot"])]).fetchone()
    assert row["last_sync_hash"] == sealed["hash"]


@pytest.mark.parametrize("first", [True, False], ids=["first pull", "later pull"])
@pytest.mark.parametrize("type_", ["varchar(20)", "short"])
def test_a_column_of_a_narrower_type_refuses_and_cuts_nothing(cli, prepared, neon, supabase, first, type_) -> None:
    supabase.execute("CREATE DOMAIN short AS text CHECK (length(VALUE) < 20)")
    if not first:
        add_companies(neon, 99)
        pulled(cli)
    supabase.execute(
        sql.SQL("ALTER TABLE company_needs_enrichment ALTER city TYPE {0} USING city::{0}").format(sql.SQL(type_))
    )
    add_companies(neon, 1, 3, city="Ripley")
    add_companies(neon, 2, city="x" * 50)
    result = pulled(cli)
    assert (result["new"], result["refused"]) == (2, 1)
    assert [work(supabase, company(number))["city"] for number in (1, 3)] == ["Ripley"] * 2


def test_a_column_of_the_customers_that_may_not_be_empty_has_its_default(cli, prepared, neon, supabase) -> None:
    """Of a domain that is NOT NULL, and generated: a row of the whole table could not even be read without it."""
    supabase.execute(
        "CREATE DOMAIN rank AS integer NOT NULL; ALTER TABLE company_needs_enrichment ADD rank rank DEFAULT 3,"
        " ADD long text GENERATED ALWAYS AS (upper(city)) STORED"
    )
    for number in (1, 2):
        add_companies(neon, number, city="Elkins")
        assert pulled(cli)["new"] == 1
        row = work(supabase, company(number))
        assert (row["rank"], row["long"]) == (3, "ELKINS")
