"""The worker's steps, called in this process on the test's databases: what a command or the daemon would do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
from declared import ENTITIES

from worker.domain.pulled import Pulled
from worker.settings import load_settings
from worker.sync import databases as worker_databases
from worker.sync import stages
from worker.sync.databases import open_databases
from worker.sync.deliver import Tally, deliver
from worker.sync.pull import pull
from worker.sync.rehearsal import Revalidated
from worker.sync.undo import Undone, undo

if TYPE_CHECKING:
    from conftest import Databases

T = TypeVar("T")


class Steps:
    """Each step opens both databases again, like a process that has just started."""

    def __init__(self, databases: Databases, setenv: Callable[[str, str], None]) -> None:
        setenv("NEON_DATABASE_URL", databases.neon_url)
        setenv("SUPABASE_DATABASE_URL", databases.supabase_url)

    def run(self, work: Callable[[worker_databases.Databases], Awaitable[T]]) -> T:
        async def job() -> T:
            async with open_databases(load_settings()) as opened:
                return await work(opened)

        return anyio.run(job)

    def pull(self, entity: str = "company", *, full: bool = False) -> Pulled:
        pulled = self.run(lambda opened: pull(opened, ENTITIES[entity], full=full))
        assert pulled is not None
        return pulled

    def deliver(self, entity: str = "company") -> Tally:
        return self.run(lambda opened: deliver(opened, ENTITIES[entity]))

    def push(self, entity: str = "company") -> stages.Pushed:
        done = stages.Pushed()
        self.run(lambda opened: stages.push(opened, ENTITIES[entity], done))
        return done

    def revalidate(self, entity: str = "company") -> Revalidated:
        return self.run(lambda opened: stages.revalidate(opened, ENTITIES[entity]))

    def promote(self, *keys: str, entity: str = "company") -> Revalidated:
        work = stages.Promotion(list(keys))
        return self.run(lambda opened: stages.promote(opened, [ENTITIES[entity]], work))

    def undo(self, *keys: str) -> Undone:
        done = Undone()
        self.run(lambda opened: undo(opened, keys, done))
        return done
