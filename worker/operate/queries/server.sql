-- The properties of a server.
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS says,
  extract(epoch FROM clock_timestamp())::float8 AS clock, current_setting('server_encoding') AS encoding,
  pg_is_in_recovery() AS replica, current_setting('default_transaction_read_only')::boolean AS read_only,
  (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only') AS set_by,
  quote_ident(current_database()) AS database, quote_ident(session_user) AS role
