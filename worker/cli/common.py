"""What the commands share: settings, databases, progress, signals, and lines that several print."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import click
import psycopg
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from worker.cli.console import say, shown
from worker.daemon import signals
from worker.daemon.signals import Stopped
from worker.domain.progress import NO_PROGRESS, Progress
from worker.entities.declaration import ENTITIES
from worker.observe import logs
from worker.postgres.errors import Kind, Restored, backoff, kind_of, with_database
from worker.settings import Settings, load_settings
from worker.sync.databases import Databases, open_databases
from worker.sync.pull import pull

T = TypeVar("T")
TRIES = 6
FEW = 200
"""A dry run names its records one by one up to this many."""


def open_in_words(one: Mapping[str, str]) -> str:
    """One line about a transaction that was open in Neon while a pull read."""
    return (
        f"  open in Neon since {one['since']} at the latest: {shown(one['transaction'])};"
        " what it changes comes with the first pull after its end"
    )


def check_keys(keys: Iterable[str]) -> None:
    """Refuse what no database takes for text.

    Raises:
        click.UsageError: such a key is among them.
    """
    for key in keys:
        if "\0" in key or (not key.isascii() and key.encode(errors="ignore").decode() != key):
            raise click.UsageError(f"{shown(key)} is no text: a key looks like 04.04.01.01.00101.101")


def read_settings() -> Settings:
    """All settings, and logging set up as they say.

    Raises:
        SettingsError: some are missing or wrong.
    """
    settings = load_settings()
    logs.configure(settings.log_format)
    return settings


_told: list[signal.Signals] = []
"""The signals that came and ask the command to stop."""


def run_async(work: Callable[..., Awaitable[T]], *arguments: Any, heed: bool = True) -> T:
    """Run it to its end, on uvloop where there is one: asyncio's own loop takes longer over each wait.

    Args:
        work: what to run.
        arguments: its own.
        heed: end it in order where a signal asks for it; else it does so itself.

    Raises:
        Stopped: a signal came.
    """
    uvloop = sys.platform != "win32"
    job = _until_told if heed and uvloop else _plainly
    return anyio.run(job, work, arguments, backend_options={"use_uvloop": uvloop})


async def _plainly(work: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> T:
    return await work(*arguments)


async def _until_told(work: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> T:
    """Cancel what waits when a signal comes. A batch under way is shielded: after it, its progress says so."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        _told.append(number)
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C waits for nothing
        scope.cancel()

    with anyio.CancelScope() as scope:
        for number in signals.stopping():
            loop.add_signal_handler(number, stop, number)
        return await work(*arguments)
    raise Stopped(_told[0])


def with_databases(work: Callable[[Databases], Awaitable[T]], batch_size: int | None = None) -> T:
    """Open both databases and do the work. A transient fault is tried again a few times: ``work`` is called anew
    and goes on where it was, in what it keeps outside itself.
    """
    settings = read_settings()

    async def job() -> T:
        waits = backoff()
        for attempt in range(TRIES):
            try:
                async with open_databases(settings, batch_size=batch_size) as databases:
                    return await _compared(databases, work)
            except psycopg.Error as error:
                if kind_of(error) is not Kind.TRANSIENT or attempt == TRIES - 1:
                    raise
                say(f"trying again: {with_database(error)}")
                await anyio.sleep(next(waits))
        raise AssertionError

    return run_async(job)


async def _compared(databases: Databases, work: Callable[[Databases], Awaitable[T]]) -> T:
    """Do the work; where a database was restored, after both were compared."""
    for _ in range(TRIES):
        try:
            return await work(databases)
        except Restored as error:
            say(str(error))
            await pull(databases, ENTITIES[error.entity])
    return await work(databases)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar with rate and time left on a terminal, nothing elsewhere; and where a stop is heeded between batches."""
    if not sys.stderr.isatty():
        yield _Heeding(NO_PROGRESS)
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Heeding(_Bar(bars, title))


class _Heeding(Progress):
    """Passes progress on, and ends the work between two batches where a signal asks for it."""

    def __init__(self, shower: Progress) -> None:
        self._shower, self.shown = shower, shower.shown

    def expect(self, records: int) -> None:
        self._shower.expect(records)

    def advance(self, records: int) -> None:
        self._shower.advance(records)
        if _told:
            raise Stopped(_told[0])


class _Bar(Progress):
    shown = True

    def __init__(self, bars: Bars, title: str) -> None:
        self._bars, self._task, self._expected = bars, bars.add_task(title, total=None), 0

    def expect(self, records: int) -> None:
        self._expected += records
        self._bars.update(self._task, total=self._expected)

    def advance(self, records: int) -> None:
        self._bars.advance(self._task, records)


class _Rate(ProgressColumn):
    """Records a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")


def one_by_one(keys: dict[str, str]) -> list[str]:
    """A line for each record of a dry run, where they are few."""
    if len(keys) > FEW:
        return [f"  {len(keys)} records; not listed one by one"]
    return [f"  {shown(key)} {what}" for key, what in keys.items()]
