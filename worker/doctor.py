"""``doctor``: every check at once, each finding with its mend."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import anyio
import psycopg
from anyio import to_thread
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from worker import mends, misfits
from worker.catalogue import Found
from worker.database import Connection, connect, within
from worker.entities import ENTITIES, Table
from worker.faults import in_one_line
from worker.privileges import Found as Privilege
from worker.privileges import look, needs
from worker.restore import unsettled
from worker.settings import Settings, is_remote, safe_address
from worker.shape import OUTBOX_CHECK, PULL_POSITION, shapes
from worker.workspace import CHANNEL

LATE_SECONDS = 900
"""An event that waited for so long is not on its way."""
CLOCK_SECONDS = 5.0
NOTIFY_SECONDS = 5.0
OLDEST = 140000
TRIGGERS = ("enrichment_a_key", "enrichment_b_row", "enrichment_notify_insert", "enrichment_notify_update")


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check found, and the mend where something is wrong."""

    level: Level
    check: str
    text: str
    mend: str = ""


def _ok(check: str, text: str) -> Finding:
    return Finding(Level.OK, check, text)


def _problem(check: str, text: str, mend: str) -> Finding:
    return Finding(Level.PROBLEM, check, text, mend)


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Check everything, one finding after the other; no check keeps the next from running.

    Never raises for what it finds; a database that cannot be reached is a finding.
    """
    sides = (
        ("Neon", "NEON_DATABASE_URL", settings.neon_conninfo),
        ("Supabase", "SUPABASE_DATABASE_URL", settings.supabase_conninfo),
    )
    seen: dict[Table, Found] = {}
    at_fault = False
    for name, setting, conninfo in sides:
        try:
            connection = await connect(conninfo)
        except (psycopg.Error, OSError) as error:
            yield _problem(f"{name} connection", f"{safe_address(conninfo)}: {in_one_line(error)}", f"check {setting}")
            at_fault = True
            continue
        async with connection:
            yield _ok(f"{name} connection", safe_address(conninfo))
            try:
                for finding in await _server(connection, name, setting, conninfo):
                    yield finding
                for finding in await _privileges(connection, name, settings):
                    yield finding
                async for finding in _tables(connection, name, settings, seen):
                    at_fault |= finding.level is Level.PROBLEM
                    yield finding
            except psycopg.errors.InsufficientPrivilege as error:
                at_fault = True
                yield _problem(name, in_one_line(error), "grant what is named above, and run doctor again")
            except psycopg.Error as error:
                yield _problem(name, in_one_line(error), "run doctor again when the database answers")
    if not at_fault:
        yield await _restored(settings)
    yield await _public_api(settings)


async def _restored(settings: Settings) -> Finding:
    """Whether one of the databases was restored to an earlier moment, and that is not settled."""
    check = "restored databases"
    try:
        async with await connect(settings.neon_conninfo) as there, await connect(settings.supabase_conninfo) as here:
            found = {entity.name: await unsettled(entity, there, here) for entity in ENTITIES.values()}
    except psycopg.Error as error:
        return Finding(Level.WARNING, check, f"not looked: {in_one_line(error)}", "run doctor again")
    said = [f"{name}: {text}" for name, text in found.items() if text]
    if said:
        mend = (
            "`enrichment-worker pull` brings both databases together, as every worker does by itself;"
            " `enrichment-worker reconcile` lists what is left, and settles it with --repair"
        )
        return _problem(check, "; ".join(said), mend)
    return _ok(check, "neither database was restored to an earlier moment, or that is settled")


async def _server(connection: Connection, name: str, setting: str, conninfo: str) -> list[Finding]:
    row = await _one(
        connection,
        "SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS says,"
        " extract(epoch FROM clock_timestamp())::float8 AS clock,"
        " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls",
    )
    found = []
    if row["version"] < OLDEST:
        found.append(_problem(f"{name} version", f"PostgreSQL {row['says']}", "use PostgreSQL 14 or later"))
    else:
        found.append(_ok(f"{name} version", f"PostgreSQL {row['says']}"))
    apart = abs(row["clock"] - datetime.now(UTC).timestamp())
    if apart > CLOCK_SECONDS:
        mend = "set this machine's clock by NTP: newer edits are told by it"
        found.append(_problem(f"{name} clock", f"{apart:.0f} s apart from this machine's", mend))
    else:
        found.append(_ok(f"{name} clock", f"within {CLOCK_SECONDS:.0f} s of this machine's"))
    if not is_remote(conninfo):
        found.append(_ok(f"{name} TLS", "not needed: the database is on this machine"))
    elif connection.pgconn.ssl_in_use:
        mode = conninfo_to_dict(conninfo).get("sslmode")
        found.append(_ok(f"{name} TLS", f"on (sslmode={mode})"))
    else:
        # The settings refuse it but where the operator allowed it.
        text, mend = "off, as WORKER_ALLOW_INSECURE=1 allows", f"use sslmode=require in {setting}"
        found.append(Finding(Level.WARNING, f"{name} TLS", text, mend))
    return found


async def _tables(
    connection: Connection, name: str, settings: Settings, seen: dict[Table, Found]
) -> AsyncIterator[Finding]:
    """One finding for each thing in which a table is not as it has to be, and one for each group that is."""
    wanted = shapes(ENTITIES.values(), announces=settings.n8n_webhook_url is not None)
    unlike, found = await misfits.examine(connection, name, wanted, ENTITIES.values(), seen)
    seen |= found
    if name != "Neon":
        unlike = [misfit for misfit in unlike if not misfit.hides]  # each table's own finding on it tells more
    at_fault = {misfit.shape.subject for misfit in unlike}
    for misfit in unlike:
        yield _problem(misfit.shape.subject, misfit.lack.text, misfit.lack.hint)
    for subject in dict.fromkeys(shape.subject for shape in wanted if shape.database == name):
        # The worker's own tables are told of by what they are used for.
        if subject not in at_fault and subject.startswith(tuple(f"{entity}: " for entity in ENTITIES)):
            yield _ok(subject, "every table is as it has to be")
    if name == "Neon":
        return
    for entity in ENTITIES.values():
        if found[entity.workspace_table].kind in ("r", "p"):
            yield await _triggers(connection, entity.name, entity.workspace_table)
            yield await _closed(connection, entity.workspace_table)
    if found[PULL_POSITION].kind:
        yield await _closed(connection, PULL_POSITION)
    if settings.n8n_webhook_url and OUTBOX_CHECK not in at_fault:
        yield await _outbox(connection)
    yield await _notify_arrives(connection, settings)


async def _outbox(connection: Connection) -> Finding:
    check = OUTBOX_CHECK
    row = await _one(
        connection,
        "SELECT count(*) AS waiting, extract(epoch FROM now() - min(created_at)) > %(late)s AS late,"
        " (array_agg(last_error ORDER BY id) FILTER (WHERE last_error IS NOT NULL))[1] AS why FROM"
        " public.enrichment_outbox",
        late=LATE_SECONDS,
    )
    if row["late"]:
        mend = "mend the receiver, or let a worker run: they are posted when it answers"
        return Finding(Level.WARNING, check, f"{row['waiting']} waiting, the oldest for long: {row['why']}", mend)
    return _ok(check, f"{row['waiting']} waiting")


async def _triggers(connection: Connection, name: str, table: Table) -> Finding:
    row = await _one(
        connection,
        "SELECT coalesce(array_agg(tgname::text) FILTER (WHERE tgenabled IN ('O', 'A')), '{}') AS on"
        " FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s) AND NOT tgisinternal",
        table=table.sql.as_string(connection),
    )
    lacking = [trigger for trigger in TRIGGERS if trigger not in row["on"]]
    check = f"{name}: triggers"
    if lacking:
        return _problem(check, f"missing or disabled: {', '.join(lacking)}", mends.SETUP)
    return _ok(check, "all are there and enabled")


async def _closed(connection: Connection, table: Table) -> Finding:
    row = await _one(
        connection,
        "SELECT relrowsecurity AS secured,"
        " row_security_active(c.oid) AND NOT EXISTS (SELECT FROM pg_policy p WHERE polrelid = c.oid AND polpermissive"
        "   AND polcmd = '*' AND pg_get_expr(polqual, polrelid) = 'true' AND EXISTS (SELECT FROM unnest(polroles) r"
        "     WHERE r = 0 OR pg_has_role(r, 'USAGE'))) AS blind,"
        " ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname IN ('anon',"
        " 'authenticated') AND has_table_privilege(oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE')) AS open,"
        " EXISTS (SELECT FROM pg_policy, unnest(polroles) r LEFT JOIN pg_roles ON oid = r WHERE polrelid = c.oid"
        "   AND (r = 0 OR rolname IN ('anon', 'authenticated'))) AS policy"
        " FROM pg_class c WHERE oid = to_regclass(%(table)s)",
        table=table.sql.as_string(connection),
    )
    check = f"{table}: row level security"
    if not row["secured"]:
        return _problem(check, "is off: the REST API may show this table to anybody", mends.SETUP)
    if row["blind"]:
        mend = "run sql/roles/supabase.sql, or give this role BYPASSRLS or a policy FOR ALL … USING (true)"
        return _problem(check, "hides rows from this role too: its work would go unseen", mend)
    if row["open"] and not row["policy"]:
        return _problem(check, f"is on, but {', '.join(row['open'])} still have grants", mends.SETUP)
    return _ok(check, "on" + (", with policies of your own" if row["policy"] else ", and strangers have no grants"))


async def _privileges(connection: Connection, database: str, settings: Settings) -> list[Finding]:
    """One finding for each thing the worker does: whether its role may."""
    found: dict[str, list[Privilege]] = {}
    for one in await look(connection, needs(database, prunes=settings.ledger_retention is not None)):
        if one.may is not None:
            found.setdefault(one.need.subject, []).append(one)
    return [_may(subject, ones) for subject, ones in found.items()]


def _may(subject: str, found: Sequence[Privilege]) -> Finding:
    lacking = [one for one in found if not one.may]
    if lacking:
        text = f"this role lacks {', '.join(str(one.need) for one in lacking)}"
        return _problem(subject, text, "as the owner: " + "; ".join(one.grant for one in lacking))
    return _ok(subject, "this role may do what it must")


async def _notify_arrives(connection: Connection, settings: Settings) -> Finding:
    """Send one and hear it. A pooler in transaction mode takes the LISTEN and hears nothing."""
    check, where = "LISTEN", safe_address(settings.listen_conninfo)
    payload = json.dumps({"entity": "doctor", "token": datetime.now(UTC).isoformat()})
    try:
        ear = await connect(settings.listen_conninfo)
        async with ear:
            with within(ear, NOTIFY_SECONDS):
                await ear.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
            with anyio.move_on_after(NOTIFY_SECONDS):
                async for notice in ear.notifies(timeout=NOTIFY_SECONDS):
                    if notice.payload == payload:
                        return _ok(check, f"a notification arrives at {where}")
    except (psycopg.Error, OSError) as error:
        return _problem(check, f"{where}: {in_one_line(error)}", "check SUPABASE_LISTEN_URL")
    return _problem(
        check,
        f"{where} takes LISTEN and hears nothing: it is a pooler in transaction mode",
        "set SUPABASE_LISTEN_URL to the direct or session-mode address (port 5432)",
    )


async def _public_api(settings: Settings) -> Finding:
    """Ask Supabase's REST API for the workspace, as anybody on the internet could."""
    check = "public API"
    if not (settings.supabase_url and settings.supabase_api_key):
        return Finding(
            Level.WARNING, check, "not tried", "set SUPABASE_URL and SUPABASE_API_KEY (the anon key) to prove it"
        )
    if _role_of(settings.supabase_api_key) == "service_role":
        return Finding(
            Level.WARNING, check, "not tried: SUPABASE_API_KEY is the service key, which sees everything",
            "give the anon key instead",
        )  # fmt: skip
    for entity in ENTITIES.values():
        try:
            seen = await to_thread.run_sync(_rows_shown, settings, entity.workspace_table.name)
        except (OSError, ValueError) as error:
            return Finding(Level.WARNING, check, f"no answer: {in_one_line(error)}", "check SUPABASE_URL")
        if seen:
            mend = "`enrichment-worker setup` closes it; where a policy of yours lets strangers in, drop that first"
            return _problem(check, f"shows {entity.workspace_table} to anybody", mend)
    return _ok(check, "shows nobody the workspace")


