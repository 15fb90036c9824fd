"""``doctor``'s findings about a server: version, clock, TLS, encoding, whether it takes writes, and whether a
notification arrives.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import anyio
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from worker.domain.findings import Finding, ok, problem, warning
from worker.postgres.address import is_remote, safe_address
from worker.postgres.connection import UTF8, Connection, connect, within
from worker.postgres.errors import in_one_line
from worker.postgres.hints import MOVE_TO_UTF8, hint_for, reach_hint
from worker.postgres.statements import statement
from worker.settings import Settings
from worker.supabase.channels import CHANNEL

CLOCK_SECONDS = 5.0
NOTIFY_SECONDS = 5.0
OLDEST = 140000

_SERVER = statement("worker.operate", "server")


async def server(connection: Connection, name: str, setting: str, conninfo: str) -> list[Finding]:
    """The findings about the server of a new connection.

    Args:
        connection: a new one, which has the current defaults.
        name: ``Neon`` or ``Supabase``.
        setting: the name of the setting that holds the address.
        conninfo: the address.
    """
    cursor = await connection.execute(_SERVER)
    [row] = await cursor.fetchall()
    found = []
    if row["version"] < OLDEST:
        found.append(problem(f"{name} version", f"PostgreSQL {row['says']}", "use PostgreSQL 14 or later"))
    else:
        found.append(ok(f"{name} version", f"PostgreSQL {row['says']}"))
    difference = abs(row["clock"] - datetime.now(UTC).timestamp())
    if difference > CLOCK_SECONDS:
        hint = "set this machine's clock by NTP: newer edits are told by it"
        found.append(problem(f"{name} clock", f"{difference:.0f} s apart from this machine's", hint))
    else:
        found.append(ok(f"{name} clock", f"within {CLOCK_SECONDS:.0f} s of this machine's"))
    found.append(_tls(connection, name, setting, conninfo))
    found.append(_encoding(name, row["encoding"]))
    found.append(_writing(name, setting, row))
    return found


def _tls(connection: Connection, name: str, setting: str, conninfo: str) -> Finding:
    check = f"{name} TLS"
    if not is_remote(conninfo):
        return ok(check, "not needed: the database is on this machine")
    if connection.pgconn.ssl_in_use:
        return ok(check, f"on (sslmode={conninfo_to_dict(conninfo).get('sslmode')})")
    # The settings refuse this unless the operator allows it.
    return warning(check, "off, as WORKER_ALLOW_INSECURE=1 allows", f"use sslmode=require in {setting}")


def _encoding(name: str, encoding: str) -> Finding:
    check = f"{name} encoding"
    if encoding == UTF8:
        return ok(check, UTF8)
    lacks = "checks no text" if encoding == "SQL_ASCII" else "cannot store every character"
    return problem(check, f"{encoding}, which {lacks}: the worker does not begin", MOVE_TO_UTF8)


def _writing(name: str, setting: str, row: dict[str, Any]) -> Finding:
    check = f"{name} writing"
    if row["replica"]:
        hint = f"give the primary's address in {setting}, or promote it; workers wait and go on by themselves"
        return problem(check, "it is a replica (a hot standby), and takes no writes", hint)
    if not row["read_only"]:
        return ok(check, "it takes writes")
    parameter = "default_transaction_read_only"
    lift = {
        "database": f"ALTER DATABASE {row['database']} RESET {parameter}",
        "user": f"ALTER ROLE {row['role']} RESET {parameter}",
        "database user": f"ALTER ROLE {row['role']} IN DATABASE {row['database']} RESET {parameter}",
        "global": f"ALTER ROLE ALL RESET {parameter}",
        "configuration file": f"ALTER SYSTEM RESET {parameter}, and SELECT pg_reload_conf()",
        "client": f"take it out of the options in {setting} and PGOPTIONS",
        "environment variable": f"take it out of the options in {setting} and PGOPTIONS",
    }.get(row["set_by"], f"turn {parameter} off where the server is started")
    hint = f"when its cause is gone (Supabase sets it while the disk is full): {lift}"
    return problem(check, f"it is read-only: {parameter} is on, and the worker does not override it", hint)


async def notification(connection: Connection, settings: Settings) -> Finding:
    """Send a notification and receive it. A pooler in transaction mode accepts LISTEN and receives nothing."""
    check, where = "LISTEN", safe_address(settings.listen_conninfo)
    setting = "SUPABASE_LISTEN_URL" if settings.supabase_listen_url else "SUPABASE_DATABASE_URL"
    payload = json.dumps({"entity": "doctor", "token": datetime.now(UTC).isoformat()})
    try:
        listener = await connect(settings.listen_conninfo)
    except (psycopg.Error, OSError) as error:
        return problem(check, f"{where} ({setting}): {in_one_line(error)}", reach_hint(error, setting))
    try:
        async with listener:
            with within(listener, NOTIFY_SECONDS):
                await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
            with anyio.move_on_after(NOTIFY_SECONDS):
                async for notice in listener.notifies(timeout=NOTIFY_SECONDS):
                    if notice.payload == payload:
                        return ok(check, f"a notification arrives at {where}")
    except psycopg.errors.ReadOnlySqlTransaction as error:
        hint = f"give the primary's address in {setting}: a replica neither sends nor hears notifications"
        return problem(check, f"{where}: {in_one_line(error)}", hint)
    except (psycopg.Error, OSError) as error:
        return problem(check, f"{where}: {in_one_line(error)}", hint_for(error, asked=True))
    return problem(
        check,
        f"{where} takes LISTEN and hears nothing: it is a pooler in transaction mode, or another database",
        "set SUPABASE_LISTEN_URL to the direct or session-mode address (port 5432) of the same database",
    )
