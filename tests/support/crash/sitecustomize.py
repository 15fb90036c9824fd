"""Kills this process at the statement of a delivery that ``CRASH_AT`` names: ``9:before``, ``9:after``.

Python imports a module of this name by itself where it finds one, and so does a fork of ``forks.py``; only the tests of crashes
put it on the path.
"""

import asyncio
import os
import signal
from typing import Any

number, _, when = os.environ.get("CRASH_AT", "").partition(":")

if number:
    from psycopg import pq

    from worker.postgres import pipeline, transaction
    from worker.sync import acknowledge

    honest = transaction.send
    seen: dict[Any, int] = {}
    """Statements of each task that claimed companies; the other entity's consumer does not count."""

    async def send(connection: Any, *steps: Any, **options: Any) -> Any:
        """The same statements; where the process dies among them, the server has executed those before, and has not been
        told to commit. The sync that commits a transaction without COMMIT counts as a statement.
        """
        task = asyncio.current_task()
        texts = [step.as_string(connection) for step, _ in steps]
        if any("FOR UPDATE OF w SKIP LOCKED" in text and "company" in text for text in texts):
            seen.setdefault(task, 0)
        if task not in seen:
            return await honest(connection, *steps, **options)
        idle = connection.info.transaction_status == pq.TransactionStatus.IDLE
        syncs = int(idle and not texts[0].startswith("BEGIN"))
        place = int(number) - seen[task]
        seen[task] += len(steps) + syncs
        if not 0 < place <= len(steps) + syncs:
            return await honest(connection, *steps, **options)
        if when == "after" and place > len(steps):
            await honest(connection, *steps, **options)
        else:
            executed = [(text, params) for text, (_, params) in zip(texts, steps, strict=True)]
            await _execute(connection, executed[: place - (when == "before")])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    async def _execute(connection: Any, statements: Any) -> None:
        """Have the server execute these, without a sync."""
        link, dumping = connection.pgconn, pipeline.Transformer(connection)
        link.enter_pipeline_mode()
        for text, params in statements:
            query, values, types, formats = pipeline._written(text, params, dumping, "utf-8")
            link.send_query_params(query, values, param_types=types, param_formats=formats)
        link.send_flush_request()

        def answers() -> Any:
            while link.flush():
                yield pipeline.Wait.RW
            left = len(statements)
            while left:
                while link.is_busy():
                    yield pipeline.Wait.R
                    link.consume_input()
                if answer := link.get_result():
                    assert answer.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK), answer.error_message
                    left -= 1

        if statements:
            await connection.wait(answers())

    for module in (transaction, acknowledge):
        assert module.send is honest
        module.send = send  # type: ignore[attr-defined]
