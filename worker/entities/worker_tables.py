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
PULLS = Table("marketing", "enrichment_pulls")
LOG = Table("public", "shq_validation_log")
ENTITIES = Table("marketing", "enrichment_entities")
POSITION = Table("public", "enrichment_pull_position")
OUTBOX = Table("public", "enrichment_outbox")
PAUSED = Table("public", "enrichment_paused")
FAILURES = Table("public", "enrichment_failures")
NEEDS_ATTENTION = Table("public", "needs_attention")
"""The view of all open work."""
SLOTS = Table("marketing", "company_slots")
"""The customer's table of slots; `setup` makes it where it is missing."""

RESERVED_COLUMNS = frozenset({
    "id", "neon_id", "source_batch_id", "original_validation_errors", "original_validation_warnings", "reason_code",
    "enrichment_status", "enrichment_notes", "enriched_by", "enriched_at", "pulled_from_neon_at", "pushed_to_neon_at",
    "last_sync_hash", "created_at", "updated_at", "neon_snapshot", "validation_errors", "validation_warnings",
    "sync_note", "promoted_at", "waiting_for", "sync_code", "receipt_id", "receipt_hash", "queued_versions",
    "times_returned", "returned_at",
    "validation_status", "failed_at", "reviewed", "batch_id", "source_table", "still_invalid",
})  # fmt: skip
"""The columns of every workspace and invalid table beside the key and the data: no data column may have their names."""
