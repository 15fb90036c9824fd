"""What any Postgres needs: connections, transactions, the pipeline, errors and hints."""
