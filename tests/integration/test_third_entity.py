"""A third entity is one declaration and its SQL: it goes round the loop with no change elsewhere."""

from __future__ import annotations

import json

import anyio
import pytest
from pydantic import field_validator
from pydantic_core import PydanticCustomError

from worker.domain.rules import RecordRules
from worker.entities.declaration import ENTITIES, Entity, Table
from worker.settings import load_settings
from worker.sync import databases as bridges
from worker.sync.deliver import deliver
from worker.sync.pull import pull
from worker.sync.stages import revalidate

SHOP = "04.04.09.01.00001.001"
OTHER = "04.04.09.01.00002.001"
HOURS = '{"mon":\r\n\t"9 to 5",\r\n\t"sat": "\\"noon\\"\\n \\\\"}'
"""As somebody typed it: a column of the type json keeps the blanks between its tokens."""
SQL = """
CREATE SCHEMA IF NOT EXISTS retail;
CREATE TABLE retail.shop_invalid (id BIGSERIAL PRIMARY KEY, shop_id TEXT UNIQUE NOT NULL, label TEXT,
  opened DATE, floor_area NUMERIC(8, 2), tags TEXT[], open_sunday BOOLEAN, hours JSON, reason_code TEXT NOT NULL,
  validation_errors JSONB NOT NULL, validation_warnings JSONB, batch_id TEXT,
  created_at TIMESTAMP DEFAULT now(), updated_at TIMESTAMP DEFAULT now(), enrichment_status TEXT,
  enriched_at TIMESTAMP, enriched_by TEXT, still_invalid BOOLEAN DEFAULT FALSE);
CREATE TABLE retail.shop_master (shop_id TEXT PRIMARY KEY, display_name TEXT NOT NULL, opened DATE,
  floor_area NUMERIC(8, 2), tags TEXT[], open_sunday BOOLEAN, hours JSON, origin TEXT NOT NULL);
"""
WORKSPACE_SQL = """
CREATE TABLE shop_needs_enrichment (id BIGSERIAL PRIMARY KEY, neon_id BIGINT, shop_id TEXT UNIQUE NOT NULL,
  source_batch_id TEXT, label TEXT, opened DATE, floor_area NUMERIC(8, 2), tags TEXT[], open_sunday BOOLEAN,
  hours JSON, original_validation_errors JSONB, original_validation_warnings JSONB, reason_code TEXT,
  enrichment_status TEXT DEFAULT 'pending', enrichment_notes TEXT, enriched_by TEXT, enriched_at TIMESTAMP,
  pulled_from_neon_at TIMESTAMP, pushed_to_neon_at TIMESTAMP, last_sync_hash TEXT, created_at TIMESTAMP,
  updated_at TIMESTAMP, neon_snapshot JSONB, validation_errors JSONB, validation_warnings JSONB,
  sync_note TEXT, promoted_at TIMESTAMP, waiting_for TEXT, sync_code TEXT,
  receipt_id BIGINT, receipt_hash TEXT, queued_versions TEXT);
CREATE TRIGGER enrichment_b_row BEFORE INSERT OR UPDATE ON shop_needs_enrichment FOR EACH ROW
  WHEN (current_setting('enrichment_worker.writer', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION enrichment_row();
CREATE TRIGGER enrichment_notify_update AFTER UPDATE ON shop_needs_enrichment FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL)
  EXECUTE FUNCTION enrichment_notify('shop');
"""


class ShopRules(RecordRules):
    label: str | None = None

    @field_validator("label")
    @classmethod
    def _label_is_there(cls, value: str | None) -> str | None:
        if not value:
            raise PydanticCustomError("EMPTY_LABEL", "is empty: enter the name over the door")
        return value


SHOPS = Entity(
    name="shop",
    plural="shops",
    key="shop_id",
    invalid_table=Table("retail", "shop_invalid"),
    master_table=Table("retail", "shop_master"),
    workspace_table=Table("public", "shop_needs_enrichment"),
    columns=("label", "opened", "floor_area", "tags", "open_sunday", "hours"),
    mapping={
        "display_name": "label", "opened": "opened", "floor_area": "floor_area", "tags": "tags",
        "open_sunday": "open_sunday", "hours": "hours",
    },
    computed={"origin": "'enrichment'"},
    rules=ShopRules,
)  # fmt: skip


@pytest.fixture
def shops(cli, prepared, neon, supabase, env, monkeypatch):
    neon.execute(SQL)
    supabase.execute(WORKSPACE_SQL)
    monkeypatch.setitem(ENTITIES, "shop", SHOPS)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    neon.execute(
        "INSERT INTO retail.shop_invalid (shop_id, opened, floor_area, tags, open_sunday, reason_code,"
        " validation_errors) VALUES (%s, '2020-02-29', 120.50, '{corner,\"two words\"}', true, 'EMPTY_LABEL', '{}')",
        [SHOP],
    )


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
                    "UPDATE shop_needs_enrichment SET label = %s, enrichment_status = 'complete'", [label]
                )
            outcomes.append(dict((await deliver(opened, SHOPS)).outcomes))
        assert (await revalidate(opened, SHOPS)).passed == []
    return outcomes


def test_a_third_entity_goes_round_the_loop(shops, neon, supabase) -> None:
    assert anyio.run(_loop) == [{"flagged": 2}, {"promoted": 2}]
    there, other = neon.execute("SELECT * FROM retail.shop_master ORDER BY shop_id").fetchall()
    assert (there["display_name"], there["origin"]) == ("The Corner Shop", "enrichment")
    assert there["tags"] == ["corner", "two words"]
    assert str(there["floor_area"]) == "120.50"
    assert there["open_sunday"] is True
    assert other["hours"] == json.loads(HOURS)
    for row in supabase.execute("SELECT * FROM shop_needs_enrichment").fetchall():
        assert row["promoted_at"] is not None
    assert neon.execute("SELECT count(*) AS n FROM retail.shop_invalid").fetchone()["n"] == 0
