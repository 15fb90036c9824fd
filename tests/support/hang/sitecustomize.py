"""Makes the pull's task hang from its second turn on, in a worker that takes a second without a turn for a hang.

Python imports a module of this name by itself where it finds one; only the watchdog's test puts it on the path.
"""

from typing import Any

import anyio

from worker.observe import health
from worker.supabase import position

honest = position.due
turns: list[None] = []


async def due(*arguments: Any) -> list[str]:
    turns.append(None)
    if len(turns) > 1:
        await anyio.sleep_forever()
    return await honest(*arguments)


position.due = due
health.STALLED_SECONDS = 1.0
