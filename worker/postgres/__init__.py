"""Access to any Postgres: connections, transactions, the pipeline, errors and hints."""
