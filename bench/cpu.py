"""Processor time of whole process trees, from Linux' ``/proc``: of processes that live, and of children that have ended."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


class Meter:
    """Counts what named process trees spend from now on."""

    def __init__(self, trees: Mapping[str, Iterable[int]], *, without: Collection[int] = ()) -> None:
        """Begin to count.

        Args:
            trees: name → the roots' process ids.
            without: processes in them that are not counted: the bench's own sessions in a server.
        """
        self._trees = {name: list(roots) for name, roots in trees.items()}
        self._without = without
        self._before = self._now()

    def spent(self) -> dict[str, float]:
        """Seconds of each tree since the beginning; empty where the system does not tell."""
        now = self._now()
        return {name: round(now[name] - before, 3) for name, before in self._before.items() if name in now}

    def _now(self) -> dict[str, float]:
        own: dict[int, float] = {}
        children: dict[int, list[int]] = defaultdict(list)
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                children[int(fields[1])].append(int(folder.name))
                # utime, stime, and of the children that ended and were waited for: cutime, cstime.
                own[int(folder.name)] = sum(int(ticks) for ticks in fields[11:15]) / _TICK
        if not own:
            return {}
        return {
            name: sum(own.get(pid, 0.0) for root in roots for pid in _family(root, children, self._without))
            for name, roots in self._trees.items()
        }


def _family(root: int, children: Mapping[int, list[int]], without: Collection[int]) -> list[int]:
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        if pid not in without:
            found.append(pid)
            todo += children.get(pid, ())
    return found
