"""Numbers keep every digit on the whole way, also within JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FILE = """
plural = "things"
label = "name"
key = { column = "no", type = "BIGINT" }
[tables]
invalid = "exact.things_invalid"
master = "exact.things"
workspace = "public.things_desk"
[columns]
name = "TEXT"
facts = "JSONB"
notes = "JSON"
amount = "NUMERIC"
[master]
mapping = { name = "name", facts = "facts", notes = "notes", amount = "amount" }
"""
FACTS = '{"n": 1.12345678901234567890123, "m": 1.50, "k": 12345678901234567890123456, "deep": [0.10, {"z": 1e-7}]}'
AMOUNT = "99999999999999999999.9999999999"


@pytest.fixture
def things(cli, neon, env, tmp_path):
    (tmp_path / "entities").mkdir()
    (tmp_path / "entities/thing.toml").write_text(FILE)
    env["WORKER_ENTITIES"] = str(tmp_path / "entities")
    neon.execute(
        "CREATE SCHEMA exact; CREATE TABLE exact.things (no BIGINT PRIMARY KEY, name TEXT, facts JSONB, notes JSON,"
        " amount NUMERIC, cents NUMERIC(12, 2))"
    )
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    neon.execute(
        "INSERT INTO exact.things_invalid (no, name, facts, notes, amount, reason_code, validation_errors)"
        " VALUES (1, 'One', %s, %s, %s, 'X', '{}')", [FACTS, FACTS, AMOUNT],
    )  # fmt: skip
    assert cli("pull").returncode == 0
    yield
    neon.execute("DROP SCHEMA exact CASCADE")


def shown(connection, table: str) -> dict[str, str]:
    return connection.execute(
        f"SELECT facts::text, notes::jsonb::text AS notes, amount::text FROM {table} WHERE no = 1"
    ).fetchone()


def test_what_nobody_edited_reaches_the_master_as_it_was(cli, things, neon, supabase) -> None:
    as_it_was = shown(neon, "exact.things_invalid")
    assert shown(supabase, "things_desk") == as_it_was
    supabase.execute("UPDATE things_desk SET name = 'Two', enrichment_status = 'complete'")
    assert cli("pipeline", "--yes").returncode == 0
    assert shown(neon, "exact.things") == as_it_was
    assert shown(supabase, "things_desk") == as_it_was
    said = cli("history", "1").stdout
    assert "amount" not in said, said
    assert "facts" not in said, said
    assert cli("undo", "1").returncode == 0
    assert shown(neon, "exact.things_invalid") == as_it_was
    assert cli("reconcile").returncode == 0


def test_what_an_enricher_types_keeps_its_digits_too(cli, things, neon, supabase) -> None:
    typed = '{"n": 0.1234567890123456789}'
    supabase.execute("UPDATE things_desk SET facts = %s, enrichment_status = 'complete'", [typed])
    assert cli("pipeline", "--yes").returncode == 0
    assert shown(neon, "exact.things")["facts"] == typed
    neon.execute("DELETE FROM exact.things; DELETE FROM exact.things_invalid")
    said = cli("reconcile", "--json")
    assert said.returncode in (0, 1), said.stderr
    assert isinstance(json.loads(said.stdout), dict | list)


def test_a_number_that_the_master_rounds_is_named(cli, things, neon, supabase, env) -> None:
    file = FILE.replace('amount = "amount"', 'cents = "amount"')
    Path(env["WORKER_ENTITIES"], "thing.toml").write_text(file)
    supabase.execute("UPDATE things_desk SET amount = 1.239, enrichment_status = 'complete'")
    assert cli("pipeline", "--yes").returncode == 0
    assert str(neon.execute("SELECT cents FROM exact.things").fetchone()["cents"]) == "1.24"
    note = supabase.execute("SELECT sync_note FROM things_desk").fetchone()["sync_note"]
    assert note == "Promoted to the master table. Not in the master as typed: amount."


def test_a_number_that_is_only_written_otherwise_is_not_named(cli, things, neon, supabase, env) -> None:
    file = FILE.replace('amount = "amount"', 'cents = "amount"')
    Path(env["WORKER_ENTITIES"], "thing.toml").write_text(file)
    supabase.execute("UPDATE things_desk SET amount = 1.5000, enrichment_status = 'complete'")
    assert cli("pipeline", "--yes").returncode == 0
    note = supabase.execute("SELECT sync_note FROM things_desk").fetchone()["sync_note"]
    assert note == "Promoted to the master table."


def test_what_a_trigger_of_the_master_changes_is_named(cli, things, neon, supabase) -> None:
    neon.execute(
        "CREATE FUNCTION exact.shout() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;"
        "CREATE TRIGGER shout BEFORE INSERT ON exact.things FOR EACH ROW EXECUTE FUNCTION exact.shout()"
    )
    supabase.execute("UPDATE things_desk SET name = 'Two', enrichment_status = 'complete'")
    assert cli("pipeline", "--yes").returncode == 0
    assert neon.execute("SELECT name FROM exact.things").fetchone()["name"] == "TWO"
    note = supabase.execute("SELECT sync_note FROM things_desk").fetchone()["sync_note"]
    assert note == "Promoted to the master table. Not in the master as typed: name."
