"""``doctor``: every check at once, each finding with its mend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from worker import catalogue, public_api
from worker.bridge import INVALID_COLUMNS, PULL_POSITION, WORKER_COLUMNS
from worker.database import Connection, connect
from worker.entities import ENTITIES, Table
from worker.faults import Kind, SetupMissing, in_one_line, kind_of
from worker.findings import Finding, Level
from worker.findings import ok as _ok
from worker.findings import problem as _problem
from worker.hints import hint, reach_hint
from worker.outbox import OUTBOX
from worker.privileges import Found, look, needs
from worker.servers import notification, server
from worker.settings import Settings, safe_address

LATE_SECONDS = 900
"""An event that waited for so long is not on its way."""
TRIGGERS = ("enrichment_a_key", "enrichment_b_row", "enrichment_notify_insert", "enrichment_notify_update")


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Check everything, one finding after the other; no check keeps the next from running.

    Never raises for what it finds; a database that cannot be reached is a finding.
    """
    sides = (
        ("Neon", "NEON_DATABASE_URL", settings.neon_conninfo),
        ("Supabase", "SUPABASE_DATABASE_URL", settings.supabase_conninfo),
    )
    tables: dict[str, public_api.Held] | None = None
    for name, setting, conninfo in sides:
        try:
            connection = await connect(conninfo)
        except (psycopg.Error, OSError) as error:
            text = f"{safe_address(conninfo)} ({setting}): {in_one_line(error)}"
            yield _problem(f"{name} connection", text, reach_hint(error, setting))
            continue
        async with connection:
            yield _ok(f"{name} connection", safe_address(conninfo))
            if name == "Supabase":
                with suppress(psycopg.Error):
                    tables = await public_api.held(connection)
            try:
                for finding in await server(connection, name, setting, conninfo):
                    yield finding
                for finding in await _privileges(connection, name, settings):
                    yield finding
                findings = _neon(connection) if name == "Neon" else _supabase(connection, settings)
                async for finding in findings:
                    yield finding
            except psycopg.errors.InsufficientPrivilege as error:
                yield _problem(name, in_one_line(error), "grant what is named above, and run doctor again")
            except psycopg.Error as error:
                mend = "run doctor again when the database answers" if kind_of(error) is Kind.TRANSIENT else ""
                yield _problem(name, in_one_line(error), hint(error, asked=True) or mend)
    yield await public_api.ask(settings, tables)


async def _neon(connection: Connection) -> AsyncIterator[Finding]:
    for entity in ENTITIES.values():
        check = f"{entity.name}: Neon's tables"
        try:
            await catalogue.require(
                connection, "Neon", entity.invalid_table, (entity.key, *entity.columns, *INVALID_COLUMNS)
            )
            await catalogue.master_columns(connection, entity)
        except SetupMissing as error:
            text, _, mend = str(error).rpartition("; ") if "; " in str(error) else str(error).rpartition(": ")
            yield _problem(check, text, mend)
        else:
            yield _ok(check, "all columns are there, and every needed one can be filled")
    ledger, log = Table("marketing", "enrichment_ledger"), Table("public", "shq_validation_log")
    try:
        await catalogue.require(connection, "Neon", ledger, ("delivery_hash",))
        await catalogue.require(connection, "Neon", log, ("validation_run_id",))
    except SetupMissing as error:
        text, _, mend = str(error).rpartition(": ")
        yield _problem("ledger and log", text, mend)


async def _supabase(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    ready = True
    for entity in ENTITIES.values():
        check, table = f"{entity.name}: workspace", entity.workspace_table
        try:
            await catalogue.require(connection, "Supabase", table, (entity.key, *entity.columns, *WORKER_COLUMNS))
        except SetupMissing as error:
            text, _, mend = str(error).rpartition(": ")
            yield _problem(check, text, mend)
            ready = False
            continue
        yield _ok(check, "all columns are there")
        yield await _triggers(connection, entity.name, table)
        yield await _closed(connection, table)
    if ready:
        yield await _closed(connection, PULL_POSITION)
    if settings.n8n_webhook_url:
        yield await _outbox(connection)
    yield await notification(connection, settings)


async def _outbox(connection: Connection) -> Finding:
    check = "events to N8N_WEBHOOK_URL"
    try:
        await catalogue.require(connection, "Supabase", OUTBOX, ("entity", "event"))
    except SetupMissing as error:
        text, _, mend = str(error).rpartition(": ")
        return _problem(check, text, mend)
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
        return _problem(check, f"missing or disabled: {', '.join(lacking)}", catalogue.SETUP_MEND)
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
        return _problem(check, "is off: the REST API may show this table to anybody", catalogue.SETUP_MEND)
    if row["blind"]:
        mend = "run sql/roles/supabase.sql, or give this role BYPASSRLS or a policy FOR ALL … USING (true)"
        return _problem(check, "hides rows from this role too: its work would go unseen", mend)
    if row["open"] and not row["policy"]:
        return _problem(check, f"is on, but {', '.join(row['open'])} still have grants", catalogue.SETUP_MEND)
    return _ok(check, "on" + (", with policies of your own" if row["policy"] else ", and strangers have no grants"))


async def _privileges(connection: Connection, database: str, settings: Settings) -> list[Finding]:
    """One finding for each thing the worker does: whether its role may."""
    found: dict[str, list[Found]] = {}
    for one in await look(connection, needs(database, prunes=settings.ledger_retention is not None)):
        if one.may is not None:
            found.setdefault(one.need.subject, []).append(one)
    return [_may(subject, ones) for subject, ones in found.items()]


def _may(subject: str, found: Sequence[Found]) -> Finding:
    lacking = [one for one in found if not one.may]
    if lacking:
        text = f"this role lacks {', '.join(str(one.need) for one in lacking)}"
        return _problem(subject, text, "as the owner: " + "; ".join(one.grant for one in lacking))
    return _ok(subject, "this role may do what it must")


async def _one(connection: Connection, statement: str, **params: object) -> dict[str, Any]:
    cursor = await connection.execute(sql.SQL(statement), params)
    row = await cursor.fetchone()
    assert row is not None
    return row
