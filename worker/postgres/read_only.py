"""Whether a database may be written: the current ``default_transaction_read_only``, not the one that a session has.

A session gets the default of its database and role when it begins, and keeps it. It does not notice a later ``ALTER
DATABASE`` or ``ALTER ROLE``, as Supabase runs when a disk is full, nor that this was lifted. So a transaction that may
write looks the default up, in the statement that it begins with anyway. And a session that was refused a write is
closed, so that the next one gets the current default.
"""

from __future__ import annotations

from psycopg import sql

# The most specific entry counts, as at the start of a session: of the role in this database, of the role, of the
# database, of all.
_STORED = """(
  SELECT pg_catalog.substring(setconfig::text, '[{,]"?default_transaction_read_only=(\\w+)')::boolean
  FROM pg_catalog.pg_db_role_setting
  WHERE pg_catalog.strpos(setconfig::text, 'default_transaction_read_only=') > 0
    AND setrole IN (0, pg_catalog.to_regrole(pg_catalog.quote_ident(session_user))::oid)
    AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
  ORDER BY setrole = 0, setdatabase = 0 LIMIT 1)"""

APPLY_DEFAULT = sql.SQL(
    f"set_config('transaction_read_only', CASE WHEN {_STORED} THEN 'on'"
    " ELSE current_setting('transaction_read_only') END, true)"
)
"""Makes the transaction read-only if that is now the default. Never the other way round."""

END_OUTDATED = sql.SQL(
    "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid()) FROM pg_catalog.pg_settings"  # noqa: S608
    " WHERE name = 'default_transaction_read_only' AND setting = 'on'"
    f" AND source IN ('database', 'user', 'database user', 'global') AND {_STORED} IS NOT TRUE"
    " AND pg_catalog.pg_backend_pid() <> %(pid)s"
)
"""Ends the server's session if it began under a default that has been lifted since, and a pooler holds it: the pooler
would hand it out again as long as it is in use. ``pid`` is the process id that the client sees, which is the pooler's.
"""
