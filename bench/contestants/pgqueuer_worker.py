"""PgQueuer, as its documentation recommends for speed: asyncpg and uvloop, a connection of its own for the queue
manager, pools for the handlers, large dequeue batches, its autovacuum settings, durability `balanced`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job

from bench.contestants import carry

BATCH = int(os.environ.get("BENCH_PGQUEUER_BATCH", "100"))
TASKS = int(os.environ.get("BENCH_PGQUEUER_TASKS", "1000"))
POOL = int(os.environ.get("BENCH_PGQUEUER_POOL", "50"))


async def _main() -> None:
    here = await asyncpg.create_pool(os.environ["SUPABASE_DATABASE_URL"], min_size=POOL, max_size=POOL)
    there = await asyncpg.create_pool(os.environ["NEON_DATABASE_URL"], min_size=POOL, max_size=POOL)
    queue = await asyncpg.connect(os.environ["SUPABASE_DATABASE_URL"])
    pgq = PgQueuer(AsyncpgDriver(queue))
    statements = {name: carry.numbered(getattr(carry, name)) for name in ("PROMOTE", "FLAG", "ACKNOWLEDGE")}
    read, _ = carry.numbered(carry.READ)

    async def execute(pool: Any, name: str, params: dict[str, Any]) -> None:
        text, names = statements[name]
        await pool.execute(text, *(params[one] for one in names))

    @pgq.entrypoint("carry")
    async def _carry(job: Job) -> None:
        assert job.payload is not None
        row = await here.fetchrow(read, job.payload.decode())
        if row is None:
            return
        passed, params = carry.judged(row)
        await execute(there, "PROMOTE" if passed else "FLAG", params)
        await execute(here, "ACKNOWLEDGE", params)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pgq.shutdown.set)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await pgq.qm.run(batch_size=BATCH, max_concurrent_tasks=TASKS or None, dequeue_timeout=timedelta(seconds=30))


if __name__ == "__main__":
    uvloop.run(_main())
