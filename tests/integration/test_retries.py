"""When the tasks of ``run`` try again after a fault."""

from __future__ import annotations

import math

import anyio
import psycopg
from declared import ENTITIES

from worker.daemon.consumer import Consumer
from worker.daemon.puller import Puller
from worker.daemon.task_faults import RetryTimer
from worker.daemon.wakeup import Wakeup
from worker.observe.monitor import Monitor
from worker.settings import Settings
from worker.sync.databases import Databases, open_databases

GONE = psycopg.OperationalError("the connection is lost")


def puller_of(databases: Databases, settings: Settings) -> tuple[Puller, Monitor]:
    monitor, pull_now = Monitor(ENTITIES), Wakeup()
    monitor.listening(None)
    consumers = [
        Consumer(entity, databases, monitor, interval=5.0, pull_now=pull_now, counts_changed=Wakeup())
        for entity in ENTITIES.values()
    ]
    return Puller(databases, settings, monitor, consumers=consumers, pull_now=pull_now), monitor


def test_the_first_retry_is_at_once_and_later_ones_wait_longer_until_one_succeeds() -> None:
    timer = RetryTimer()
    assert timer.remaining is None
    delays = [timer.start() for _ in range(12)]
    assert delays[0] == 0
    assert all(0 < delay <= 30 for delay in delays[1:])
    assert delays[1] <= 0.1
    assert delays[-1] > 3
    assert 0 < timer.remaining <= delays[-1]
    timer.reset()
    assert timer.remaining is None
    assert timer.start() == 0


def test_while_a_pull_waits_for_its_retry_nothing_else_of_it_is_due(prepared, env) -> None:
    """Or its loop would turn without a pause for as long as a database is away."""

    async def job() -> None:
        async with open_databases(Settings(**env)) as databases:
            puller, monitor = puller_of(databases, Settings(**env))
            company = puller._pulls[0]
            company._acknowledging.start()
            assert company.remaining == 0
            for _ in range(2):
                await company._faults.failed(GONE)
            assert company.remaining > 0
            for _ in range(2):
                await puller._faults.failed(GONE)
            await puller._pull_due()
            assert 0 < puller._until_retry() < math.inf
            assert monitor.health.unready() == ["pull of company, pull: the connection is lost"]

    anyio.run(job)


def test_a_pull_that_works_again_shows_no_fault(prepared, env) -> None:
    async def job() -> None:
        async with open_databases(Settings(**env)) as databases:
            puller, monitor = puller_of(databases, Settings(**env))
            await puller._faults.failed(GONE)
            await puller._pulls[0]._faults.failed(GONE)
            await puller._pull_due()
            assert puller._until_retry() == math.inf
            assert monitor.health.unready() == []
            assert [one.consumer.missed for one in puller._pulls] == [False, False]

    anyio.run(job)


def test_an_acknowledgement_that_is_missed_while_others_are_made_is_not_forgotten(
    prepared, env, databases, neon, eventually
) -> None:
    def waits_for_the_ledger() -> bool:
        found = neon.execute(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(found.fetchall())

    async def job() -> None:
        async with open_databases(Settings(**env)) as opened, anyio.create_task_group() as tasks:
            puller, _ = puller_of(opened, Settings(**env))
            company = puller._pulls[0]
            with psycopg.connect(databases.neon_url) as somebody:
                somebody.execute("LOCK TABLE marketing.enrichment_ledger IN ACCESS EXCLUSIVE MODE")
                tasks.start_soon(company._acknowledge_missed)
                await anyio.to_thread.run_sync(eventually, waits_for_the_ledger)
                company.consumer._note_missed()
        assert company._acknowledging.remaining is None
        assert company.consumer.missed

    anyio.run(job)
