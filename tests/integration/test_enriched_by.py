"""Who enriched a row: what he typed, else his token, else the dashboard's user, else the role. SPEC 3."""

from __future__ import annotations

import secrets

import pytest
from records import add_companies, company, work

USER = "9d3b4c1e-1111-4a2b-8c3d-0123456789ab"
COMMENT = f"\n\n-- source: dashboard\n-- user: {USER}\n-- date: 2026-11-27T10:00:00.000Z\n"


@pytest.fixture
def pulled(cli, prepared, neon):
    add_companies(neon, 1, 2, 3)
    assert cli("pull").returncode == 0


def flip(supabase, number: int, more: str = "", after: str = COMMENT) -> str:
    supabase.execute(
        f"UPDATE company_needs_enrichment SET enrichment_status = 'complete'{more}"
        f" WHERE company_unique_id = '{company(number)}'{after}".encode()
    )
    return work(supabase, company(number))["enriched_by"]


def test_the_dashboards_user_is_named(pulled, supabase) -> None:
    assert flip(supabase, 1) == USER
    supabase.execute("INSERT INTO enrichment_enrichers VALUES (%s, 'Robin')", [USER])
    assert flip(supabase, 2) == "Robin"
    assert flip(supabase, 3, after="") == "postgres", "the statement before is forgotten"


def test_who_may_not_read_the_names_is_shown_by_the_id(pulled, supabase) -> None:
    """As the dashboard does it for a role that one impersonates there."""
    supabase.execute("INSERT INTO enrichment_enrichers VALUES (%s, 'Robin')", [USER])
    role = f"writer_{secrets.token_hex(4)}"
    supabase.execute(
        f"CREATE ROLE {role} BYPASSRLS; GRANT USAGE ON SCHEMA public TO {role};"
        f"GRANT SELECT, UPDATE ON company_needs_enrichment TO {role}; SET ROLE {role}"
    )
    try:
        assert flip(supabase, 1) == USER
        supabase.execute(f"RESET ROLE; GRANT SELECT ON enrichment_enrichers TO {role}; SET ROLE {role}")
        assert flip(supabase, 2) == "Robin"
    finally:
        supabase.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


def test_what_was_typed_and_the_token_come_first(pulled, supabase) -> None:
    assert flip(supabase, 1, ", enriched_by = 'kim@alder.example'") == "kim@alder.example"
    supabase.execute("BEGIN")
    supabase.execute("""SELECT set_config('request.jwt.claims', '{"email": "robin@alder.example"}', true)""")
    assert flip(supabase, 2) == "robin@alder.example"
    supabase.execute("COMMIT")


@pytest.mark.parametrize(
    "after",
    [
        f"\n-- user: {USER}",
        "\n-- source: dashboard\n-- user: self host\n",
        f"\n-- source: elsewhere\n-- user: {USER}",
        f"\n-- source: dashboard\n-- user: {USER}\n" + "-- " + "x" * 2000,
    ],
)
def test_no_other_comment_names_anybody(pulled, supabase, after) -> None:
    assert flip(supabase, 1, after=after) == "postgres"


def test_an_import_names_him_too(pulled, supabase) -> None:
    values = ", ".join(f"('{company(n)}', 'a.example', 'complete')" for n in (1, 2, 3))
    supabase.execute(
        f"INSERT INTO company_repairs (company_unique_id, website, enrichment_status) VALUES {values}{COMMENT}".encode()
    )
    assert {work(supabase, company(n))["enriched_by"] for n in (1, 2, 3)} == {USER}
