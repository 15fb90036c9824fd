"""Columns with the names that the worker's own statements use for rows: a whole row is never taken for one of them."""

from __future__ import annotations

import string

import pytest
from psycopg import sql

LETTERS = tuple(string.ascii_lowercase)
WORDS = (
    "row",
    "old",
    "new",
    "data",
    "hash",
    "key",
    "before",
    "record",
    "action",
    "version",
    "code",
    "value",
    "excluded",
)
NAMES = (*LETTERS, *WORDS)
FILE = """
singular = "thing"
plural = "things"
label = "name"
key = { column = "no", type = "BIGINT" }
[tables]
invalid = "odd.things_invalid"
master = "odd.things"
workspace = "public.things_desk"
[columns]
name = "TEXT"
%s
[[rules]]
field = "name"
rule = "required"
[master]
mapping = { name = "name", %s }
"""


@pytest.fixture(params=["TEXT", "NUMERIC", "JSONB"])
def things(request, cli, neon, supabase, env, tmp_path):
    """Set up; the master's columns of these names are of this type, and its letters are not carried but ``a`` to ``m``."""
    carried = [name for name in NAMES if name not in LETTERS[13:]]
    folder = tmp_path / "entities"
    folder.mkdir()
    columns = "\n".join(f'{name} = "{request.param}"' for name in NAMES)
    mapping = ", ".join(f'{name} = "{name}"' for name in carried)
    (folder / "thing.toml").write_text(FILE % (columns, mapping))
    env["WORKER_ENTITIES"] = str(folder)
    listed = ", ".join(f'"{name}" {request.param}' for name in NAMES)
    neon.execute(f"CREATE SCHEMA odd; CREATE TABLE odd.things (no BIGINT PRIMARY KEY, name TEXT NOT NULL, {listed})")
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    yield {"TEXT": "old", "NUMERIC": 1.5, "JSONB": '{"no": 99, "name": "EVIL"}'}[request.param]
    neon.execute("DROP SCHEMA odd CASCADE")


def add(neon, table: str, number: int, value, **columns) -> None:
    cells = {"no": number, "name": f"Thing {number}", **dict.fromkeys(NAMES, value), **columns}
    neon.execute(
        sql.SQL("INSERT INTO odd.{} ({}) VALUES ({})").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, cells)),
            sql.SQL(", ").join([sql.Placeholder()] * len(cells)),
        ),
        list(cells.values()),
    )  # fmt: skip


def test_they_go_round_the_whole_loop_and_back(cli, things, neon, supabase) -> None:
    for number in (1, 2, 3):
        add(neon, "things_invalid", number, things, validation_errors="{}", reason_code="EMPTY_NAME")
    add(neon, "things", 2, things, name="before")
    was = neon.execute("SELECT * FROM odd.things WHERE no = 2").fetchone()
    invalid = neon.execute("SELECT * FROM odd.things_invalid WHERE no = 2").fetchone()
    assert "pulled 3 things" in cli("pull").stdout
    assert "pulled 0 things, 0 changed" in cli("pull", "--full").stdout
    supabase.execute("UPDATE things_desk SET enrichment_status = 'complete'")
    supabase.execute("UPDATE things_desk SET name = ' ' WHERE no = 3")
    done = cli("pipeline", "--yes")
    assert done.returncode == 0, done.stderr
    rows = {row["no"]: row for row in supabase.execute("SELECT * FROM things_desk").fetchall()}
    assert {no: row["enrichment_status"] for no, row in rows.items()} == {1: "complete", 2: "complete", 3: "failed"}
    assert rows[1]["promoted_at"] is not None
    assert rows[3]["validation_errors"].keys() == {"name"}
    now = neon.execute("SELECT * FROM odd.things WHERE no = 1").fetchone()
    assert all(now[name] == rows[1][name] for name in ("name", "a", "m", "row", "data"))
    said = cli("history", "2")
    assert said.returncode == 0, said.stderr
    assert "nested" not in said.stdout
    assert "not in the workspace" not in said.stdout
    done = cli("undo", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert neon.execute("SELECT * FROM odd.things WHERE no = 2").fetchone() == was
    back = neon.execute("SELECT * FROM odd.things_invalid WHERE no = 2").fetchone()
    assert {name: back[name] for name in NAMES} == {name: invalid[name] for name in NAMES}
    done = cli("reconcile")
    assert done.returncode == 0, done.stdout + done.stderr
    neon.execute("DELETE FROM odd.things_invalid WHERE no = 3")
    assert cli("pull", "--full").returncode == 0
    assert cli("status").returncode == 0
    if supabase.info.server_version >= 150000:  # older ones have no view
        seen = supabase.execute("SELECT count(*) AS n FROM needs_attention WHERE entity = 'thing'").fetchone()
        assert seen["n"] == 2
