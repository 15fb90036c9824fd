"""Entity files beside tables as they really are: what does not fit is named with a way out that works."""

from __future__ import annotations

import re

import pytest

FILE = """
plural = "things"
label = "name"
key = {{ column = "no", type = "{key}" }}
[tables]
invalid = "odd.things_invalid"
master = "odd.things"
workspace = "{workspace}"
{more}
[columns]
name = "TEXT"
{columns}
[master]
mapping = {{ name = "name" }}
{rules}
"""


@pytest.fixture
def folder(env, tmp_path, neon):
    made = tmp_path / "entities"
    made.mkdir()
    env["WORKER_ENTITIES"] = str(made)
    neon.execute("CREATE SCHEMA odd")

    def write(name: str = "thing", **parts: str):
        parts = {"key": "BIGINT", "workspace": "public.things_desk", "more": "", "columns": "", "rules": ""} | parts
        (made / f"{name}.toml").write_text(FILE.format(**parts))
        return made / f"{name}.toml"

    yield write
    neon.execute("DROP SCHEMA odd CASCADE")


def add(neon, number: int, **columns) -> None:
    cells = {"no": number, "name": f"Thing {number}", "reason_code": "X", "validation_errors": "{}", **columns}
    names = ", ".join(f'"{name}"' for name in cells)
    marks = ", ".join(["%s"] * len(cells))
    neon.execute(f"INSERT INTO odd.things_invalid ({names}) VALUES ({marks})", list(cells.values()))


def test_a_pattern_that_takes_ages_flags_its_record_alone(folder, cli, neon, supabase, daemon, eventually) -> None:
    folder(rules='[[rules]]\nfield = "name"\nrule = "pattern"\npattern = "(a|aa)+$"')
    neon.execute("CREATE TABLE odd.things (no BIGINT PRIMARY KEY, name TEXT)")
    assert cli("setup").returncode == 0
    add(neon, 1)
    add(neon, 2)
    assert cli("pull").returncode == 0
    worker = daemon()
    supabase.execute("UPDATE things_desk SET name = CASE no WHEN 1 THEN %s ELSE 'aaa' END,"
                     " enrichment_status = 'complete'", ["a" * 60 + "!"])  # fmt: skip

    def row(number: int):
        return supabase.execute("SELECT * FROM things_desk WHERE no = %s", [number]).fetchone()

    eventually(lambda: row(2)["promoted_at"])
    eventually(lambda: row(1)["reason_code"] == "RULES_CRASHED")
    assert row(1)["name"].startswith("aaaa")
    assert worker.terminate() == 0, "it stops when it is told to"


def test_the_smallest_key_is_a_key(folder, cli, neon, supabase) -> None:
    folder(key="SMALLINT")
    neon.execute("CREATE TABLE odd.things (no SMALLINT PRIMARY KEY, name TEXT)")
    assert cli("setup").returncode == 0
    add(neon, -32768)
    add(neon, 32767)
    assert cli("pull", "--full").returncode == 0
    supabase.execute("UPDATE things_desk SET enrichment_status = 'complete'")
    done = cli("pipeline", "--yes")
    assert "PASSED: 2 things" in done.stderr
    assert "promoted 2 records" in done.stdout
    assert cli("history", "--", "-32768").returncode == 0
    assert cli("reconcile").returncode == 0


def test_a_table_of_others_that_is_missing_is_not_for_setup_to_make(folder, cli, neon) -> None:
    folder(more='reads = ["odd.elsewhere"]')
    neon.execute("CREATE TABLE odd.things (no BIGINT PRIMARY KEY, name TEXT)")
    done = cli("setup")
    assert done.returncode == 1, done.stdout
    assert "Neon has no table odd.elsewhere, which thing looks up" in done.stderr
    assert "run `enrichment-worker setup`" not in done.stderr
    neon.execute("CREATE TABLE odd.elsewhere ()")
    assert cli("setup").returncode == 0


