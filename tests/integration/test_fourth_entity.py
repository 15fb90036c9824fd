"""A fourth entity is one file, too: keyed by a number, with NUMERIC, DATE and BOOLEAN columns, in schemas and with names
that need quotes. It goes round the whole loop as the roles of ``sql/roles/``, with the page, undo and reconcile.
"""

from __future__ import annotations

import json
import secrets
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import ROOT
from psycopg import sql
from test_roles import ROLE, as_role

FILES = Path(__file__).parents[1] / "data/entities"
LONG = Decimal("12345678901234567890.12345678901234567890")
"""More digits than a float has."""
PRICE = Decimal("99999999999999.999999")
INVALID, MASTER, DESK = '"Land Office"."Parcels invalid"', '"Land Office"."Parcels"', '"Desk"."Parcels"'
SHOP = "04.04.09.01.00001.001"


@pytest.fixture
def parcels(cli, databases, neon, supabase, env):
    """Both databases after ``setup`` for these files and ``sql/roles/``; the worker's settings name the role."""
    env["WORKER_ENTITIES"] = str(FILES)
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert cli("setup").stdout == "Neon: everything is in place\nSupabase: everything is in place\n"
    password = secrets.token_hex(8)
    for connection, side in ((neon, "neon"), (supabase, "supabase")):
        connection.execute((ROOT / "sql/roles" / f"{side}.sql").read_text())
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(password)))
    env["NEON_DATABASE_URL"] = as_role(databases.neon_url, ROLE, password)
    env["SUPABASE_DATABASE_URL"] = as_role(databases.supabase_url, ROLE, password)
    yield
    for connection in (neon, supabase):
        connection.execute(f"DROP OWNED BY {ROLE}")


def add(neon, number: int, **columns) -> None:
    names = ["Parcel No", "reason_code", "validation_errors", *columns]
    values = [number, "EMPTY_OWNER", "{}", *columns.values()]
    neon.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.SQL(INVALID),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join([sql.Placeholder()] * len(names)),
        ),
        values,
    )


def row(connection, table: str, number: int):
    return connection.execute(f'SELECT * FROM {table} WHERE "Parcel No" = %s', [number]).fetchone()


def complete(supabase, number: int, **columns) -> None:
    pairs = [sql.SQL("{} = %s").format(sql.Identifier(name)) for name in columns]
    pairs.append(sql.SQL("enrichment_status = 'complete'"))
    supabase.execute(
        sql.SQL("UPDATE {} SET {} WHERE {} = %s").format(
            sql.SQL(DESK), sql.SQL(", ").join(pairs), sql.Identifier("Parcel No")
        ),
        [*columns.values(), number],
    )


