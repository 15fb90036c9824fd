"""What must hold of both databases at any quiet moment, whatever happened before."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from records import Connection

# One row for each key that any table knows.
NEON = """
SELECT key, i.company_unique_id IS NOT NULL AS invalid, m.company_unique_id IS NOT NULL AS master,
  i.still_invalid, i.validation_errors, l.promoted, l.flagged, l.hashes, l.last, to_jsonb(m) AS master_row,
  md5(jsonb_build_object('company_name', i.company_name, 'domain', i.domain, 'industry', i.industry,
    'employee_count', i.employee_count, 'website', i.website, 'phone', i.phone, 'address', i.address,
    'city', i.city, 'state', i.state, 'zip', i.zip)::text) AS hash
FROM (SELECT company_unique_id AS key FROM marketing.company_invalid
      UNION SELECT company_unique_id FROM marketing.company_master
      UNION SELECT key FROM marketing.enrichment_ledger WHERE entity = 'company') keys
LEFT JOIN marketing.company_invalid i ON i.company_unique_id = key
LEFT JOIN marketing.company_master m ON m.company_unique_id = key
LEFT JOIN LATERAL (
  SELECT count(*) FILTER (WHERE outcome = 'promoted') AS promoted, count(*) FILTER (WHERE outcome = 'flagged') AS flagged,
    count(DISTINCT delivery_hash) FILTER (WHERE outcome IN ('promoted', 'flagged')) AS hashes,
    (array_agg(outcome ORDER BY id DESC) FILTER (WHERE outcome IN ('promoted', 'flagged')))[1] AS last
  FROM marketing.enrichment_ledger WHERE entity = 'company' AND key = keys.key) l ON true
"""
_WORKSPACE = """
SELECT w.*, company_unique_id AS key, md5(neon_snapshot::text) AS digest,
  enrichment_status = 'complete' AND pushed_to_neon_at IS NULL AS queued FROM company_needs_enrichment w
"""


def check(neon: Connection, supabase: Connection, deleted: Collection[str] = ()) -> dict[str, Any]:
    """Compare both databases record by record, and return what was seen.

    Holds of a moment when no worker is in the middle of a delivery and nothing is queued.

    Args:
        neon: the one side.
        supabase: the other.
        deleted: keys of records that somebody deleted from the invalid table.
    """
    there = {row["key"]: row for row in neon.execute(NEON).fetchall()}
    here = {row["key"]: row for row in supabase.execute(_WORKSPACE).fetchall()}
    for key, row in there.items():
        # Exactly one fate.
        if key in deleted:
            assert not (row["invalid"] and row["master"]), f"{key} is in both"
        else:
            assert row["invalid"] != row["master"], f"{key}: invalid {row['invalid']}, master {row['master']}"
        assert row["promoted"] == (1 if row["master"] else 0), f"{key} was promoted {row['promoted']} times"
        # Every outcome has its own delivery, and no delivery two.
        assert row["hashes"] == row["promoted"] + row["flagged"], f"{key}: a delivery took effect twice"
    for key, row in here.items():
        assert not row["queued"], f"{key} is still queued"
        assert row["digest"] == row["last_sync_hash"], f"{key}: the hash is not the snapshot's"
        if key in deleted and not there.get(key, {}).get("master"):
            assert row["promoted_at"] is None, f"{key} was deleted and is told promoted"
            continue
        neons = there[key]
        # The row tells the truth.
        assert (row["promoted_at"] is not None) == neons["master"], f"{key}: promoted_at and the master disagree"
        if row["enrichment_status"] == "failed":
            assert neons["invalid"], f"{key} is failed and not in invalid"
            assert neons["last"] == "flagged", f"{key} is failed without a ledger row"
            assert row["validation_errors"] == neons["validation_errors"], f"{key}: the reasons differ"
            assert row["last_sync_hash"] == neons["hash"], f"{key}: snapshot and invalid row differ"
        if neons["master"]:
            assert row["validation_errors"] == {}, f"{key} is promoted with errors"
            # An edit that fell between promotion and a lost acknowledgement stays in the cell, and the row says so.
            told = "Edits after promotion are not carried" in row["sync_note"]
            assert told or neons["master_row"]["website_url"] == row["website"], f"{key}: master and row differ"
    return {"records": len(there), "rows": len(here), "promoted": sum(row["master"] for row in there.values())}