def _rows_shown(settings: Settings, table: str) -> int:
    """How many rows a stranger gets; refused is none.

    Raises:
        OSError: no answer.
        ValueError: an answer that is no JSON list.
    """
    key = settings.supabase_api_key or ""
    url = f"{(settings.supabase_url or '').rstrip('/')}/rest/v1/{table}?select=*&limit=1"
    request = urllib.request.Request(url, headers={"apikey": key, "Authorization": f"Bearer {key}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - settings allow http(s) only
            rows = json.loads(answer.read(1_000_000))
    except urllib.error.HTTPError as error:
        with suppress(OSError):
            error.close()
        if error.code in (401, 403, 404):
            return 0
        raise OSError(f"HTTP {error.code}") from None
    if not isinstance(rows, list):
        raise ValueError("the answer is no list")  # noqa: TRY004 - it is about a value from outside
    return len(rows)


def _role_of(key: str) -> str | None:
    """The role in a Supabase key: a JWT's claim, or what the new kind of key begins with."""
    if key.startswith("sb_secret_"):
        return "service_role"
    with suppress(ValueError, IndexError, AttributeError):
        part = key.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return str(claims.get("role"))
    return None


async def _one(connection: Connection, statement: str, **params: object) -> dict[str, Any]:
    cursor = await connection.execute(sql.SQL(statement), params)
    row = await cursor.fetchone()
    assert row is not None
    return row
