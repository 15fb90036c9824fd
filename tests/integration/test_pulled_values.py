"""A value arrives as it is, whichever way it comes: by COPY with the first pull, as one text of an array with a later one.
SPEC 5.
"""

from __future__ import annotations

import json

import pytest
from records import add_companies, company, work
from test_odd_tables import add, folder

__all__ = ["folder"]

ODD = "\\ \t\n\r\b {\"x\": 'y'} , NULL null {a,b} %s é \\N \\x41"


@pytest.mark.parametrize("value", ["", "NULL", '"', "\\", ODD, "x" * 100_000, " padded "])
def test_a_text_comes_through_both_ways(cli, prepared, neon, supabase, value) -> None:
    for number in (1, 2):
        add_companies(neon, number, address=value, city=None)
        assert cli("pull").returncode == 0
    rows = [work(supabase, company(number)) for number in (1, 2)]
    assert [(row["address"], row["city"], row["neon_snapshot"]["address"]) for row in rows] == [
        (value, None, value)
    ] * 2


@pytest.mark.parametrize(
    ("declared", "of_neon", "of_workspace", "value"),
    [
        ("CHAR(2)[]", "char(2)[]", "char(2)[]", "{ab,cd}"),
        ("public.codes", "public.codes", "public.codes", "{abc,def}"),
        ("public.bits", "public.bits", "public.bits", "1010"),
        ("CHAR(4)", "char(4)", "char(4)", "ab"),
        ("CHAR(4)", "char(4)", "text", "ab"),
        ("NUMERIC(9,2)", "numeric(9,2)", "numeric(9,2)", "12345.60"),
        ("INTERVAL(0)", "interval(0)", "interval(0)", "-1 day +02:03:04"),
        ("INET", "inet", "inet", "10.0.0.1"),
        ("BOOLEAN", "boolean", "boolean", "true"),
        ("TIMESTAMPTZ", "timestamptz", "timestamptz", "2026-03-01 12:00:00.123456+05"),
        ("JSON", "json", "json", '{"a":1, "a": [null, "\\u0041"]}'),
        ("JSONB", "jsonb", "jsonb", "null"),
    ],
)
def test_a_value_of_any_type_comes_through_both_ways(
    folder, cli, neon, supabase, declared, of_neon, of_workspace, value
) -> None:
    for connection in (neon, supabase):
        connection.execute("CREATE DOMAIN public.codes AS char(3)[]; CREATE DOMAIN public.bits AS bit(4)")
    folder(columns=f'tags = "{declared}"')
    neon.execute("CREATE TABLE odd.things (no BIGINT PRIMARY KEY, name TEXT)")
    assert cli("setup").returncode == 0
    neon.execute(f"ALTER TABLE odd.things_invalid ALTER tags TYPE {of_neon} USING tags::{of_neon}")
    supabase.execute(f"ALTER TABLE things_desk ALTER tags TYPE {of_workspace} USING tags::{of_workspace}")
    for number in (1, 2):
        add(neon, number, tags=value)
        done = cli("pull", "--json")
        assert done.returncode == 0, done.stderr
    rows = supabase.execute(
        "SELECT tags::text AS tags, neon_snapshot::text AS snapshot FROM things_desk ORDER BY no"
    ).fetchall()
    assert len(rows) == 2
    assert rows[0]["tags"] == rows[1]["tags"]
    assert rows[0]["snapshot"].replace("Thing 1", "Thing 2") == rows[1]["snapshot"].replace("Thing 1", "Thing 2")


@pytest.mark.parametrize(("type_", "value"), [("varchar(3)[]", "{abcdef}"), ("public.short", "{abcdef}")])
def test_what_is_too_long_is_refused_and_not_cut(folder, cli, neon, supabase, type_, value) -> None:
    for connection in (neon, supabase):
        connection.execute("CREATE DOMAIN public.short AS varchar(3)[]")
    folder(columns='tags = "TEXT[]"')
    neon.execute("CREATE TABLE odd.things (no BIGINT PRIMARY KEY, name TEXT)")
    assert cli("setup").returncode == 0
    supabase.execute(f"ALTER TABLE things_desk ALTER tags TYPE {type_} USING tags::{type_}")
    add(neon, 1, tags="{abc}")
    add(neon, 2, tags=value)
    for _ in range(2):
        done = cli("pull", "--json")
        assert [one["refused"] for one in json.loads(done.stdout) if one["entity"] == "thing"] == [1], done.stderr
    assert [row["no"] for row in supabase.execute("SELECT no FROM things_desk").fetchall()] == [1]


def test_blanks_that_pad_a_value_are_no_edit_of_anybodys(cli, prepared, neon, supabase) -> None:
    neon.execute("ALTER TABLE marketing.company_invalid ALTER zip TYPE char(10), ALTER state TYPE char(4)")
    for number in (1, 2):
        add_companies(neon, number, zip="26501", state="WV")
        assert cli("pull").returncode == 0
    rows = [work(supabase, company(number)) for number in (1, 2)]
    assert [row["zip"] == row["neon_snapshot"]["zip"] for row in rows] == [True, True]
    neon.execute("DELETE FROM marketing.company_invalid")
    [pulled] = [one for one in json.loads(cli("pull", "--full", "--json").stdout) if one["entity"] == "company"]
    assert (pulled["withdrawn"], pulled["orphaned"]) == (2, 0)
