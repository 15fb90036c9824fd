"""People: their tables and columns, how a master row is made of a record, and what a person waits for."""

from __future__ import annotations

from worker.domain.model import Requirement
from worker.domain.people_rules import PeopleRules
from worker.entities.declaration import Entity
from worker.entities.slots import SLOT, SLOTS, TITLE_AND_SLOTS
from worker.entities.worker_tables import Table

# A person who is in the master keeps the slot there.
_NEW = "NOT EXISTS (SELECT FROM marketing.people_master p WHERE p.unique_id = r.unique_id)"


PEOPLE = Entity(
    name="people",
    plural="people",
    key="unique_id",
    invalid_table=Table("marketing", "people_invalid"),
    master_table=Table("marketing", "people_master"),
    workspace_table=Table("public", "people_needs_enrichment"),
    column_types={
        "full_name": "TEXT",
        "first_name": "TEXT",
        "last_name": "TEXT",
        "email": "TEXT",
        "phone": "TEXT",
        "title": "TEXT",
        "company_name": "TEXT",
        "company_unique_id": "TEXT",
        "linkedin_url": "TEXT",
        "city": "TEXT",
        "state": "TEXT",
    },
    label="full_name",
    master_columns={
        "unique_id": r"TEXT PRIMARY KEY CHECK (unique_id ~ '^04\.04\.02\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$')",
        "company_unique_id": (
            "TEXT NOT NULL"
            r" CHECK (company_unique_id ~ '^04\.04\.01\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$')"
        ),
        "company_slot_unique_id": (
            "TEXT NOT NULL"
            r" CHECK (company_slot_unique_id ~ '^04\.04\.05\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$')"
        ),
        "first_name": "TEXT NOT NULL",
        "last_name": "TEXT NOT NULL",
        "full_name": "TEXT GENERATED ALWAYS AS (trim(first_name || ' ' || last_name)) STORED",
        "title": "TEXT",
        "seniority": "TEXT",
        "department": "TEXT",
        "email": r"TEXT CHECK (email IS NULL OR email ~* '^[A-Z0-9._%+-]+@[A-Z0-9.-]+\.[A-Z]{2,}$')",
        "work_phone_e164": "TEXT",
        "personal_phone_e164": "TEXT",
        "linkedin_url": "TEXT",
        "twitter_url": "TEXT",
        "facebook_url": "TEXT",
        "bio": "TEXT",
        "skills": "TEXT[]",
        "education": "TEXT",
        "certifications": "TEXT[]",
        "source_system": "TEXT NOT NULL",
        "source_record_id": "TEXT",
        "promoted_from_intake_at": "TIMESTAMPTZ NOT NULL DEFAULT now()",
        "promotion_audit_log_id": "INTEGER",
        "created_at": "TIMESTAMPTZ DEFAULT now()",
        "updated_at": "TIMESTAMPTZ DEFAULT now()",
        "email_verified": "BOOLEAN DEFAULT false",
    },
    mapping={
        "first_name": "first_name",
        "last_name": "last_name",
        "title": "title",
        "email": "email",
        "linkedin_url": "linkedin_url",
        "company_unique_id": "company_unique_id",
    },
    computed={
        # An _e164 column is dialled: a phone that is left as typed is not carried.
        "work_phone_e164": r"CASE WHEN r.phone ~ '^\+[1-9][0-9]{6,14}$' THEN r.phone END",
        "company_slot_unique_id": SLOT,
        "source_record_id": "r.id::text",
        "source_system": "'enrichment'",
    },
    dialled=("phone",),
    kept=("company_slot_unique_id", "source_system", "source_record_id"),
    rules=PeopleRules,
    requirements=(
        # A company id that no master row could ever have is not waited for: the master refuses it in words.
        Requirement(
            waits_for="r.company_unique_id",
            unmet=(
                r"r.company_unique_id ~ '^04\.04\.01\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'"
                " AND NOT EXISTS (SELECT FROM marketing.company_master m"
                " WHERE m.company_unique_id = r.company_unique_id)"
            ),
            note="Waiting: company {key} is not in the master yet. The record goes on by itself when it is.",
        ),
        Requirement(
            waits_for="r.company_unique_id",
            unmet=(
                r"r.company_unique_id ~ '^04\.04\.01\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'"
                f" AND NOT EXISTS (SELECT FROM {SLOTS} s WHERE s.company_unique_id = r.company_unique_id) AND {_NEW}"
            ),
            note="Waiting: company {key} has no slot for people yet. The record goes on by itself when it has.",
        ),
        Requirement(
            waits_for="r.company_unique_id",
            unmet=(
                r"r.company_unique_id ~ '^04\.04\.01\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'"
                f" AND {SLOT} IS NULL AND {_NEW}"
            ),
            about=TITLE_AND_SLOTS,
            note=(
                "Waiting: company {key} has no slot for {about}. Correct the title, or wait: the record goes on by"
                " itself when there is a slot for it."
            ),
        ),
    ),
    reads=(Table("marketing", "company_slots"), Table("marketing", "company_master")),
    raw_table=Table("marketing", "people_raw_wv"),
)
