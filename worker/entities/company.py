"""Companies: their tables and columns, and how a master row is made of a record."""

from __future__ import annotations

from worker.domain.company_rules import CompanyRules
from worker.entities.declaration import Entity
from worker.entities.worker_tables import Table

COMPANY = Entity(
    name="company",
    plural="companies",
    key="company_unique_id",
    invalid_table=Table("marketing", "company_invalid"),
    master_table=Table("marketing", "company_master"),
    workspace_table=Table("public", "company_needs_enrichment"),
    column_types={
        "company_name": "TEXT",
        "domain": "TEXT",
        "industry": "TEXT",
        "employee_count": "INTEGER",
        "website": "TEXT",
        "phone": "TEXT",
        "address": "TEXT",
        "city": "TEXT",
        "state": "TEXT",
        "zip": "TEXT",
    },
    label="company_name",
    master_columns={
        "company_unique_id": (
            "TEXT PRIMARY KEY"
            r" CHECK (company_unique_id ~ '^04\.04\.01\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$')"
        ),
        "company_name": "TEXT NOT NULL",
        "website_url": "TEXT NOT NULL",
        "industry": "TEXT",
        "employee_count": "INTEGER CHECK (employee_count IS NULL OR employee_count >= 0)",
        "company_phone": "TEXT",
        "address_street": "TEXT",
        "address_city": "TEXT",
        "address_state": "TEXT",
        "address_zip": "TEXT",
        "address_country": "TEXT",
        "linkedin_url": "TEXT",
        "facebook_url": "TEXT",
        "twitter_url": "TEXT",
        "sic_codes": "TEXT",
        "founded_year": "INTEGER",
        "keywords": "TEXT[]",
        "description": "TEXT",
        "source_system": "TEXT NOT NULL",
        "source_record_id": "TEXT NOT NULL",
        "promoted_from_intake_at": "TIMESTAMPTZ NOT NULL DEFAULT now()",
        "promotion_audit_log_id": "INTEGER",
        "created_at": "TIMESTAMPTZ DEFAULT now()",
        "updated_at": "TIMESTAMPTZ DEFAULT now()",
        "state_abbrev": "TEXT",
        "import_batch_id": "TEXT",
        "validated_at": "TIMESTAMPTZ",
        "validated_by": "TEXT",
        "data_quality_score": "NUMERIC",
    },
    mapping={
        "company_name": "company_name",
        "website_url": "website",
        "industry": "industry",
        "employee_count": "employee_count",
        "company_phone": "phone",
        "address_street": "address",
        "address_city": "city",
        "address_state": "state",
        "address_zip": "zip",
    },
    computed={
        "import_batch_id": "r.batch_id",
        "source_record_id": "r.id::text",
        "source_system": "'enrichment'",
        "validated_at": "now()",
        "validated_by": "d.enriched_by",
    },
    kept=("source_system", "source_record_id", "import_batch_id"),
    rules=CompanyRules,
    releases=("people",),
    raw_table=Table("marketing", "company_raw_wv"),
)
