"""Supabase's linter for databases finds nothing of level ERROR or WARN on what ``setup`` makes.

Its lints, by its documentation (https://supabase.com/docs/guides/database/database-linter), written anew. Each is first
seen to find what it looks for. Left out are those of what this project never makes: foreign tables, extensions, queues,
tables of ``auth`` and ``storage``; and those of level INFO.
"""

from __future__ import annotations

import pytest
from conftest import ROOT
from psycopg import sql
from records import Connection

pytestmark = pytest.mark.one_version

LINTS = {
    "0003_auth_rls_initplan": """
        SELECT polrelid::regclass || ': ' || polname FROM pg_policy, concat(
          regexp_replace(pg_get_expr(polqual, polrelid), '\\(\\s*SELECT[^()]*(auth\\.\\w+|current_setting)\\(', '', 'gi'),
          regexp_replace(pg_get_expr(polwithcheck, polrelid), '\\(\\s*SELECT[^()]*(auth\\.\\w+|current_setting)\\(', '', 'gi')
        ) AS bare
        WHERE bare ~* '(auth\\.(uid|jwt|role|email)|current_setting)\\s*\\('""",
    "0006_multiple_permissive_policies": """
        SELECT polrelid::regclass || ': ' || r.rolname || ' ' || c.command
        FROM pg_policy p JOIN pg_roles r ON r.oid = ANY (polroles) OR polroles = ARRAY[0::oid]
          JOIN unnest(ARRAY['r', 'a', 'w', 'd']) c (command) ON polcmd::text IN (c.command, '*')
        WHERE polpermissive AND NOT r.rolbypassrls AND r.rolname NOT LIKE 'pg\\_%%'
        GROUP BY polrelid, r.rolname, c.command HAVING count(*) > 1""",
    "0007_policy_exists_rls_disabled": """
        SELECT DISTINCT c.oid::regclass::text FROM pg_policy JOIN pg_class c ON c.oid = polrelid WHERE NOT relrowsecurity""",
    "0009_duplicate_index": """
        SELECT string_agg(indexrelid::regclass::text, ', ')
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
        WHERE c.relnamespace = ANY (ARRAY(SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$'))
        GROUP BY i.indrelid, x.relam, i.indkey::text, i.indclass::text, i.indoption::text, i.indcollation::text,
          pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid) HAVING count(*) > 1""",
    "0010_security_definer_view": """
        SELECT oid::regclass::text FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace
          AND NOT coalesce(lower(reloptions::text)::text[] && ARRAY['security_invoker=on', 'security_invoker=true',
            'security_invoker=yes', 'security_invoker=1'], false)
          AND (has_table_privilege('anon', oid, 'SELECT') OR has_table_privilege('authenticated', oid, 'SELECT'))""",
    "0011_function_search_path_mutable": """
        SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
          AND NOT EXISTS (SELECT FROM unnest(proconfig) s WHERE s LIKE 'search\\_path=%%')""",
    "0013_rls_disabled_in_public": """
        SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
          AND NOT relrowsecurity""",
    "0015_rls_references_user_metadata": """
        SELECT polrelid::regclass || ': ' || polname FROM pg_policy
        WHERE concat(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) LIKE '%%user\\_metadata%%'""",
    "0016_materialized_view_in_api": """
        SELECT oid::regclass::text FROM pg_class WHERE relkind = 'm' AND relnamespace = 'public'::regnamespace
          AND (has_table_privilege('anon', oid, 'SELECT') OR has_table_privilege('authenticated', oid, 'SELECT'))""",
    "0018_unsupported_reg_types": """
        SELECT attrelid::regclass || '.' || attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND attnum > 0
          AND atttypid::regtype::text IN ('regcollation', 'regconfig', 'regdictionary', 'regnamespace', 'regoper',
            'regoperator', 'regproc', 'regprocedure')""",
    "0024_permissive_rls_policy": """
        SELECT polrelid::regclass || ': ' || polname FROM pg_policy
        WHERE polpermissive AND (polroles = ARRAY[0::oid] OR polroles && ARRAY['anon'::regrole, 'authenticated'::regrole]::oid[])
          AND (polcmd IN ('r', '*') AND coalesce(pg_get_expr(polqual, polrelid), 'true') = 'true'
            OR pg_get_expr(polwithcheck, polrelid) = 'true')""",
    "0026_pg_graphql_anon_table_exposed": """
        SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'f')
          AND relnamespace = 'public'::regnamespace AND has_any_column_privilege('anon', oid, 'SELECT')""",
    "0027_pg_graphql_authenticated_table_exposed": """
        SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'f')
          AND relnamespace = 'public'::regnamespace AND has_any_column_privilege('authenticated', oid, 'SELECT')""",
    "0028_0029_security_definer_function_executable": """
        SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef
          AND (has_function_privilege('anon', oid, 'EXECUTE') OR has_function_privilege('authenticated', oid, 'EXECUTE'))""",
}
"""Name → a query of what it finds fault with."""

