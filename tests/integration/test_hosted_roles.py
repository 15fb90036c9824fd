"""As hosted: nobody is a superuser. Neon's owner, Supabase's ``postgres`` with CREATEROLE and BYPASSRLS, its API's roles, and
default privileges that give those everything. SPEC 11.
"""

from __future__ import annotations

import json
import secrets

import pytest
from conftest import ROOT, Databases, as_role, connect
from records import add_companies, add_people, add_slot, company, complete, master, person, work

pytestmark = pytest.mark.one_version

WORKER = "enrichment_worker"
OWNERS = {
    "neon": ("neondb_owner", "CREATEDB CREATEROLE REPLICATION BYPASSRLS"),
    "supabase": ("project_owner", "CREATEDB CREATEROLE REPLICATION BYPASSRLS"),
}
API = """
CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN; CREATE ROLE service_role NOLOGIN BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated, service_role TO authenticator, project_owner;
CREATE ROLE supabase_admin SUPERUSER LOGIN;
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role
"""


@pytest.fixture
def databases(own_servers) -> Databases:
    """Two databases of owners who are no superusers."""
    urls = []
    for server, (side, (owner, attributes)) in zip(own_servers, OWNERS.items(), strict=True):
        server.create_database(side)
        password = secrets.token_hex(8)
        with connect(server.url(side)) as admin:
            admin.execute(f"CREATE ROLE {owner} LOGIN NOSUPERUSER {attributes} PASSWORD '{password}'")
            admin.execute(f"ALTER DATABASE {side} OWNER TO {owner}")
            if side == "supabase":
                admin.execute(API)
                for creator in ("supabase_admin", owner):
                    for things in ("TABLES", "FUNCTIONS", "SEQUENCES"):
                        admin.execute(
                            f"ALTER DEFAULT PRIVILEGES FOR ROLE {creator} IN SCHEMA public"
                            f" GRANT ALL ON {things} TO postgres, anon, authenticated, service_role"
                        )
        urls.append(as_role(server.url(side), owner, password))
    return Databases(*urls)


def test_setup_roles_the_loop_and_doctor_need_no_superuser(env, cli, databases, daemon, eventually) -> None:
    for _ in range(2):
        done = cli("setup")
        assert done.returncode == 0, done.stderr
    password = secrets.token_hex(8)
    urls = {"neon": databases.neon_url, "supabase": databases.supabase_url}
    for side, url in urls.items():
        with connect(url) as owner:
            for _ in range(2):
                owner.execute((ROOT / "sql/roles" / f"{side}.sql").read_text())
            owner.execute(f"ALTER ROLE {WORKER} PASSWORD '{password}'")
    with connect(urls["supabase"]) as owner:
        open_to = owner.execute(
            "SELECT c.oid::regclass::text AS what, r.role FROM pg_class c, unnest(ARRAY['anon', 'authenticated']) r (role)"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
            " AND has_table_privilege(r.role, c.oid, 'SELECT, INSERT, UPDATE, DELETE')"
        ).fetchall()
        assert open_to == []
        owner.execute((ROOT / "sql/optional/enrichers-policies.sql").read_text())
    env["NEON_DATABASE_URL"], env["SUPABASE_DATABASE_URL"] = (as_role(url, WORKER, password) for url in urls.values())

    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert "error" not in {one["level"] for one in json.loads(done.stdout)}
    with connect(urls["neon"]) as neon, connect(urls["supabase"]) as supabase:
        add_companies(neon, 1, 2)
        add_slot(neon, 1, of=1)
        add_people(neon, 1, of=1)
        worker = daemon()
        eventually(lambda: supabase.execute("SELECT count(*) AS n FROM people_needs_enrichment").fetchone()["n"])
        eventually(lambda: supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment").fetchone()["n"] == 2)
        complete(supabase, person(1), email="robin@one.example")
        complete(supabase, company(2), website="n/a")
        eventually(lambda: work(supabase, company(2))["enrichment_status"] == "failed")
        eventually(lambda: work(supabase, person(1))["waiting_for"])
        complete(supabase, company(1), website="https://one.example")
        eventually(lambda: work(supabase, person(1))["promoted_at"])
        assert master(neon, company(1))["validated_by"] == OWNERS["supabase"][0]
        assert worker.terminate() == 0
        assert cli("undo", person(1)).returncode == 0
        assert cli("reconcile").returncode == 0
