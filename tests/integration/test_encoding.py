"""Text is UTF-8 on every connection, whatever a database, a role or the environment say; and what other encodings do."""

from __future__ import annotations

import pooler
import pytest
from conftest import Databases, connect
from findings import findings
from psycopg import sql
from records import add_companies, company, complete, edit, master, work

NAME = "Łódź Möbel 株式会社"
CITY = "Zürich"


def round_trip(cli, daemon, neon, supabase, eventually) -> None:
    add_companies(neon, 1, company_name=NAME)
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT FROM company_needs_enrichment").fetchone() is not None)
    assert work(supabase, company(1))["company_name"] == NAME
    complete(supabase, company(1), website="https://one.example", city=CITY)
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    promoted = master(neon, company(1))
    assert promoted is not None
    assert (promoted["company_name"], promoted["address_city"]) == (NAME, CITY)
    add_companies(neon, 2, company_name=NAME)
    assert cli("pull").returncode == 0
    edit(supabase, company(2), city="Köln")
    assert cli("history", company(1)).returncode == 0
    assert cli("undo", company(1)).returncode == 0
    assert work(supabase, company(1))["city"] == CITY
    assert worker.terminate() == 0


@pytest.mark.parametrize("where", ["database", "role", "environment"])
def test_text_comes_through_whatever_says_latin1(cli, prepared, env, daemon, neon, supabase, eventually, where) -> None:
    if where == "environment":
        env["PGCLIENTENCODING"] = "LATIN1"
    for connection in (neon, supabase):
        database, role = (sql.Identifier(name) for name in (connection.info.dbname, connection.info.user))
        what = {"database": sql.SQL("DATABASE {}").format(database),
                "role": sql.SQL("ROLE {} IN DATABASE {}").format(role, database)}.get(where)  # fmt: skip
        if what:
            connection.execute(sql.SQL("ALTER {} SET client_encoding = 'LATIN1'").format(what))
    round_trip(cli, daemon, neon, supabase, eventually)
    assert cli("doctor").returncode == 0


@pytest.mark.skipif(not pooler.installed(), reason="pgbouncer is not installed: apt install pgbouncer")
def test_text_comes_through_behind_a_pooler_too(
    cli, prepared, env, databases, daemon, neon, supabase, eventually
) -> None:
    for connection in (neon, supabase):
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET client_encoding = 'LATIN1'").format(name))
    with pooler.Pooler(databases.neon_url) as there, pooler.Pooler(databases.supabase_url) as here:
        env.update(
            NEON_DATABASE_URL=there.url, SUPABASE_DATABASE_URL=here.url, SUPABASE_LISTEN_URL=databases.supabase_url
        )
        round_trip(cli, daemon, neon, supabase, eventually)


@pytest.fixture
def encoded(pg_server, env, request):
    """Two new databases, one of them in another encoding: ``Neon-LATIN1``."""
    side, encoding = request.param.split("-")
    names = {name: f"{name.lower()}_{encoding.lower()}_{side.lower()}" for name in ("Neon", "Supabase")}
    with connect(pg_server.url()) as admin:
        for name, database in names.items():
            kind = encoding if name == side else "UTF8"
            admin.execute(
                f"CREATE DATABASE {database} ENCODING '{kind}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        urls = Databases(*(pg_server.url(names[name]) for name in ("Neon", "Supabase")))
        env.update(NEON_DATABASE_URL=urls.neon_url, SUPABASE_DATABASE_URL=urls.supabase_url)
        yield urls
        for database in names.values():
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.mark.parametrize(
    "encoded", ["Neon-LATIN1", "Supabase-LATIN1", "Neon-SQL_ASCII", "Supabase-WIN1252"], indirect=True
)
def test_a_database_that_cannot_store_every_text_is_refused_by_name_before_anything_is_written(
    encoded, request, cli
) -> None:
    side, encoding = request.node.callspec.params["encoded"].split("-")
    for command in ("setup", "pull", "run"):
        done = cli(command)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert f"{side}'s database has the encoding {encoding}, not UTF8" in line
        assert "ENCODING 'UTF8'" in line
    found = findings(cli)
    assert found[f"{side} encoding"]["level"] == "problem"
    assert encoding in found[f"{side} encoding"]["text"]
    assert found[f"{'Supabase' if side == 'Neon' else 'Neon'} encoding"]["level"] == "ok"
    assert cli("doctor").returncode == 1
