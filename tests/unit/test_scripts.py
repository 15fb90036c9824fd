"""The SQL of ``sql/``, filled in for an entity. What it makes is in test_setup.py and test_third_entity.py."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from declared import COMPANY, ENTITIES

from worker.entities.worker_tables import Table
from worker.schema.scripts import fill, scripts

ODD = replace(
    COMPANY,
    name="o'brien",
    key='the "key"',
    workspace_table=Table("public", "Mixed Case"),
    column_types={"order": "TEXT", "it's": "NUMERIC(8, 2)"},
)


@pytest.mark.parametrize(("template", "text"), [
    ("{workspace}", '"public"."Mixed Case"'),
    ("{workspace_literal}::regclass", """'"public"."Mixed Case"'::regclass"""),
    ("{workspace.queue_idx}", '"Mixed Case_queue_idx"'),
    ("{workspace_literal.status_check}", "'Mixed Case_status_check'"),
    ("{key} {key_literal} {name}", '''"the ""key""" 'the "key"' 'o\'\'brien\''''),
    ("({columns})", """("order" TEXT,\n  "it's" NUMERIC(8, 2))"""),
    ("f({column_literals})", "f('order', 'it''s')"),
    ("{column_types}", """'{"order": "TEXT", "it''s": "NUMERIC(8, 2)"}'"""),
    ("DEFAULT {raw_table}, '{{}}'", "DEFAULT 'marketing.company_raw_wv', '{}'"),
])  # fmt: skip
def test_names_are_quoted_as_names_and_texts_as_literals(template, text) -> None:
    assert fill(template, ODD) == text


def test_who_comes_from_no_raw_table_has_no_default() -> None:
    assert fill("DEFAULT {raw_table}", replace(COMPANY, raw_table=None)) == "DEFAULT NULL"


@pytest.mark.parametrize("template", ["{worksapce}", "{worksapce.queue_idx}", "{key.idx}"])
def test_a_placeholder_that_there_is_not_is_an_error(template) -> None:
    with pytest.raises(KeyError):
        fill(template, COMPANY)


def test_a_name_that_postgres_would_cut_off_is_refused() -> None:
    longest = replace(COMPANY, workspace_table=Table("public", "x" * 53))
    assert fill("{workspace.queue_idx}", longest) == f'"{"x" * 53}_queue_idx"'
    with pytest.raises(ValueError, match="longer than the 63 bytes"):
        fill("{workspace.status_check}", longest)


@pytest.mark.parametrize("database", ["Neon", "Supabase"])
def test_every_placeholder_is_filled_in_and_no_brace_of_sqls_own_is_lost(database) -> None:
    text = "".join(script.text for script in scripts(database, ENTITIES.values()))
    assert not re.search(r"\{[a-z_.]+\}|\{\{|\}\}", text)
    assert (r"'^04\.04\.02\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'" if database == "Neon" else "'{}'") in text


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=ENTITIES)
def test_what_a_declaration_says_of_columns_fits_together(entity) -> None:
    assert entity.master_columns.keys() >= {entity.key, *entity.mapping, *entity.computed}
    assert set(entity.columns) >= {entity.label, *entity.mapping.values()}
