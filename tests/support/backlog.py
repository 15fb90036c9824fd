"""Many companies at once: pulled, completed in one statement, and settled."""

from __future__ import annotations


def flip(supabase, first: int, last: int) -> None:
    """One statement; every tenth is repaired badly."""
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = CASE WHEN neon_id %% 10 = 0"
        " THEN 'n/a' ELSE 'https://c' || neon_id || '.example' END WHERE neon_id BETWEEN %s AND %s", [first, last]
    )  # fmt: skip


def settled(supabase) -> bool:
    row = supabase.execute(
        "SELECT count(*) AS n FROM company_needs_enrichment WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL"
    ).fetchone()
    return row["n"] == 0


def fill(cli, neon, number: int) -> None:
    neon.execute(
        "INSERT INTO marketing.company_invalid (company_unique_id, company_name, reason_code, validation_errors)"
        " SELECT format('04.04.01.01.%%s.001', lpad(i::text, 5, '0')), 'Alder Works ' || i, 'EMPTY_WEBSITE', '{}'"
        " FROM generate_series(1, %s) i", [number]
    )  # fmt: skip
    assert cli("pull").returncode == 0
