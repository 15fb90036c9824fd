"""Kills this process at the statement of a delivery that ``CRASH_AT`` names: ``9:before``, ``9:after``.

Python imports a module of this name by itself where it finds one; only the crash test puts it on the path.
"""

import asyncio
import os
import signal
from typing import Any

number, _, when = os.environ.get("CRASH_AT", "").partition(":")

if number:
    from worker.postgres import transaction
    from worker.sync import acknowledge

    honest = transaction.send
    seen: dict[Any, int] = {}
    """Statements of each task that claimed companies; the other entity's consumer does not count."""

    async def send(connection: Any, *steps: Any, **options: Any) -> Any:
        """The same statements one by one, so that the server has executed each before the next."""
        cursors: list[Any] = []
        task = asyncio.current_task()
        if any("FOR UPDATE OF w SKIP LOCKED" in (t := s.as_string(connection)) and "company" in t for s, _ in steps):
            seen.setdefault(task, 0)
        for step in steps:
            if task in seen:
                seen[task] += 1
            here = seen.get(task) == int(number)
            if here and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            cursors += await honest(connection, step, **options)
            if here and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
        return cursors

    for module in (transaction, acknowledge):
        assert module.send is honest
        module.send = send  # type: ignore[attr-defined]