FAULTS = {
    "0003_auth_rls_initplan": "CREATE POLICY p ON faulty USING (note = current_setting('a.b'))",
    "0006_multiple_permissive_policies": "CREATE POLICY p ON faulty USING (id > 1); CREATE POLICY q ON faulty USING (id > 2)",
    "0007_policy_exists_rls_disabled": "CREATE POLICY p ON faulty USING (id > 1)",
    "0009_duplicate_index": "CREATE INDEX ON faulty (note); CREATE INDEX ON faulty (note)",
    "0010_security_definer_view": "CREATE VIEW faulty_view AS SELECT * FROM faulty",
    "0011_function_search_path_mutable": "CREATE FUNCTION faulty_f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "0013_rls_disabled_in_public": "",
    "0015_rls_references_user_metadata": "CREATE POLICY p ON faulty USING (note = 'user_metadata')",
    "0016_materialized_view_in_api": "CREATE MATERIALIZED VIEW faulty_view AS SELECT * FROM faulty",
    "0018_unsupported_reg_types": "ALTER TABLE faulty ADD COLUMN what regproc",
    "0024_permissive_rls_policy": "CREATE POLICY p ON faulty USING (true)",
    "0026_pg_graphql_anon_table_exposed": "",
    "0027_pg_graphql_authenticated_table_exposed": "",
    "0028_0029_security_definer_function_executable": (
        "CREATE FUNCTION faulty_f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'"
    ),
}
"""Name → what it must find fault with, beside a table of a careless project."""


def found_by(supabase: Connection, *names: str) -> dict[str, list[str]]:
    """Name → what it finds; without those that find nothing."""
    answers = {
        name: [next(iter(row.values())) for row in supabase.execute(sql.SQL(LINTS[name]).as_string(), {})]
        for name in names
    }
    return {name: found for name, found in answers.items() if found}


@pytest.mark.parametrize("name", LINTS)
def test_a_lint_finds_what_it_looks_for(project, supabase, name) -> None:
    supabase.execute("CREATE TABLE faulty (id int PRIMARY KEY, note text)")
    assert (name in found_by(supabase, name)) == (not FAULTS[name])
    supabase.execute(FAULTS[name] or "SELECT 1")
    assert "faulty" in str(found_by(supabase, name))


def test_the_linter_finds_nothing_on_what_setup_makes(cli, project, supabase) -> None:
    assert cli("setup").returncode == 0
    assert found_by(supabase, *LINTS) == {}
    supabase.execute((ROOT / "sql/roles/supabase.sql").read_text())
    assert found_by(supabase, *LINTS) == {}
    # A front end of signed-in users must read the tables: of these nothing else is found.
    supabase.execute((ROOT / "sql/optional/enrichers-policies.sql").read_text())
    assert found_by(supabase, *LINTS).keys() == {"0027_pg_graphql_authenticated_table_exposed"}
