"""Pulls companies whenever a line comes on stdin, and says how long it took. Started by :mod:`bench.pulls`."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import structlog

from worker.entities.loader import load_entities
from worker.settings import load_settings
from worker.sync.databases import open_databases
from worker.sync.pull import pull


async def _main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the answers
    async with open_databases(load_settings()) as opened:
        while await asyncio.to_thread(sys.stdin.readline):
            began = time.perf_counter()
            pulled = await pull(opened, load_entities()["company"])
            took = time.perf_counter() - began
            assert pulled is not None
            sys.stdout.write(json.dumps({"seconds": took, "new": pulled.new, "full": pulled.full}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
