"""``doctor`` proves that the public API shows nobody the workspace, and says what it could not prove. SPEC 7."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from findings import findings
from records import add_companies

pytestmark = [pytest.mark.one_version, pytest.mark.needs_view]

KEY = "sb_publishable_7f3a"
DENIED = (401, {"code": "42501", "message": "permission denied for table company_needs_enrichment"})
UNKNOWN_TABLE = (404, {"code": "PGRST205", "message": "Could not find the table in the schema cache"})
TABLES = (
    "company_needs_enrichment",
    "people_needs_enrichment",
    "enrichment_pull_position",
    "enrichment_outbox",
    "needs_attention",
)


@pytest.fixture
def api(env) -> Iterator[ThreadingHTTPServer]:
    """Answers as PostgREST does: ``answers`` by table, else ``answer``."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            table = urlsplit(self.path).path.rpartition("/")[2]
            self.server.asked.append(table)
            status, body = self.server.answers.get(table, self.server.answer)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.answer, server.answers, server.asked = DENIED, {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    env |= {"SUPABASE_URL": f"http://127.0.0.1:{server.server_port}", "SUPABASE_API_KEY": KEY}
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def found(cli) -> dict[str, str]:
    return findings(cli)["public API"]


@pytest.mark.parametrize(
    "answer",
    [DENIED, (403, DENIED[1]), UNKNOWN_TABLE, (406, {"code": "PGRST106", "message": "The schema must be one of: api"})],
)
def test_the_refusal_of_the_database_or_of_postgrest_is_proof(cli, prepared, api, answer) -> None:
    api.answer = answer
    said = found(cli)
    assert said["level"] == "ok"
    assert set(TABLES) <= set(api.asked)
    for table in TABLES:
        assert f"public.{table}" in said["text"]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((401, {"message": "Invalid API key", "hint": "Double check your Supabase API key."}), "SUPABASE_API_KEY"),
        ((401, {"message": "no"}), "SUPABASE_API_KEY"),
        ((401, {"code": "PGRST301", "message": "JWSError JWSInvalidSignature"}), "SUPABASE_API_KEY"),
        ((401, b"<html>who are you?</html>"), "SUPABASE_API_KEY"),
        ((404, b"<html>not here</html>"), "SUPABASE_URL"),
        ((404, {"message": "no Route matched with those values"}), "SUPABASE_URL"),
        ((404, {"code": "42P01", "message": "relation does not exist"}), "SUPABASE_URL"),
        ((403, b"blocked"), "SUPABASE_URL"),
        ((200, b"<html>a web page</html>"), "SUPABASE_URL"),
        ((200, {"rows": []}), "SUPABASE_URL"),
        ((500, {"code": "XX000"}), "again"),
        ((503, b""), "again"),
    ],
)
def test_what_is_no_refusal_of_theirs_proves_nothing(cli, prepared, api, answer, hint) -> None:
    api.answer = answer
    said = found(cli)
    assert said["level"] == "warning"
    assert "not proved" in said["text"]
    assert "needs_attention" in said["text"]
    assert hint in said["hint"]
    assert cli("doctor").returncode == 0


@pytest.mark.parametrize("table", TABLES)
def test_one_table_that_is_shown_is_named(cli, prepared, api, table) -> None:
    api.answers[table] = (200, [{"id": 1}])
    said = found(cli)
    assert said["level"] == "problem"
    assert f"shows public.{table} to anybody" in said["text"]
    assert cli("doctor").returncode == 1


@pytest.mark.parametrize("table", ["people_needs_enrichment", "needs_attention"])
def test_one_table_that_could_not_be_asked_for_is_named(cli, prepared, api, table) -> None:
    api.answers[table] = (504, b"")
    said = found(cli)
    assert said["level"] == "warning"
    assert f"not proved that it hides public.{table}: " in said["text"]


def test_an_empty_list_is_proof_where_rows_are_hidden_or_none_could_be_seen(cli, prepared, api, neon, supabase) -> None:
    api.answer = (200, [])
    assert found(cli)["level"] == "ok", "row level security lets nobody in"
    # With a policy for strangers an empty list says nothing of an empty table.
    supabase.execute(
        "DO $$ BEGIN CREATE ROLE anon; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "CREATE POLICY theirs ON company_needs_enrichment FOR SELECT TO anon USING (city = 'Ripley')"
    )
    said = found(cli)
    assert said["level"] == "warning"
    assert "public.company_needs_enrichment" in said["text"]
    assert "public.needs_attention" in said["text"], "a view of it shows what it does"
    assert "public.people_needs_enrichment" not in said["text"]
    add_companies(neon, 1)
    assert cli("pull").returncode == 0
    assert found(cli)["level"] == "ok", "there is a row, and it was not shown"


def test_an_empty_list_proves_nothing_where_supabase_cannot_be_asked(cli, prepared, env, api) -> None:
    api.answer = (200, [])
    env["SUPABASE_DATABASE_URL"] = "postgresql://somebody@127.0.0.1:1/none"
    said = found(cli)
    assert said["level"] == "warning"
    assert "not known" in said["text"]


@pytest.mark.parametrize("key", ["key with blanks\nand lines", "ключ-9d0c"])
def test_a_key_that_no_header_carries_is_not_shown(cli, prepared, env, api, key) -> None:
    env["SUPABASE_API_KEY"] = key
    said = found(cli)  # which looks for the key in what is said
    assert said["level"] == "warning"
    assert "SUPABASE_API_KEY" in said["text"]


def test_where_nothing_answers_it_is_said_to_be_unproved(cli, prepared, env) -> None:
    env |= {"SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_API_KEY": KEY}
    said = found(cli)
    assert said["level"] == "warning"
    assert "SUPABASE_URL" in said["hint"]


@pytest.mark.parametrize("kind", ["jwt", "new"])
def test_the_service_key_is_not_taken_for_a_strangers(cli, prepared, env, api, kind) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"role": "service_role"}).encode()).decode().rstrip("=")
    env["SUPABASE_API_KEY"] = f"h.{claims}.s" if kind == "jwt" else "sb_secret_51d0"
    said = found(cli)
    assert said["level"] == "warning"
    assert "anon" in said["hint"]
    assert not api.asked
