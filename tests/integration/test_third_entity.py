"""A third entity is one file: its tables are made from it, and it goes round the loop with no change elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import psycopg
import pytest

from worker.entities.loader import load_entities
from worker.operate.setup import require_adoptable, setup
from worker.postgres.errors import SetupMissing
from worker.postgres.pool import Database
from worker.settings import load_settings
from worker.sync import databases as bridges
from worker.sync.deliver import deliver
from worker.sync.pull import pull
from worker.sync.stages import revalidate

SHOP = "04.04.09.01.00001.001"
OTHER = "04.04.09.01.00002.001"
HOURS = '{"mon":\r\n\t"9 to 5",\r\n\t"sat": "\\"noon\\"\\n \\\\"}'
"""As somebody typed it: a column of the type json keeps the blanks between its tokens."""


FILES = Path(__file__).parents[1] / "data/entities"
SHOPS = load_entities(FILES)["shop"]


async def _set_up() -> list[str]:
    settings = load_settings()
    async with (
        Database("Neon", settings.neon_conninfo) as neon,
        Database("Supabase", settings.supabase_conninfo) as workspace,
    ):
        entities = load_entities(settings.entities).values()
        await require_adoptable(neon, workspace, entities)
        changes = [*await setup(neon, entities), *await setup(workspace, entities)]
    return [f"{change.what} {change.thing}" for change in changes]


@pytest.fixture
def shops(prepared, neon, env, monkeypatch) -> list[str]:
    """What ``setup`` does for a declaration that is new; a record besides."""
    env["WORKER_ENTITIES"] = str(FILES)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    changes = anyio.run(_set_up)
    neon.execute(
        "INSERT INTO retail.shop_invalid (shop_id, opened, floor_area, tags, open_sunday, reason_code,"
        " validation_errors) VALUES (%s, '2020-02-29', 120.50, '{corner,\"two words\"}', true, 'EMPTY_LABEL', '{}')",
        [SHOP],
    )
    return changes


async def _loop() -> list[dict[str, int]]:
    outcomes = []
    async with bridges.open_databases(load_settings()) as opened:
        assert (await pull(opened, SHOPS)).new == 1
        assert (await pull(opened, SHOPS)).new == 0
        async with opened.neon.connection() as there:
            await there.execute(
                "INSERT INTO retail.shop_invalid (shop_id, hours, reason_code, validation_errors)"
                " VALUES (%s, %s, 'EMPTY_LABEL', '{}')", [OTHER, HOURS]
            )  # fmt: skip
        assert (await pull(opened, SHOPS)).new == 1
        for label in (" ", "The Corner Shop"):
            async with opened.supabase.connection() as here:
                await here.execute(
                    "UPDATE shop_needs_enrichment SET label = %s, \"order\" = 'north', enrichment_status = 'complete'",
                    [label],
                )
            outcomes.append(dict((await deliver(opened, SHOPS)).outcomes))
        assert (await revalidate(opened, SHOPS)).passed == []
    return outcomes


def test_setup_makes_all_that_a_declaration_needs_and_says_so(shops, neon, supabase) -> None:
    triggers = ("a_key", "a_statement", "b_row", "notify_insert", "notify_update")
    assert sorted(shops) == sorted([
        "created schema retail", "created table retail.shop_invalid", "created table retail.shop_master",
        "created table shop_needs_enrichment",
        *(f"created trigger enrichment_{name} on shop_needs_enrichment" for name in triggers),
        "created table shop_repairs", "created trigger enrichment_lay_over on shop_repairs",
        'created table "Desk".parcel_repairs', 'created trigger enrichment_lay_over on "Desk".parcel_repairs',
        'created schema "Desk"', 'created schema "Land Office"', 'created table "Desk"."Parcels"',
        'created table "Land Office"."Parcels invalid"', 'created table "Land Office"."Parcels"',
        *(f'created trigger enrichment_{name} on "Desk"."Parcels"' for name in triggers),
    ])  # fmt: skip
    assert anyio.run(_set_up) == []
    with pytest.raises(psycopg.errors.CheckViolation, match="shop_master_shop_id_check"):
        neon.execute("INSERT INTO retail.shop_master (shop_id, display_name, origin) VALUES ('04.04.01', 'x', 'x')")


@pytest.mark.needs_view
def test_an_enrichers_hand_is_heard_and_guided_as_with_every_entity(shops, supabase) -> None:
    supabase.execute("LISTEN enrichment_complete")
    supabase.execute(
        "INSERT INTO shop_needs_enrichment (shop_id, label, enrichment_status) VALUES (%s, 'A', ' Complete')", [SHOP]
    )
    (heard,) = supabase.notifies(timeout=30, stop_after=1)
    assert json.loads(heard.payload) == {"entity": "shop"}
    with pytest.raises(psycopg.errors.CheckViolation, match="shop_id identifies the record"):
        supabase.execute("UPDATE shop_needs_enrichment SET shop_id = 'other'")
    supabase.execute("UPDATE shop_needs_enrichment SET enrichment_status = 'in_progress'")
    if supabase.info.server_version >= 150000:
        row = supabase.execute("SELECT * FROM needs_attention").fetchone()
        assert (row["entity"], row["key"], row["name"]) == ("shop", SHOP, "A")


def test_a_column_that_is_missing_is_advised_with_the_type_it_was_declared_with(shops, neon) -> None:
    neon.execute("ALTER TABLE retail.shop_invalid DROP COLUMN opened")
    with pytest.raises(SetupMissing) as told:
        anyio.run(_set_up)
    assert "ADD COLUMN opened DATE" in str(told.value.problems)


def test_its_repairs_are_imported_whatever_their_types(shops, supabase) -> None:
    supabase.execute("INSERT INTO shop_needs_enrichment (shop_id, label) VALUES (%s, 'A'), (%s, 'B')", [SHOP, OTHER])
    cells = {
        "shop_id": OTHER, "label": "", "opened": "2020-02-29", "floor_area": "120.5", "tags": '{corner,"two words"}',
        "open_sunday": "yes", "hours": '{"mo": [8, 18]}', "order": "north",
    }  # fmt: skip
    names = ", ".join(f'"{name}"' for name in cells)
    insert = f"INSERT INTO shop_repairs ({names}) VALUES ({', '.join(['%s'] * len(cells))})"
    supabase.execute(insert, list(cells.values()))
    row = supabase.execute("SELECT * FROM shop_needs_enrichment WHERE shop_id = %s", [OTHER]).fetchone()
    assert (row["label"], str(row["opened"]), str(row["floor_area"])) == ("B", "2020-02-29", "120.50")
    assert (row["tags"], row["open_sunday"], row["hours"], row["order"]) == (
        ["corner", "two words"], True, {"mo": [8, 18]}, "north",
    )  # fmt: skip
    for name, value in (("opened", "soon"), ("open_sunday", "perhaps"), ("hours", "{"), ("tags", "corner")):
        with pytest.raises(psycopg.Error, match=f"{OTHER}: {name} cannot be '"):
            supabase.execute(insert, list({**cells, name: value}.values()))
    assert supabase.execute("SELECT count(*) AS n FROM shop_repairs").fetchone()["n"] == 0


def test_a_third_entity_goes_round_the_loop(shops, neon, supabase) -> None:
    assert anyio.run(_loop) == [{"flagged": 2}, {"promoted": 2}]
    there, other = neon.execute("SELECT * FROM retail.shop_master ORDER BY shop_id").fetchall()
    assert (there["display_name"], there["origin"], there["order"]) == ("The Corner Shop", "enrichment", "north")
    assert there["tags"] == ["corner", "two words"]
    assert str(there["floor_area"]) == "120.50"
    assert there["open_sunday"] is True
    assert other["hours"] == json.loads(HOURS)
    for row in supabase.execute("SELECT * FROM shop_needs_enrichment").fetchall():
        assert row["promoted_at"] is not None
    assert neon.execute("SELECT count(*) AS n FROM retail.shop_invalid").fetchone()["n"] == 0
