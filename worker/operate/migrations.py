"""``setup --migrations``: Supabase's part of ``setup`` as a file that Supabase's own migration tool replays."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from worker.entities.declaration import Entity
from worker.schema.scripts import scripts
from worker.schema.shape import SUPABASE

SUFFIX = "_enrichment_worker.sql"
_STAMP = "%Y%m%d%H%M%S"
_HEAD = """-- Supabase's part of enrichment-worker, written by `enrichment-worker setup --migrations`.
-- It adds what is missing, and drops and retypes no column of yours; it may run again. Run it in one session, as
-- migration tools do: its helpers live in pg_temp. sql/README.md of the release says what it locks.
"""


def migration(entities: Iterable[Entity]) -> str:
    """The content of the file. It opens no transaction: the tool that replays it may run it within its own."""
    return "\n".join([_HEAD, *(f"-- {one.name}\n{one.text}" for one in scripts(SUPABASE, entities))])


def write_migration(folder: Path, entities: Iterable[Entity], now: datetime) -> tuple[Path, bool]:
    """Write the file, unless the latest of its kind says the same.

    Args:
        folder: ``supabase/migrations`` of a project.
        entities: what is declared.
        now: the moment that its name begins with, in UTC.

    Returns:
        The file, and whether it was written.

    Raises:
        OSError: the folder cannot be read or written; nothing is left in it.
    """
    content = migration(entities)
    files = sorted(folder.iterdir())
    ours = [file for file in files if file.name.endswith(SUFFIX)]
    # An earlier one does not count: what stands in between changed it.
    if ours and ours[-1].read_bytes() == content.encode():
        return ours[-1], False
    taken = {file.name.partition("_")[0] for file in files}
    while (stamp := now.astimezone(UTC).strftime(_STAMP)) in taken:  # the tool knows a migration by its time
        now += timedelta(seconds=1)
    file = folder / f"{stamp}{SUFFIX}"
    with file.open("x", encoding="utf-8") as opened:
        try:
            opened.write(content)
            opened.flush()
        except OSError:
            file.unlink()
            raise
    return file, True
