"""How the tasks of ``run`` wake each other."""

from __future__ import annotations

import anyio


class Wakeup:
    """Set any number of times, seen once: wakes one task."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake the task that waits, or the next that will."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether it was set and nobody has waited for it since."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until it is set, and clear it."""
        await self._event.wait()
        self._event = anyio.Event()
