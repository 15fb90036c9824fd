"""Invented records for the tests, and short ways to put them there and read them back."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

Connection = psycopg.Connection[DictRow]


def company(number: int) -> str:
    return f"04.04.01.01.{number:05}.001"


def person(number: int) -> str:
    return f"04.04.02.01.{number:05}.001"


def slot(number: int) -> str:
    return f"04.04.05.01.{number:05}.001"


def add_companies(neon: Connection, *numbers: int, **columns: Any) -> list[str]:
    """Invalid companies without website."""
    for number in numbers:
        row = {
            "company_unique_id": company(number),
            "company_name": f"Alder Works {number}",
            "reason_code": "EMPTY_WEBSITE",
            "validation_errors": json.dumps({"website": "empty or blank"}),
            "batch_id": "INTAKE-20251107-163209-b26be042",
            **columns,
        }
        insert(neon, "marketing.company_invalid", row)
    return [company(number) for number in numbers]


def add_people(neon: Connection, *numbers: int, of: int = 1, **columns: Any) -> list[str]:
    """Invalid people without e-mail, of the company with the number ``of``."""
    for number in numbers:
        row = {
            "unique_id": person(number),
            "full_name": f"Robin Alder{number}",
            "company_unique_id": company(of),
            "reason_code": "EMPTY_EMAIL",
            "validation_errors": json.dumps(["Email is missing"]),
            **columns,
        }
        insert(neon, "marketing.people_invalid", row)
    return [person(number) for number in numbers]


def add_slot(neon: Connection, number: int, of: int, **columns: Any) -> str:
    row = {"company_slot_unique_id": slot(number), "company_unique_id": company(of), **columns}
    insert(neon, "marketing.company_slots", row)
    return slot(number)


def add_master(neon: Connection, number: int, **columns: Any) -> None:
    row = {
        "company_unique_id": company(number),
        "company_name": f"Alder Works {number}",
        "website_url": "https://old.example",
        "source_system": "intake",
        "source_record_id": "7",
        **columns,
    }
    insert(neon, "marketing.company_master", row)


def insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(*table.split(".")),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Placeholder, row)),
        ),
        row,
    )


def edit(supabase: Connection, key: str, **columns: Any) -> None:
    """What an enricher does in the dashboard."""
    supabase.execute(
        sql.SQL("UPDATE {} SET {} WHERE {} = %(key)s").format(
            sql.Identifier(workspace_of(key)),
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in columns
            ),
            sql.Identifier(key_column(key)),
        ),
        {**columns, "key": key},
    )


def complete(supabase: Connection, key: str, **columns: Any) -> None:
    edit(supabase, key, **columns, enrichment_status="complete")


def row(connection: Connection, table: str, key: str) -> dict[str, Any] | None:
    return connection.execute(
        sql.SQL("SELECT * FROM {} WHERE {} = %s").format(
            sql.Identifier(*table.split(".")), sql.Identifier(key_column(key))
        ),
        [key],
    ).fetchone()


def work(supabase: Connection, key: str) -> dict[str, Any]:
    """The workspace row."""
    found = row(supabase, f"public.{workspace_of(key)}", key)
    assert found is not None
    return found


def invalid(neon: Connection, key: str) -> dict[str, Any] | None:
    return row(neon, f"marketing.{kind(key)}_invalid", key)


def master(neon: Connection, key: str) -> dict[str, Any] | None:
    return row(neon, f"marketing.{kind(key)}_master", key)


def ledger(neon: Connection, key: str) -> list[dict[str, Any]]:
    return neon.execute("SELECT * FROM marketing.enrichment_ledger WHERE key = %s ORDER BY id", [key]).fetchall()


def kind(key: str) -> str:
    return "company" if key.startswith("04.04.01.") else "people"


def key_column(key: str) -> str:
    return "company_unique_id" if kind(key) == "company" else "unique_id"


def workspace_of(key: str) -> str:
    return f"{kind(key)}_needs_enrichment"


def untell(supabase: Connection, key: str, before: dict[str, Any]) -> None:
    """The row before its acknowledgement: what a worker leaves that dies after it has settled in Neon."""
    names = sql.SQL(", ").join(map(sql.Identifier, (name for name in before if name != "id")))
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(
            sql.SQL("UPDATE {table} SET ({names}) = (SELECT {names} FROM jsonb_populate_record(NULL::{table}, %s))"
                    " WHERE {key} = %s").format(
                table=sql.Identifier(workspace_of(key)), names=names, key=sql.Identifier(key_column(key))),
            [json.dumps(before, default=str), key],
        )  # fmt: skip


def everything(connection: Connection, *, locks: bool = True) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, every sequence's state, and the definitions: to prove that nothing changed.

    Args:
        connection: to the database.
        locks: also the marks that a transaction leaves in rows which it locked, or deleted and rolled back.
    """
    tables = connection.execute(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname IN ('public', 'marketing') AND relkind IN ('r', 'S') ORDER BY 1, 2"
    ).fetchall()
    rows = sql.SQL("SELECT *, xmin, {} ctid FROM {{}} t ORDER BY t::text".format("xmax," if locks else ""))
    sequence = sql.SQL("SELECT * FROM {}")
    state = {
        f"{table['nspname']}.{table['relname']}": connection.execute(
            (rows if table["relkind"] == "r" else sequence).format(sql.Identifier(table["nspname"], table["relname"]))
        ).fetchall()
        for table in tables
    }
    state["columns"] = connection.execute(
        "SELECT table_schema, table_name, column_name, data_type, column_default"
        " FROM information_schema.columns WHERE table_schema IN ('public', 'marketing') ORDER BY 1, 2, 3"
    ).fetchall()
    return state
