"""Shared by the commands: settings, databases, progress, signals, and output lines."""

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
from worker.entities.declaration import Entity
from worker.entities.loader import load_entities
from worker.observe import logs
from worker.postgres.backoff import backoff
from worker.postgres.errors import Kind, Restored, kind_of, with_database
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
    """Refuse keys that a database cannot store as text.

    Raises:
        click.UsageError: such a key is among them.
    """
    for key in keys:
        if "\0" in key or (not key.isascii() and key.encode(errors="ignore").decode() != key):
            raise click.UsageError(f"{shown(key)} is no text: a key looks like 04.04.01.01.00101.101")


def read_settings() -> Settings:
    """Read all settings, and configure logging accordingly.

    Raises:
        SettingsError: some are missing or wrong.
    """
    settings = load_settings()
    logs.configure(settings.log_format)
    return settings


def all_entities() -> dict[str, Entity]:
    """The entities by name, in their order.

    Raises:
        SettingsError, EntityFileError, NoEntityFiles: a setting or a file is wrong.
    """
    return load_entities(read_settings().entities)


def entities_named(name: str | None) -> list[Entity]:
    """The entities a command works on: the one named, or all."""
    entities = all_entities()
    return [entities[name]] if name else list(entities.values())


_received: list[signal.Signals] = []
"""The received signals that ask the command to stop."""


def run_async(work: Callable[..., Awaitable[T]], *arguments: Any, handle_signals: bool = True) -> T:
    """Run an async function to its end, on uvloop if available: asyncio's own loop is slower on each wait.

    Args:
        work: the function to run.
        arguments: its arguments.
        handle_signals: stop it cleanly on a signal; else the function handles signals itself.

    Raises:
        Stopped: a signal was received.
    """
    uvloop = sys.platform != "win32"
    job = _until_signal if handle_signals and uvloop else _without_signals
    return anyio.run(job, work, arguments, backend_options={"use_uvloop": uvloop})


async def _without_signals(work: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> T:
    return await work(*arguments)


async def _until_signal(work: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]) -> T:
    """Cancel waits on a signal. A running batch is shielded: it stops when it next reports progress."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        _received.append(number)
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C waits for nothing
        scope.cancel()

    with anyio.CancelScope() as scope:
        for number in signals.stopping():
            loop.add_signal_handler(number, stop, number)
        return await work(*arguments)
    raise Stopped(_received[0])


def with_databases(work: Callable[[Databases], Awaitable[T]], batch_size: int | None = None) -> T:
    """Open both databases and do the work. After a transient fault it is retried a few times: ``work`` is called again
    and continues from the state that it keeps outside itself.
    """
    settings = read_settings()

    async def job() -> T:
        pauses = backoff()
        for attempt in range(TRIES):
            try:
                async with open_databases(settings, batch_size=batch_size) as databases:
                    return await _after_comparison(databases, work)
            except psycopg.Error as error:
                if kind_of(error) is not Kind.TRANSIENT or attempt == TRIES - 1:
                    raise
                say(f"trying again: {with_database(error)}")
                await anyio.sleep(next(pauses))
        raise AssertionError

    return run_async(job)


async def _after_comparison(databases: Databases, work: Callable[[Databases], Awaitable[T]]) -> T:
    """Do the work; if a database was restored, compare both databases first."""
    for _ in range(TRIES):
        try:
            return await work(databases)
        except Restored as error:
            say(str(error))
            await pull(databases, databases.entities[error.entity])
    return await work(databases)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A progress bar with rate and time left on a terminal, else nothing; both check for a stop between batches."""
    if not sys.stderr.isatty():
        yield _StoppableProgress(NO_PROGRESS)
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _StoppableProgress(_Bar(bars, title))


class _StoppableProgress(Progress):
    """Passes progress on, and stops the work between two batches if a signal was received."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self.shown = progress, progress.shown

    def expect(self, records: int) -> None:
        self._progress.expect(records)

    def advance(self, records: int) -> None:
        self._progress.advance(records)
        if _received:
            raise Stopped(_received[0])


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
    """A line for each record of a dry run, if there are few."""
    if len(keys) > FEW:
        return [f"  {len(keys)} records; not listed one by one"]
    return [f"  {shown(key)} {what}" for key, what in keys.items()]