def test_the_way_out_for_an_identity_key_works(folder, cli, neon) -> None:
    path = folder(key="INTEGER")
    neon.execute("CREATE TABLE odd.things (no INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT)")
    done = cli("setup")
    assert done.returncode == 1
    advice = re.search(r"ALTER TABLE .*;", done.stderr)[0]
    neon.execute(advice)
    assert cli("setup").returncode == 0
    assert cli("entities", "check", str(path)).returncode == 0


def test_a_column_that_a_trigger_fills_needs_nobody_else(folder, cli, neon, supabase) -> None:
    folder()
    neon.execute(
        "CREATE TABLE odd.things (no BIGINT PRIMARY KEY, name TEXT, slug TEXT NOT NULL);"
        "CREATE FUNCTION odd.slug() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.slug := lower(NEW.name); RETURN NEW; END $$"
    )
    assert "slug is NOT NULL" in cli("setup").stderr
    neon.execute("CREATE TRIGGER slug BEFORE INSERT ON odd.things FOR EACH ROW EXECUTE FUNCTION odd.slug()")
    assert cli("setup").returncode == 0
    add(neon, 1)
    assert cli("pull").returncode == 0
    supabase.execute("UPDATE things_desk SET enrichment_status = 'complete'")
    assert "promoted 1 records" in cli("pipeline", "--yes").stdout
    assert neon.execute("SELECT slug FROM odd.things").fetchone()["slug"] == "thing 1"


@pytest.mark.parametrize(
    ("workspace", "said"),
    [("public.needs_attention", "a table of the worker itself already"), ("pg_catalog.foo", "is Postgres' own")],
)
def test_names_that_are_taken_are_refused_before_anything_is_done(folder, cli, workspace, said) -> None:
    folder(workspace=workspace)
    done = cli("setup")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_number_waits_for_the_same_number_of_another_type(folder, cli, neon, supabase) -> None:
    folder(columns='parent = "NUMERIC"', more="", rules=(
        '[[waits]]\nfield = "parent"\nentity = "whole"\nnote = "Waiting: {key} is not there yet."'
    ))  # fmt: skip
    (folder("spare")).unlink()
    path = folder("whole", workspace="public.wholes_desk")
    path.write_text(path.read_text().replace("odd.things", "odd.wholes"))
    neon.execute("CREATE TABLE odd.things (no BIGINT PRIMARY KEY, name TEXT);"
                 "CREATE TABLE odd.wholes (no BIGINT PRIMARY KEY, name TEXT)")  # fmt: skip
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    add(neon, 1, parent="2.00")
    add(neon, 2, parent="3.00")
    neon.execute("INSERT INTO odd.wholes VALUES (2, 'Two')")
    assert cli("pull").returncode == 0
    supabase.execute("UPDATE things_desk SET enrichment_status = 'complete'")
    done = cli("pipeline", "--yes")
    assert "promoted 1 records" in done.stdout
    assert "2 was left: Waiting: 3 is not there yet." in done.stderr
    neon.execute("INSERT INTO odd.wholes_invalid (no, name, reason_code, validation_errors) VALUES (3, 'C', 'X', '{}')")
    assert cli("pull").returncode == 0
    supabase.execute("UPDATE wholes_desk SET enrichment_status = 'complete'")
    assert "promoted 1 records" in cli("pipeline", "--yes").stdout
    assert "promoted 1 records" in cli("pipeline", "--yes").stdout


def test_a_draft_takes_a_key_of_text_with_a_length(folder, cli, neon) -> None:
    neon.execute(
        "CREATE TABLE odd.things (code VARCHAR(50) PRIMARY KEY, name TEXT NOT NULL);"
        "CREATE TABLE odd.things_invalid (id SERIAL, code VARCHAR(50) PRIMARY KEY, name TEXT, reason_code TEXT,"
        " validation_errors JSONB)"
    )
    folder()
    done = cli("entities", "new", "drafted", "--invalid", "odd.things_invalid", "--master", "odd.things")
    assert done.returncode == 0, done.stderr
