"""``doctor``: every check at once, each finding with its fix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from worker.domain.findings import Finding, Level
from worker.domain.findings import ok as _ok
from worker.domain.findings import problem as _problem
from worker.domain.messages import day_of
from worker.entities.declaration import Entity
from worker.entities.loader import load_entities
from worker.entities.worker_tables import FAILURES, PAUSED, POSITION, Table
from worker.neon.catalogue import Found
from worker.operate import indexes, public_api
from worker.operate.privileges import Found as Privilege
from worker.operate.privileges import check, needs
from worker.operate.servers import notification, server
from worker.postgres.address import safe_address
from worker.postgres.connection import Connection, connect
from worker.postgres.errors import Kind, in_one_line, kind_of
from worker.postgres.hints import hint_for, reach_hint
from worker.schema import examination, fixes
from worker.schema.shape import OUTBOX_CHECK, PAUSES, shapes
from worker.settings import Settings
from worker.supabase.pause import paused_among
from worker.sync.restore import unsettled

LATE_SECONDS = 900
"""An event that has waited for so long counts as stuck."""
TRIGGERS = (
    "enrichment_a_key", "enrichment_a_statement", "enrichment_b_row", "enrichment_notify_insert",
    "enrichment_notify_update",
)  # fmt: skip


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Check everything, one finding after the other; a failed check does not stop the next one.

    It never raises for a finding; a database that cannot be reached is one.
    """
    sides = (
        ("Neon", "NEON_DATABASE_URL", settings.neon_conninfo),
        ("Supabase", "SUPABASE_DATABASE_URL", settings.supabase_conninfo),
    )
    entities = load_entities(settings.entities).values()
    seen: dict[Table, Found] = {}
    at_fault = False
    tables: dict[str, public_api.TableFacts] | None = None
    for name, setting, conninfo in sides:
        try:
            connection = await connect(conninfo)
        except (psycopg.Error, OSError) as error:
            text = f"{safe_address(conninfo)} ({setting}): {in_one_line(error)}"
            yield _problem(f"{name} connection", text, reach_hint(error, setting))
            at_fault = True
            continue
        async with connection:
            yield _ok(f"{name} connection", safe_address(conninfo))
            if name == "Supabase":
                with suppress(psycopg.Error):
                    tables = await public_api.read_tables(connection, entities)
            try:
                for finding in await server(connection, name, setting, conninfo):
                    yield finding
                for finding in await _privileges(connection, name, settings, entities):
                    yield finding
                async for finding in _tables(connection, name, settings, entities, seen):
                    at_fault |= finding.level is Level.PROBLEM
                    yield finding
            except psycopg.errors.InsufficientPrivilege as error:
                at_fault = True
                yield _problem(name, in_one_line(error), "grant what is named above, and run doctor again")
            except psycopg.Error as error:
                at_fault = True
                hint = "run doctor again when the database answers" if kind_of(error) is Kind.TRANSIENT else ""
                yield _problem(name, in_one_line(error), hint_for(error, asked=True) or hint)
    if not at_fault:
        yield await _restored(settings, entities)
    yield await public_api.ask(settings, entities, tables)


async def _restored(settings: Settings, entities: Collection[Entity]) -> Finding:
    """Whether a database was restored to an earlier moment, and that is not settled."""
    check = "restored databases"
    try:
        async with await connect(settings.neon_conninfo) as neon, await connect(settings.supabase_conninfo) as supabase:
            found = {entity.name: await unsettled(entity, neon, supabase) for entity in entities}
    except psycopg.Error as error:
        return Finding(Level.WARNING, check, f"not looked: {in_one_line(error)}", "run doctor again")
    lines = [f"{name}: {text}" for name, text in found.items() if text]
    if lines:
        hint = (
            "`enrichment-worker pull` brings both databases together, as every worker does by itself;"
            " `enrichment-worker reconcile` lists what is left, and settles it with --repair"
        )
        return _problem(check, "; ".join(lines), hint)
    return _ok(check, "neither database was restored to an earlier moment, or that is settled")


