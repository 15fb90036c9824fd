"""The command line and its exit statuses: 0 done, 1 something to report, 2 usage or settings, 3 a database could not be
reached. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from worker.cli.commands import commands
from worker.cli.console import fail
from worker.daemon.signals import Stopped
from worker.observe import output


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    output.prepare()
    try:
        _run()
    finally:
        output.finish()


def _run() -> NoReturn:
    try:
        status = commands.main(standalone_mode=False, prog_name="enrichment-worker")
    except click.exceptions.Abort:
        fail("stopped", 130)
    except click.ClickException as error:
        # The message quotes the wrong argument, however long it is.
        error.message = error.message[:500]  # type: ignore[misc]
        error.show(sys.stderr)
        sys.exit(2)
    except BaseException as error:  # noqa: BLE001 - no traceback reaches a user
        _report(error)
    sys.exit(status if isinstance(status, int) else 0)


def _report(error: BaseException) -> NoReturn:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    _report_end(error)
    try:
        from worker.cli import faults  # noqa: PLC0415 - needed only after an error
    except Exception:  # noqa: BLE001 - if the command could not be loaded, nor can this
        fail(f"cannot be loaded: {' '.join(str(error).split())}", 1)
    faults.report(error)


def _report_end(error: BaseException) -> None:
    """Report what ends a command without being a fault; return if it is a fault."""
    match error:
        case SystemExit():
            raise error
        case KeyboardInterrupt():
            fail("stopped", 130)
        case Stopped():
            fail("stopped", 128 + error.signal)
        case output.NotWritten(unread=True):
            sys.exit(1)  # the reader of the output has closed it
        case output.NotWritten():
            fail(f"the result cannot be written to stdout: {error}", 1)
        case _:
            return