def test_it_goes_round_the_whole_loop_as_a_role(cli, parcels, neon, supabase, daemon, eventually) -> None:
    assert cli("doctor").returncode == 0, cli("doctor").stdout
    details = {"area m2": LONG, "price": PRICE, "registered": "2020-02-29", "built": True, "2nd owner": "Kim"}
    add(neon, 7, **details)
    add(neon, -12, **details)
    add(neon, 9223372036854775807, shop_id=SHOP, owner="Robin", **{"area m2": 1})
    done = cli("pull", "--entity", "parcel")
    assert "pulled 3 parcels, 0 changed" in done.stdout, done.stdout + done.stderr
    assert "pulled 0 parcels, 0 changed" in cli("pull", "--entity", "parcel", "--full").stdout
    here = row(supabase, DESK, 7)
    assert (here["area m2"], here["price"], here["built"], str(here["registered"])) == (LONG, PRICE, True, "2020-02-29")

    worker = daemon()
    # As from a spreadsheet: the numeric key and the numbers are text there.
    supabase.execute(
        'INSERT INTO "Desk".parcel_repairs ("Parcel No", owner, use, price, enrichment_status)'
        " VALUES ('7', ' Ada ', 'Wood', '', 'complete')"
    )
    complete(supabase, -12, **{"area m2": 0}, use="lake")
    complete(supabase, 9223372036854775807)
    eventually(lambda: row(supabase, DESK, 7)["promoted_at"])
    eventually(lambda: row(supabase, DESK, -12)["enrichment_status"] == "failed")
    there = row(neon, MASTER, 7)
    assert (there["Area m2"], there["price"], there["built"], str(there["registered"])) == (
        LONG,
        PRICE,
        True,
        "2020-02-29",
    )
    assert (there["owner"], there["2nd owner"], there["source"]) == ("Ada", "Kim", "enriched to 100%")
    assert row(neon, INVALID, 7) is None
    assert row(supabase, DESK, -12)["validation_errors"] == {
        "owner": "is empty: enter it", "area m2": "is 0: enter the area in square metres",
        "use": "is none of field, wood, building land: enter one of them",
    }  # fmt: skip
    back = row(neon, INVALID, -12)
    assert (back["reason_code"], back["price"], back["area m2"], back["still_invalid"]) == (
        "EMPTY_OWNER",
        PRICE,
        0,
        True,
    )

    eventually(lambda: row(supabase, DESK, 9223372036854775807)["waiting_for"])
    assert row(supabase, DESK, 9223372036854775807)["sync_note"] == f"Waiting: shop {SHOP} is not in the master yet."
    neon.execute("INSERT INTO retail.shop_master (shop_id, display_name, origin) VALUES (%s, 'x', 'x')", [SHOP])
    assert cli("pull").returncode == 0  # nobody announces it: a pull looks for what came another way
    eventually(lambda: row(supabase, DESK, 9223372036854775807)["promoted_at"])

    eventually(lambda: 'records{entity="parcel",state="promoted"} 2.0' in worker.health("/metrics")[1])
    status = json.loads(worker.health("/status.json")[1])
    assert status["entities"]["parcel"]["counts"]["failed"] == 1
    [why] = status["entities"]["parcel"]["failures"]
    assert (why["reason_code"], why["keys"]) == ("EMPTY_OWNER", ["-12"])
    assert worker.health("/readyz")[0] == 200
    assert worker.terminate() == 0


def test_it_is_told_undone_and_compared(cli, parcels, neon, supabase) -> None:
    add(neon, 7, **{"area m2": LONG, "price": PRICE})
    assert cli("pull").returncode == 0
    complete(supabase, 7, owner="Ada")
    assert cli("push").returncode == 0
    passed = cli("revalidate")
    assert passed.stdout == "7\n", passed.stderr
    refused = cli("promote", "--entity", "parcel", input="7\n007\n8\nseven\n")
    assert refused.returncode == 1
    assert all(key in refused.stderr for key in ("007", "8", "seven"))
    assert row(neon, MASTER, 7)["Area m2"] == LONG
    told = cli("history", "7")
    assert told.returncode == 0
    assert "promoted" in told.stdout
    assert cli("history", "seven").returncode == 1
    assert cli("undo", "--dry-run", "7").returncode == 0
    assert cli("undo", "7").returncode == 0, cli("undo", "7").stderr
    back = row(neon, INVALID, 7)
    assert (back["area m2"], back["price"], back["owner"]) == (LONG, PRICE, "Ada")
    assert row(neon, MASTER, 7) is None
    assert row(supabase, DESK, 7)["enrichment_status"] == "pending"
    assert cli("undo", "seven").returncode == 1
    agreed = cli("reconcile")
    assert agreed.returncode == 0, agreed.stdout


def test_a_key_of_another_type_is_named_with_the_fix(cli, databases, neon, supabase, env) -> None:
    env["WORKER_ENTITIES"] = str(FILES)
    neon.execute('CREATE SCHEMA "Land Office"')
    neon.execute(f'CREATE TABLE {INVALID} (id bigserial, "Parcel No" text UNIQUE NOT NULL)')
    done = cli("setup")
    assert done.returncode == 1
    assert "Parcel No is of type text, and has to be an integer" in done.stderr


@pytest.mark.needs_view
def test_needs_attention_shows_a_number_as_every_other_key(cli, parcels, neon, supabase) -> None:
    add(neon, 7, owner="Ada")
    assert cli("pull").returncode == 0
    if supabase.info.server_version >= 150000:
        found = supabase.execute("SELECT entity, key, name FROM needs_attention").fetchall()
        assert [tuple(one.values()) for one in found] == [("parcel", "7", "Ada")]
