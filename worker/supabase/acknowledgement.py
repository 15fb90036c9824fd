"""Supabase: what the rows of settled records are to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from psycopg import sql

from worker.domain.model import Data, Receipt
from worker.postgres.statements import statement
from worker.supabase.queue import STAMP


@dataclass(frozen=True, slots=True)
class Reply:
    """What a workspace row shows from now on. None leaves a cell as it is."""

    key: str
    version: datetime | None
    """The row is written only if it still has this ``updated_at``: a newer edit is not overwritten."""
    status: str
    note: str | None
    data: Data | None = None
    """Data columns that change."""
    snapshot: Data | None = None
    errors: Mapping[str, str] | None = None
    warnings: Mapping[str, str] | None = None
    reason_code: str | None = None
    pushed: bool = False
    promoted_at: datetime | None = None
    waiting_for: str | None = None
    code: str | None = None
    """The code of ``note``."""
    receipt: Receipt | None = None
    """The ledger row with the outcome."""
    forget: bool | None = None
    """Whether to remove the row's receipt: Neon no longer knows it."""
    as_of: datetime | None = None
    """If the row is older because its database was restored: the version that the values are from."""


VERSIONS = sql.SQL(
    "CASE WHEN a.receipt_id IS NOT NULL THEN NULL"
    " WHEN a.as_of > w.updated_at THEN"
    " concat_ws(',', w.queued_versions, to_char(a.as_of, {}))"
    " ELSE w.queued_versions END"
).format(STAMP)
"""The new ``queued_versions`` of a row that gets a reply."""

OFTEN = 4
"""So many returns within ``OFTEN_SPAN`` are many; a row keeps the times of the last so many. The view has both, too."""
OFTEN_SPAN = "30 days"
RETURNS = statement("worker.supabase", "returns").format(often=sql.Literal(OFTEN), span=sql.Literal(OFTEN_SPAN))
"""How often the record of a row came back, when it has got a reply."""
RETURNED_OFTEN = sql.SQL(
    "coalesce(cardinality(w.returned_at) >= {}"
    " AND w.returned_at[1] > clock_timestamp() AT TIME ZONE 'UTC' - interval {}, false)"
).format(sql.Literal(OFTEN), sql.Literal(OFTEN_SPAN))
"""The condition that the record of a row came back often."""


_PLAIN_FIELDS = tuple(field.name for field in fields(Reply) if field.name not in ("version", "receipt", "as_of"))


def as_json(reply: Reply) -> dict[str, Any]:
    """The reply as the acknowledging statement reads it; cells that stay as they are are left out."""
    cells = {name: value for name in _PLAIN_FIELDS if (value := getattr(reply, name)) is not None}
    if reply.version:
        cells["version"] = reply.version
    if reply.as_of:
        cells["as_of"] = reply.as_of
    if reply.receipt:
        cells["receipt_id"], cells["receipt_hash"] = reply.receipt.id, reply.receipt.hash
    return cells
