"""The message and exit status of an error that ended a command. Loaded only when there is one."""

from __future__ import annotations

import socket
from typing import NoReturn

import psycopg

from worker.cli.console import fail
from worker.entities.folder import NoEntityFiles
from worker.entities.mistakes import EntityFileError
from worker.postgres.errors import Kind, SetupMissing, in_one_line, kind_of, metric_label, with_database
from worker.postgres.hints import hint_for, with_hint
from worker.settings import SettingsError
from worker.supabase.pause import Paused
from worker.sync.databases import Unreachable

NETWORK = (ConnectionError, TimeoutError, socket.gaierror)
"""Errors of the operating system that come from a database: nothing else here uses the network."""


def report(error: BaseException) -> NoReturn:
    """Print the error and a hint, and exit."""
    if isinstance(error, SettingsError | EntityFileError | NoEntityFiles):
        fail(str(error), 2)
    if isinstance(error, Unreachable):
        fail(str(error), 3)
    if isinstance(error, SetupMissing | Paused):
        fail(str(error), 1)
    if isinstance(error, OSError) and not isinstance(error, NETWORK):
        what = f"{error.filename}: " if error.filename else ""
        fail(f"{what}{error.strerror or in_one_line(error)}", 1)
    if kind_of(error) is Kind.TRANSIENT:
        what = "could not be reached" if metric_label(error) == "connection" else "cannot do it now"
        fail(
            with_hint(f"a database {what}: {with_database(error)}", hint_for(error) or "nothing is lost, try again"), 3
        )
    if isinstance(error, psycopg.Error):
        fail(with_hint(f"a database refused: {with_database(error)}", hint_for(error)), 1)
    fail(f"unexpected {type(error).__name__}: {in_one_line(error)}; please report this", 1)
