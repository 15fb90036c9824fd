"""The command `entities`: list, check a file, draft one; and what a wrong WORKER_ENTITIES does to every command. SPEC 7, 12."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from worker.entities.folder import FOLDER
from worker.entities.loader import read_file

TEXTS = {name: (FOLDER / f"{name}.toml").read_text() for name in ("company", "people")}
UNREACHABLE = "postgresql://somebody@127.0.0.1:1/nothing"


@pytest.fixture
def folder(env, tmp_path: Path) -> Path:
    """A folder of entity files that the worker reads."""
    folder = tmp_path / "entities"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.toml").write_text(text)
    env["WORKER_ENTITIES"] = str(folder)
    return folder


@pytest.fixture
def offline(env) -> None:
    env["NEON_DATABASE_URL"] = env["SUPABASE_DATABASE_URL"] = UNREACHABLE


def tables(*connections) -> list[list[dict]]:
    """All that there is in the databases, but its rows."""
    query = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname !~ '^(pg_|information_schema)' ORDER BY 1, 2"
    return [connection.execute(query).fetchall() for connection in connections]


def test_entities_lists_the_files_without_a_database(cli, folder, offline) -> None:
    done = cli("entities")
    assert done.returncode == 0, done.stderr
    assert f"company: {folder}/company.toml" in done.stdout
    assert "marketing.people_invalid -> public.people_needs_enrichment -> marketing.people_master" in done.stdout
    rows = json.loads(cli("entities", "--json").stdout)
    assert [row["name"] for row in rows] == ["company", "people"], "what others wait for comes first"
    assert rows[0] | {"rules_version": ""} == {
        "name": "company", "file": f"{folder}/company.toml", "invalid": "marketing.company_invalid",
        "master": "marketing.company_master", "workspace": "public.company_needs_enrichment", "rules_version": "",
    }  # fmt: skip
    assert len(rows[0]["rules_version"]) == 12


def test_entities_lists_those_that_come_with_the_worker_where_nothing_is_set(cli, env) -> None:
    del env["NEON_DATABASE_URL"], env["SUPABASE_DATABASE_URL"]
    assert str(FOLDER / "company.toml") in cli("entities").stdout


@pytest.mark.parametrize("name", ["company", "people"])
def test_check_finds_nothing_in_the_workers_own_files(cli, folder, prepared, name) -> None:
    done = cli("entities", "check", str(folder / f"{name}.toml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "in order, and the databases fit" in done.stdout


def test_check_goes_on_without_databases_and_says_so(cli, folder, offline, env) -> None:
    for _ in range(2):
        done = cli("entities", "check", str(folder / "people.toml"))
        assert done.returncode == 0
        assert "is in order" in done.stdout
        assert "databases fit" not in done.stdout
        assert "not compared" in done.stderr
        env.pop("NEON_DATABASE_URL", None)


def test_check_tells_every_mistake_with_its_line(cli, folder, offline) -> None:
    path = folder / "company.toml"
    path.write_text(
        TEXTS["company"].replace("plural", "plurl").replace('"INTEGER"', '"INTEGR"').replace("length = 2", "lenght = 2")
    )
    done = cli("entities", "check", str(path))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    number = {part: path.read_text().split(part)[0].count("\n") + 1 for part in ("plurl", "INTEGR", "lenght")}
    for part, right in (("plurl", "plural"), ("INTEGR", "INTEGER"), ("lenght", "length")):
        assert any(one.startswith(f"{path}:{number[part]}: ") and f"did you mean {right}?" in one for one in lines), (
            lines
        )


def test_check_tells_what_the_files_beside_it_make_wrong(cli, folder, offline) -> None:
    shop = folder / "shop.toml"
    shop.write_text(TEXTS["company"].replace("marketing.company_master", "marketing.people_master"))
    done = cli("entities", "check", str(shop))
    assert done.returncode == 1
    assert "marketing.company_invalid is a table of company already" in done.stdout
    assert "marketing.people_master is a table of people already" in done.stdout
    assert all(one.startswith(f"{shop}:") for one in done.stdout.splitlines())


def test_check_is_not_held_up_by_the_files_beside_it(cli, folder, offline) -> None:
    wait = '[[waits]]\nfield = "city"\nentity = "{}"\nnote = "Waiting."\n'
    for name, other in (("a", "b"), ("b", "a"), ("c", "nobody")):
        text = (
            TEXTS["company"].replace("company_", f"{name}_").replace("[master]", f"{wait.format(other)}\n[master]", 1)
        )
        (folder / f"{name}.toml").write_text(text)
    (folder / "broken.toml").write_text("x")
    assert cli("entities", "check", str(folder / "people.toml")).returncode == 0
    for name, said in (("a", "a, b wait for each other"), ("b", "a, b wait for each other"), ("c", "no entity nobody")):
        done = cli("entities", "check", str(folder / f"{name}.toml"))
        assert done.returncode == 1
        assert said in done.stdout


def test_check_tells_the_mistakes_of_a_file_that_it_waits_for(cli, folder, offline) -> None:
    (folder / "company.toml").write_text(TEXTS["company"].replace("plural", "plurl"))
    done = cli("entities", "check", str(folder / "people.toml"))
    assert done.returncode == 1
    assert f"{folder}/company.toml:2: plurl" in done.stdout


def test_check_of_one_file_apart_finds_what_it_waits_for_among_the_workers_own(cli, env, offline, tmp_path) -> None:
    (tmp_path / "people.toml").write_text(TEXTS["people"])
    done = cli("entities", "check", "people.toml")
    assert done.returncode == 0, done.stdout
    assert "is in order" in done.stdout


def test_check_finds_a_function_beside_the_file(cli, folder, offline) -> None:
    rule = '[[rules]]\nfield = "city"\nrule = "function"\nfunction = "cities_of_ours:known"\n\n[master]'
    path = folder / "company.toml"
    path.write_text(TEXTS["company"].replace("[master]", rule, 1))
    assert "cities_of_ours cannot be loaded" in cli("entities", "check", str(path)).stdout
    (folder / "cities_of_ours.py").write_text("def known(value, record):\n    return None\n")
    assert cli("entities", "check", str(path)).returncode == 0
    assert cli("entities").returncode == 0


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_check_of_no_file_is_a_usage_error(cli, folder, name) -> None:
    done = cli("entities", "check", str(folder / name))
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("side", "damage", "said"),
    [
        ("neon", "ALTER TABLE marketing.company_invalid DROP COLUMN industry", ("marketing.company_invalid", "industry", "ADD COLUMN")),
        ("neon", "ALTER TABLE marketing.company_invalid ALTER employee_count TYPE TEXT", ("employee_count", "text", "INTEGER")),
        ("neon", "ALTER TABLE marketing.company_master ADD region TEXT NOT NULL", ("marketing.company_master", "region", "NOT NULL")),
        ("neon", "ALTER TABLE marketing.company_master ALTER address_city TYPE DATE USING NULL", ("address_city", "date")),
        ("supabase", "ALTER TABLE company_needs_enrichment ALTER city TYPE INTEGER USING NULL", ("company_needs_enrichment", "city", "integer")),
    ],
    ids=["a missing column", "another type", "nothing fills it", "another type in the master", "another type in the workspace"],
)  # fmt: skip
def test_check_tells_what_the_databases_have_otherwise(
    cli, folder, prepared, neon, supabase, side, damage, said
) -> None:
    (neon if side == "neon" else supabase).execute(damage)
    done = cli("entities", "check", str(folder / "company.toml"))
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    for part in said:
        assert part.lower() in line.lower()
    assert cli("entities", "check", str(folder / "people.toml")).returncode == 0, "of the other nothing is said"


def test_check_says_what_setup_would_add_and_adds_nothing(cli, folder, neon, supabase) -> None:
    done = cli("entities", "check", str(folder / "company.toml"))
    assert done.returncode == 0, done.stdout
    assert "`setup` would add: table marketing.company_invalid" in done.stderr
    assert "people" not in done.stderr
    assert tables(neon, supabase) == [[], []]


def new(cli, name: str, invalid: str, master: str, *more: str):
    return cli("entities", "new", name, "--invalid", invalid, "--master", master, *more)


def test_new_drafts_the_workers_own_tables_and_check_accepts_it(cli, env, prepared, neon, supabase, tmp_path) -> None:
    before = tables(neon, supabase)
    done = new(cli, "firm", "marketing.company_invalid", "marketing.company_master")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "firm.toml"
    drafted = tomllib.loads(path.read_text())
    reference = tomllib.loads(TEXTS["company"])
    assert drafted["key"] == reference["key"]
    assert drafted["label"] == reference["label"]
    assert drafted["columns"] == reference["columns"]
    assert drafted["master"]["mapping"] == reference["master"]["mapping"]
    assert drafted["master"]["computed"] == reference["master"]["computed"]
    assert set(drafted["master"]["kept"]) == set(reference["master"]["kept"])
    checked = cli("entities", "check", str(path))
    assert checked.returncode == 0, checked.stdout
    assert "the databases fit" in checked.stdout
    assert tables(neon, supabase) == before
    again = new(cli, "firm", "marketing.people_invalid", "marketing.people_master")
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert tomllib.loads(path.read_text()) == drafted


ODD = '''
CREATE SCHEMA "Odd Data";
CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE TABLE "Odd Data"."Shops (old)" (x INTEGER);
CREATE TABLE "Odd Data"."Shop Invalid" (
  id BIGSERIAL PRIMARY KEY, "Shop No" TEXT NOT NULL UNIQUE, "Shop Name" VARCHAR(80), "Zip Code" CHAR(5), "E-Mail" TEXT,
  "order" TEXT, area NUMERIC(8, 2), opened DATE, "when" TIMESTAMP(3), since TIMESTAMPTZ, at TIME, tags TEXT[], hours JSONB,
  sunday BOOLEAN, ratio DOUBLE PRECISION, staff SMALLINT, mood public.mood, "Größe" INTEGER, price MONEY, blob BYTEA, span INT4RANGE,
  "Turnover ($)" NUMERIC, "two\nlines = ""x""" TEXT, loud TEXT GENERATED ALWAYS AS (upper("Shop Name")) STORED,
  reason_code TEXT, validation_errors JSONB, validation_warnings JSONB, batch_id TEXT,
  created_at TIMESTAMP DEFAULT now(), updated_at TIMESTAMP DEFAULT now(), enrichment_status TEXT, enriched_at TIMESTAMP, enriched_by TEXT,
  still_invalid BOOLEAN
);
CREATE TABLE "Odd Data"."Shop Master" (
  "Shop No" TEXT PRIMARY KEY, "Shop Name" TEXT NOT NULL, "Zip Code" CHAR(5), "Main E-Mail" TEXT, "order" TEXT, area NUMERIC(8, 2),
  opened DATE, "when" TIMESTAMP(3), since TIMESTAMPTZ, at TIME, tags TEXT[], hours JSONB, sunday BOOLEAN, ratio DOUBLE PRECISION,
  staff SMALLINT NOT NULL, "Größe" INTEGER, source_system TEXT NOT NULL, "owner's" TEXT NOT NULL, region TEXT NOT NULL,
  n INTEGER GENERATED ALWAYS AS IDENTITY, "Shop Name\n?" TEXT
);
'''


def test_new_drafts_tables_with_names_and_types_of_all_sorts(cli, env, prepared, neon, supabase, tmp_path) -> None:
    neon.execute(ODD)
    neon.execute("""ALTER TABLE "Odd Data"."Shop Master" ALTER "owner's" DROP NOT NULL""")
    out = tmp_path / "shop.toml"
    done = new(cli, "shop", '"Odd Data"."Shop Invalid"', '"Odd Data"."Shop Master"', "--out", str(out))
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    drafted = tomllib.loads(text)
    assert drafted["key"] == "Shop No"
    assert drafted["label"] == "Shop Name"
    assert drafted["columns"] == {
        "Shop Name": "VARCHAR(80)", "Zip Code": "CHARACTER(5)", "E-Mail": "TEXT", "order": "TEXT", "area": "NUMERIC(8,2)", "opened": "DATE",
        "when": "TIMESTAMP(3) WITHOUT TIME ZONE", "since": "TIMESTAMP WITH TIME ZONE", "at": "TIME WITHOUT TIME ZONE", "tags": "TEXT[]",
        "hours": "JSONB", "sunday": "BOOLEAN", "ratio": "DOUBLE PRECISION", "staff": "SMALLINT", "Größe": "INTEGER",
    }  # fmt: skip
    for left in ("mood", "price", "blob", "span", "Turnover ($)", "two", "loud"):
        assert any(line.startswith("#") and left in line and "left out" in line for line in text.splitlines()), left
    (guess,) = (line for line in text.splitlines() if line.startswith('"Main E-Mail"'))
    assert guess.startswith('"Main E-Mail" = "E-Mail"')
    assert "decide" in guess
    assert [rule["field"] for rule in drafted["rules"] if rule["rule"] == "required"] == ["Shop Name", "staff"]
    assert 'region = "NULL"          # decide: it is NOT NULL; until SQL or [slot] fills it, all are refused' in text
    undecided = cli("entities", "check", str(out))
    assert undecided.returncode == 0, undecided.stdout
    assert "region is filled with NULL: decide" in undecided.stderr, "what is not decided is told"
    out.write_text(text.replace('region = "NULL"', "region = \"'north'\""))
    checked = cli("entities", "check", str(out))
    assert (checked.returncode, checked.stdout[-40:].strip().endswith("the databases fit")) == (0, True), checked
    assert "public.shop_needs_enrichment" in checked.stderr
    declared, mistakes = read_file(out)
    assert declared, mistakes


def test_a_draft_goes_round_the_loop(cli, env, prepared, neon, supabase, folder) -> None:
    neon.execute(ODD)
    neon.execute("""ALTER TABLE "Odd Data"."Shop Master" ALTER "owner's" DROP NOT NULL, ALTER region DROP NOT NULL""")
    assert new(cli, "shop", '"Odd Data"."Shop Invalid"', '"Odd Data"."Shop Master"').returncode == 0
    path = folder / "shop.toml"
    path.write_text(
        path.read_text().replace("[master.computed]\n", "[master.computed]\nregion = \"r.batch_id || ' 100% {}'\"\n")
    )
    assert cli("setup").returncode == 0
    neon.execute(
        """INSERT INTO "Odd Data"."Shop Invalid" ("Shop No", "Zip Code", staff, batch_id, "when", hours, validation_errors)"""
        """ VALUES ('S7', '01234', 3, 'b1', '2025-11-07 16:00:00.123', '{"mon": 1}', '{}')"""
    )
    assert cli("pull").returncode == 0
    for name in ("", "Alder"):
        supabase.execute("UPDATE shop_needs_enrichment SET \"Shop Name\" = %s, enrichment_status = 'complete'", [name])
        done = cli("pipeline", "--yes")
        assert done.returncode == 0, done.stderr
        row = supabase.execute("SELECT * FROM shop_needs_enrichment").fetchone()
        assert row["reason_code"] == "EMPTY_SHOP_NAME" or row["promoted_at"], row
    master = neon.execute('SELECT * FROM "Odd Data"."Shop Master"').fetchone()
    assert (master["Shop No"], master["Shop Name"], master["region"]) == ("S7", "Alder", "b1 100% {}")
    assert str(master["when"]) == "2025-11-07 16:00:00.123000"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("shop", "marketing.nothing", "marketing.company_master"), 1, "no table marketing.nothing"),
        (("shop", "company_invalid", "marketing.company_master"), 2, "schema and its name"),
        (("shop", "marketing.Company", "marketing.company_master"), 2, "quotes"),
        (("shop", 'marketing."x; DROP TABLE y"', "marketing.company_master"), 2, "is no name"),
        (("Shop", "marketing.company_invalid", "marketing.company_master"), 2, "lower-case"),
        (("../shop", "marketing.company_invalid", "marketing.company_master"), 2, "lower-case"),
        (("shop\n", "marketing.company_invalid", "marketing.company_master"), 2, "lower-case"),
        (("shop", "marketing.company_invalid", "marketing.people_master"), 1, "no key in common"),
        (("shop", "public.needs", "marketing.company_master"), 1, "no table public.needs"),
    ],
)  # fmt: skip
def test_new_says_why_it_writes_nothing(cli, prepared, tmp_path, arguments, status, said) -> None:
    before = sorted(tmp_path.iterdir())
    done = new(cli, *arguments)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_new_cannot_write_where_there_is_no_folder_and_cannot_read_without_a_database(
    cli, env, prepared, tmp_path
) -> None:
    own = "marketing.company_invalid", "marketing.company_master"
    done = new(cli, "shop", *own, "--out", str(tmp_path / "missing" / "shop.toml"))
    assert done.returncode == 1
    assert str(tmp_path / "missing") in done.stderr
    env["NEON_DATABASE_URL"] = UNREACHABLE
    done = new(cli, "shop", *own)
    assert done.returncode == 3
    assert not (tmp_path / "shop.toml").exists()


def test_new_begins_an_empty_folder(cli, env, prepared, tmp_path) -> None:
    env["WORKER_ENTITIES"] = str(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    done = new(cli, "firm", "marketing.company_invalid", "marketing.company_master")
    assert done.returncode == 0, done.stderr
    assert json.loads(cli("entities", "--json").stdout)[0]["name"] == "firm"


COMMANDS = (
    ("entities",), ("entities", "--json"), ("setup",), ("setup", "--dry-run"), ("run",), ("pull",), ("push",), ("revalidate",),
    ("promote",), ("pipeline", "--yes"), ("status",), ("status", "--json"), ("history", "x"), ("undo", "x"), ("reconcile",), ("doctor",),
    ("pull", "--entity", "company"), ("entities", "new", "shop", "--invalid", "marketing.company_invalid", "--master", "marketing.company_master"),
)  # fmt: skip


def wrong_folder(how: str, env, tmp_path: Path) -> Path:
    folder = tmp_path / "wrong"
    env["WORKER_ENTITIES"] = str(folder)
    if how == "missing":
        return folder
    if how == "a file":
        folder.write_text("x")
        return folder
    folder.mkdir()
    if how == "a wrong file":
        (folder / "company.toml").write_text(TEXTS["company"].replace("plural", "plurl"))
        (folder / "people.toml").write_text("x")
    return folder


@pytest.mark.parametrize("how", ["missing", "a file", "empty", "a wrong file"])
def test_every_command_refuses_wrong_entities_by_name_and_does_nothing(
    cli, env, prepared, neon, supabase, tmp_path, how
) -> None:
    folder = wrong_folder(how, env, tmp_path)
    before = tables(neon, supabase)
    told = {}
    for command in COMMANDS:
        if command[:2] == ("entities", "new") and how in ("empty", "a wrong file"):
            continue  # that is where one begins; it reads no other file
        done = cli(*command)
        lines = done.stderr.splitlines()
        told[command] = (done.returncode, lines, done.stdout)
    expected = (
        [f"{folder}/company.toml:1: plural is missing", f"{folder}/company.toml:2: plurl: there is no such key; did you mean plural?", f"{folder}/people.toml:1: "]
        if how == "a wrong file"
        else [f"WORKER_ENTITIES: {folder}"]
    )  # fmt: skip
    for command, (status, lines, stdout) in told.items():
        assert (status, stdout) == (2, ""), (command, told[command])
        assert len(lines) == len(expected), (command, lines)
        for line, part in zip(lines, expected, strict=True):
            assert line.startswith(f"enrichment-worker: {part}"), command
    assert tables(neon, supabase) == before
    for connection, table in ((neon, "public.shq_validation_log"), (supabase, "enrichment_pull_position")):
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == []


def test_a_draft_of_the_customers_people_is_accepted_and_says_what_to_decide(cli, env, prepared, neon, folder) -> None:
    neon.execute(
        "CREATE SCHEMA crm; CREATE TABLE crm.staff (LIKE marketing.people_master INCLUDING ALL);"
        "CREATE TABLE crm.staff_invalid (LIKE marketing.people_invalid INCLUDING ALL)"
    )
    assert new(cli, "staff", "crm.staff_invalid", "crm.staff").returncode == 0
    checked = cli("entities", "check", str(folder / "staff.toml"))
    assert checked.returncode == 0, checked.stdout
    assert "company_slot_unique_id is filled with NULL: decide" in checked.stderr
    assert "decide: it is NOT NULL; until SQL or [slot] fills it" in (folder / "staff.toml").read_text()


def test_a_draft_casts_what_the_master_has_in_another_type(cli, env, prepared, neon, folder) -> None:
    neon.execute(
        "CREATE SCHEMA crm; CREATE TABLE crm.staff (no BIGINT PRIMARY KEY, name TEXT NOT NULL, badge UUID, born DATE);"
        "CREATE TABLE crm.staff_invalid (id SERIAL PRIMARY KEY, no BIGINT NOT NULL UNIQUE, name TEXT, badge TEXT, born TEXT,"
        " reason_code TEXT, validation_errors JSONB, validation_warnings JSONB, batch_id TEXT, created_at TIMESTAMP,"
        " updated_at TIMESTAMP DEFAULT now())"
    )
    assert new(cli, "staff", "crm.staff_invalid", "crm.staff").returncode == 0
    assert tomllib.loads((folder / "staff.toml").read_text())["master"]["computed"] == {
        "badge": "r.badge::uuid", "born": "r.born::date",
    }  # fmt: skip
    checked = cli("entities", "check", str(folder / "staff.toml"))
    assert checked.returncode == 0, checked.stdout
