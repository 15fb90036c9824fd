"""Embedded servers whose data is in memory, if there is room: a database of a test's own is copied in a thirtieth
of the time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from worker.demo.embedded import EmbeddedServer

_SHARED = Path("/dev/shm")
ROOM = 4 * 1024**3
"""Bytes that must be free there."""
SETTINGS = {"max_wal_size": "128MB", "min_wal_size": "32MB", "full_page_writes": "off"}
"""What keeps the data small. Each new database begins with a checkpoint, after which every page that changes would go into
the log as a whole: against a torn page, which only a crash of the machine leaves behind.
"""


def in_memory() -> Path | None:
    """The folder in memory; None if there is none with enough room."""
    if os.access(_SHARED, os.W_OK) and os.path.ismount(_SHARED) and shutil.disk_usage(_SHARED).free > ROOM:
        return _SHARED
    return None


def embedded(version: int, **settings: str) -> EmbeddedServer:
    """A server, not started yet.

    Args:
        version: PostgreSQL's major version.
        settings: configuration parameters beyond the defaults.
    """
    return EmbeddedServer(version, settings=SETTINGS | settings, parent=in_memory())
