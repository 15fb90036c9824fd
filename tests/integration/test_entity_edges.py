"""Entities whose files meet in one key, change under data that is there, or hold what breaks carelessly written code."""

from __future__ import annotations

from pathlib import Path

import pytest

KIOSK = """
plural = "{name}s"
key = {{ column = "no", type = "BIGINT" }}
label = "label"
[tables]
invalid = "retail.{name}_invalid"
master = "retail.{name}_master"
workspace = "public.{name}_desk"
[columns]
label = "TEXT"
price = "NUMERIC"
opened = "DATE"
[[rules]]
field = "label"
rule = "required"
[master.mapping]
label = "label"
price = "price"
opened = "opened"
"""


@pytest.fixture
def files(tmp_path, env) -> Path:
    """Two entities keyed by numbers."""
    folder = tmp_path / "entities"
    folder.mkdir()
    for name in ("kiosk", "stall"):
        (folder / f"{name}.toml").write_text(KIOSK.format(name=name))
    env["WORKER_ENTITIES"] = str(folder)
    return folder


def add(neon, name: str, number: int, **columns) -> None:
    names = ["no", "reason_code", "validation_errors", *columns]
    values = ", ".join(["%s"] * len(names))
    neon.execute(
        f"INSERT INTO retail.{name}_invalid ({', '.join(names)}) VALUES ({values})",
        [number, "X", "{}", *columns.values()],
    )


def of(connection, table: str, number: int):
    return connection.execute(f"SELECT * FROM {table} WHERE no = %s", [number]).fetchone()


def complete(supabase, name: str, number: int, **columns) -> None:
    pairs = ", ".join([*(f"{column} = %s" for column in columns), "enrichment_status = 'complete'"])
    supabase.execute(f"UPDATE {name}_desk SET {pairs} WHERE no = %s", [*columns.values(), number])


def test_a_key_of_two_entities_promotes_undoes_and_tells_nothing_until_the_entity_is_named(
    cli, databases, files, neon, supabase
) -> None:
    assert cli("setup").returncode == 0
    add(neon, "kiosk", 42, label="never touched")
    add(neon, "stall", 42)
    assert cli("pull").returncode == 0
    complete(supabase, "stall", 42, label="repaired")
    assert cli("push").returncode == 0
    assert cli("revalidate").stdout == "42\n"
    refused = cli("promote", input="42\n")
    assert (refused.returncode, "is a key of kiosk and of stall: say which with --entity" in refused.stderr) == (
        1,
        True,
    )
    assert of(neon, "retail.kiosk_master", 42) is None
    assert of(neon, "retail.stall_master", 42) is None
    assert cli("promote", "--entity", "stall", input="42\n").returncode == 0
    complete(supabase, "kiosk", 42)
    assert cli("pipeline", "--yes").returncode == 0
    assert of(neon, "retail.kiosk_master", 42)["label"] == "never touched"
    for command in ("history", "undo"):
        asked = cli(command, "42")
        assert (asked.returncode, "say which with --entity" in asked.stderr) == (1, True)
        assert cli(command, "--entity", "kiosk", "42").returncode == 0
    assert of(neon, "retail.kiosk_master", 42) is None
    assert of(neon, "retail.stall_master", 42) is not None


def test_a_changed_file_makes_no_row_look_edited(cli, databases, files, neon, supabase) -> None:
    path = files / "kiosk.toml"
    path.write_text(
        path.read_text()
        .replace('price = "NUMERIC"', 'price = "REAL"')
        .replace('opened = "DATE"', 'opened = "DATE"\nzip = "TEXT"')
    )
    assert cli("setup").returncode == 0
    add(neon, "kiosk", 1, price=1.5, zip="x")
    assert cli("pull").returncode == 0
    complete(supabase, "kiosk", 1)
    assert cli("push").returncode == 0
    path.write_text(KIOSK.format(name="kiosk"))
    for connection, table in ((neon, "retail.kiosk_invalid"), (supabase, "kiosk_desk")):
        connection.execute(f"ALTER TABLE {table} ALTER COLUMN price TYPE NUMERIC USING (price || '0')::numeric")
    assert cli("setup").returncode == 0
    done = cli("revalidate")
    assert "FAILED: 1 kiosk" in done.stderr, done.stderr
    assert "taken it back" not in done.stderr


def test_a_record_in_the_master_keeps_a_date_that_the_invalid_one_lacks(cli, databases, files, neon, supabase) -> None:
    assert cli("setup").returncode == 0
    neon.execute("ALTER TABLE retail.kiosk_master ALTER opened SET NOT NULL, ADD closed boolean NOT NULL DEFAULT false")
    neon.execute("INSERT INTO retail.kiosk_master (no, label, opened) VALUES (1, 'old', '2020-02-29')")
    add(neon, "kiosk", 1, price="1.50")
    assert cli("pull").returncode == 0
    complete(supabase, "kiosk", 1, label="new")
    assert cli("pipeline", "--yes").returncode == 0, of(supabase, "kiosk_desk", 1)
    there = of(neon, "retail.kiosk_master", 1)
    assert (there["label"], str(there["opened"]), str(there["price"])) == ("new", "2020-02-29", "1.50")
    assert "normalised" not in cli("history", "--entity", "kiosk", "1").stdout
    # Only the ledger is emptied: the values prove the promotion.
    neon.execute("TRUNCATE marketing.enrichment_ledger, marketing.enrichment_receipts")
    assert cli("pull").returncode == 0
    assert of(supabase, "kiosk_desk", 1)["promoted_at"] is not None


@pytest.mark.needs_view
def test_the_view_follows_an_entity_with_other_types(cli, prepared, files, neon, supabase, env) -> None:
    if supabase.info.server_version < 150000:
        return
    supabase.execute("DROP VIEW needs_attention")
    supabase.execute("CREATE VIEW needs_attention AS SELECT 'x'::varchar(9) AS entity, 1 AS key")
    supabase.execute("CREATE ROLE looker")
    supabase.execute("GRANT SELECT ON needs_attention TO looker")
    path = files / "kiosk.toml"
    path.write_text(path.read_text().replace('label = "TEXT"', 'label = "VARCHAR(80)"'))
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert supabase.execute("SELECT has_table_privilege('looker', 'needs_attention', 'SELECT') AS may").fetchone()[
        "may"
    ]
    assert "label" not in supabase.execute("SELECT * FROM needs_attention").fetchall()
    supabase.execute("DROP OWNED BY looker")
    supabase.execute("DROP ROLE looker")


def test_a_key_type_that_holds_too_little_is_named(cli, databases, files, neon) -> None:
    assert cli("setup").returncode == 0
    path = files / "kiosk.toml"
    path.write_text(path.read_text().replace("BIGINT", "INTEGER"))
    done = cli("setup")
    assert done.returncode == 1
    assert "retail.kiosk_invalid.no is of type bigint" in done.stderr


def test_an_expression_is_planned_and_not_asked_of_nothing(cli, databases, files, neon) -> None:
    neon.execute("CREATE SEQUENCE public.audit_seq")
    path = files / "kiosk.toml"
    path.write_text(
        path.read_text()
        + '[master.computed]\naudit = "nextval(\'public.audit_seq\')::text"\nper = "(100 / coalesce(r.price, 0))::text"\n'
    )
    for _ in range(2):
        done = cli("setup")
        assert done.returncode == 0, done.stderr
    assert cli("pull").returncode == 0
    assert neon.execute("SELECT is_called FROM public.audit_seq").fetchone()["is_called"] is False
