"""The worker's own tables. With another schema for them, ``sql/neon/00_common.sql`` and ``sql/roles/`` have it too."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql


@dataclass(frozen=True, slots=True)
class Table:
    """A table by schema and name."""

    schema: str
    name: str

    @property
    def sql(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


LEDGER = Table("marketing", "enrichment_ledger")
RECEIPTS = Table("marketing", "enrichment_receipts")
LOG = Table("public", "shq_validation_log")
POSITION = Table("public", "enrichment_pull_position")
OUTBOX = Table("public", "enrichment_outbox")