async def _tables(
    connection: Connection, name: str, settings: Settings, entities: Collection[Entity], seen: dict[Table, Found]
) -> AsyncIterator[Finding]:
    """One finding for each mismatch of a table, and one for each group of tables without any."""
    wanted = shapes(entities, announces=settings.n8n_webhook_url is not None)
    mismatches, found = await examination.examine(connection, name, wanted, entities, seen)
    seen |= found
    if name != "Neon":
        mismatches = [mismatch for mismatch in mismatches if not mismatch.hides]  # the finding of each table says more
    at_fault = {mismatch.shape.subject for mismatch in mismatches}
    for mismatch in mismatches:
        yield _problem(mismatch.shape.subject, mismatch.problem.text, mismatch.problem.hint)
    for subject in dict.fromkeys(shape.subject for shape in wanted if shape.database == name):
        # The worker's own tables have findings on what they are used for.
        if subject not in at_fault and subject.startswith(tuple(f"{entity.name}: " for entity in entities)):
            yield _ok(subject, "every table is as it has to be")
    for finding in await indexes.look(connection, name, entities):
        yield finding
    if name == "Neon":
        return
    for entity in entities:
        if found[entity.workspace_table].kind in ("r", "p"):
            yield await _triggers(connection, entity.name, entity.workspace_table)
            yield await _row_level_security(connection, entity.workspace_table)
    for table in (POSITION, PAUSED, FAILURES):
        if found[table].kind:
            yield await _row_level_security(connection, table)
    if found[PAUSED].kind and PAUSES not in at_fault:
        yield await _paused(connection, entities)
    if settings.n8n_webhook_url and OUTBOX_CHECK not in at_fault:
        yield await _outbox(connection)
    yield await notification(connection, settings)


async def _paused(connection: Connection, entities: Collection[Entity]) -> Finding:
    """What an operator has paused is meant so: a warning, as it may have been forgotten."""
    found = await paused_among(connection, entities)
    if not found:
        return _ok(PAUSES, "nothing is paused")
    text = "; ".join(f"{name} is paused since {day_of(at)}" for name, at in found.items())
    hint = "; ".join(f"`enrichment-worker resume {name}` lets it go on" for name in found)
    return Finding(Level.WARNING, PAUSES, text, hint)


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
        hint = "fix the receiver, or let a worker run: they are posted when it answers"
        return Finding(Level.WARNING, check, f"{row['waiting']} waiting, the oldest for long: {row['why']}", hint)
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
        return _problem(check, f"missing or disabled: {', '.join(lacking)}", fixes.SETUP)
    return _ok(check, "all are there and enabled")


async def _row_level_security(connection: Connection, table: Table) -> Finding:
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
        return _problem(check, "is off: the REST API may show this table to anybody", fixes.SETUP)
    if row["blind"]:
        hint = "run sql/roles/supabase.sql, or give this role BYPASSRLS or a policy FOR ALL … USING (true)"
        return _problem(check, "hides rows from this role too: its work would go unseen", hint)
    if row["open"] and not row["policy"]:
        return _problem(check, f"is on, but {', '.join(row['open'])} still have grants", fixes.SETUP)
    return _ok(check, "on" + (", with policies of your own" if row["policy"] else ", and strangers have no grants"))


async def _privileges(
    connection: Connection, database: str, settings: Settings, entities: Collection[Entity]
) -> list[Finding]:
    """One finding for each task of the worker: whether its role may do it."""
    found: dict[str, list[Privilege]] = {}
    for one in await check(connection, needs(database, entities, prunes=settings.ledger_retention is not None)):
        if one.may is not None:
            found.setdefault(one.need.subject, []).append(one)
    return [_may(subject, ones) for subject, ones in found.items()]


def _may(subject: str, found: Sequence[Privilege]) -> Finding:
    lacking = [one for one in found if not one.may]
    if lacking:
        text = f"this role lacks {', '.join(str(one.need) for one in lacking)}"
        return _problem(subject, text, "as the owner: " + "; ".join(one.grant for one in lacking))
    return _ok(subject, "this role may do what it must")


async def _one(connection: Connection, statement: str, **params: object) -> dict[str, Any]:
    cursor = await connection.execute(sql.SQL(statement), params)
    [row] = await cursor.fetchall()
    return row
