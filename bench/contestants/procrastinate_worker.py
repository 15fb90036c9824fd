"""Procrastinate, as its documentation recommends for speed: asynchronous tasks, one worker with concurrency, jobs
deleted on completion, LISTEN/NOTIFY; pools for the handlers. uvloop, as the other queue has it.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import procrastinate
import uvloop
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from bench.contestants import carry

CONCURRENCY = int(os.environ.get("BENCH_PROCRASTINATE_CONCURRENCY", "30"))
POOL = int(os.environ.get("BENCH_PROCRASTINATE_POOL", "20"))
_CONNECTION = {"autocommit": True, "row_factory": dict_row}


async def _autocommit(connection: Any) -> None:
    # Its documentation does not ask for it: without, every statement is three round trips, and a third slower.
    await connection.set_autocommit(True)


async def _main(what: str) -> None:
    logging.disable(logging.WARNING)
    connector = procrastinate.PsycopgConnector(
        conninfo=os.environ["SUPABASE_DATABASE_URL"],
        min_size=POOL if what == "run" else 1,
        max_size=POOL,
        configure=_autocommit,
    )
    app = procrastinate.App(connector=connector)
    if what == "install":
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
        return

    pools: dict[str, Any] = {
        side: AsyncConnectionPool(
            os.environ[f"{side}_DATABASE_URL"], kwargs=_CONNECTION, min_size=POOL, max_size=POOL, open=False
        )
        for side in ("NEON", "SUPABASE")
    }
    here, there = pools["SUPABASE"], pools["NEON"]

    @app.task(name="carry", queue="carry")
    async def _carry(key: str) -> None:
        async with here.connection() as connection:
            row = await (await connection.execute(carry.READ, {"key": key})).fetchone()
        if row is None:
            return
        passed, params = carry.judged(row)
        async with there.connection() as connection:
            await connection.execute(carry.PROMOTE if passed else carry.FLAG, params)
        async with here.connection() as connection:
            await connection.execute(carry.ACKNOWLEDGE, params)

    async with app.open_async(), here, there:
        for pool in (here, there):
            await pool.wait()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await app.run_worker_async(queues=["carry"], concurrency=CONCURRENCY, delete_jobs="always")


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
