"""The tables as the customer's guide makes them, by hand."""

from __future__ import annotations

DATA = {
    "company": "company_name TEXT, domain TEXT, industry TEXT, employee_count INTEGER, website TEXT, phone TEXT,"
    " address TEXT, city TEXT, state TEXT, zip TEXT",
    "people": "full_name TEXT, first_name TEXT, last_name TEXT, email TEXT, phone TEXT, title TEXT, company_name TEXT,"
    " company_unique_id TEXT, linkedin_url TEXT, city TEXT, state TEXT",
}
KEYS = {"company": "company_unique_id", "people": "unique_id"}


def invalid_table(kind: str) -> str:
    """Neon's invalid table."""
    return (
        f"CREATE TABLE marketing.{kind}_invalid (id BIGSERIAL PRIMARY KEY, {KEYS[kind]} TEXT UNIQUE NOT NULL, {DATA[kind]},"
        " validation_status TEXT DEFAULT 'FAILED', reason_code TEXT NOT NULL, validation_errors JSONB NOT NULL,"
        " validation_warnings JSONB, failed_at TIMESTAMP DEFAULT now(), reviewed BOOLEAN DEFAULT false, batch_id TEXT,"
        " source_table TEXT DEFAULT 'marketing.raw', created_at TIMESTAMP DEFAULT now(),"
        " updated_at TIMESTAMP DEFAULT now());"
    )


def workspace_table(kind: str) -> str:
    """Supabase's workspace table, with the guide's indexes."""
    name = f"{kind}_needs_enrichment"
    return (
        f"CREATE TABLE {name} (id BIGSERIAL PRIMARY KEY, neon_id BIGINT, {KEYS[kind]} TEXT UNIQUE NOT NULL,"
        f" source_batch_id TEXT, {DATA[kind]}, original_validation_errors JSONB, original_validation_warnings JSONB,"
        " reason_code TEXT, enrichment_status TEXT DEFAULT 'pending', enrichment_notes TEXT, enriched_by TEXT,"
        " enriched_at TIMESTAMP, pulled_from_neon_at TIMESTAMP DEFAULT now(), pushed_to_neon_at TIMESTAMP,"
        " last_sync_hash TEXT, created_at TIMESTAMP DEFAULT now(), updated_at TIMESTAMP DEFAULT now());"
        f"CREATE INDEX idx_{kind}_enrichment_status ON {name} (enrichment_status);"
        f"CREATE INDEX idx_{kind}_unique_id ON {name} ({KEYS[kind]});"
        f"CREATE INDEX idx_{kind}_sync_status ON {name} (enrichment_status, pushed_to_neon_at);"
    )


def with_zones(made: str) -> str:
    """The same, with time zones in every date."""
    return made.replace(" TIMESTAMP", " TIMESTAMPTZ")
