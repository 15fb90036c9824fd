"""The kinds of record the worker carries. A new one is one declaration: ``sql/`` is filled in from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg import sql

from worker.domain.company_rules import CompanyRules
from worker.domain.model import Data, Requirement
from worker.domain.normalise import E164, trim
from worker.domain.people_rules import PeopleRules
from worker.domain.rules import RecordRules
from worker.entities.slots import SLOT, SLOTS, TITLE_AND_SLOTS
from worker.entities.worker_tables import Table


@dataclass(frozen=True, slots=True, eq=False)
class Entity:
    """One kind of record: where it lives, what is carried, how it maps to the master, what judges it.

    ``mapping`` and ``computed`` say how a master row is made. A computed column is SQL over ``r``, the
    invalid row with the merged data laid over it, and ``d``, the delivery (``d.enriched_by``). Two declarations
    are never equal: statements are composed once for each.
    """

    name: str
    plural: str
    key: str
    invalid_table: Table
    master_table: Table
    workspace_table: Table
    column_types: Mapping[str, str]
    """Data column → its SQL type: the same in the invalid and the workspace table."""
    label: str
    """The data column, a text, that names a record in a list."""
    master_columns: Mapping[str, str]
    """Master column → the rest of its definition, as CREATE TABLE takes it where there is no master table yet."""
    mapping: Mapping[str, str]
    """Master column → data column."""
    computed: Mapping[str, str]
    """Master column → SQL expression."""
    rules: type[RecordRules]
    dialled: tuple[str, ...] = ()
    """Data columns whose phone the master takes only in E.164."""
    kept: tuple[str, ...] = ()
    """Master columns that a record which is in the master already keeps: where it came from, and its place."""
    requirements: tuple[Requirement, ...] = ()
    releases: tuple[str, ...] = ()
    """Entities that may wait for a record of this one."""
    reads: tuple[Table, ...] = ()
    """Other tables in Neon that ``computed`` and ``requirements`` look at."""
    raw_table: Table | None = None
    """Where the records come from that turned out invalid: what ``source_table`` says where nobody fills it."""
    columns: tuple[str, ...] = field(init=False)
    """The data columns' names, in order."""

    def __post_init__(self) -> None:
        # Kept, not made anew: they are asked for with every record.
        object.__setattr__(self, "columns", tuple(self.column_types))

    def not_carried(self, typed: Data, carried: Data) -> tuple[str, ...]:
        """The data columns whose value does not reach the master as it was typed: a placeholder, or a phone with an
        extension.
        """
        return tuple(
            name
            for name in self.columns
            if isinstance(value := typed.get(name), str)
            and trim(value)
            and (carried.get(name) is None or (name in self.dialled and not E164.fullmatch(str(carried[name]))))
        )

    def count(self, number: int) -> str:
        """``1 company``, ``85 companies``."""
        return f"{number} {self.name if number == 1 else self.plural}"


def data_of(entity: Entity, row: str) -> sql.Composed:
    """The data columns of ``row`` as one JSONB value.

    JSONB has one text for one value whatever the session's settings, so its MD5 is the same on both sides.
    """
    pairs = (sql.SQL("{}, {}").format(sql.Literal(column), sql.Identifier(row, column)) for column in entity.columns)
    return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs))


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

# Companies first: people wait for theirs.
ENTITIES: dict[str, Entity] = {entity.name: entity for entity in (COMPANY, PEOPLE)}
