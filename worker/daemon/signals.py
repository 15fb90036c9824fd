"""Which signals ask a process to stop in order."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """A signal asked the command to stop."""

    def __init__(self, number: signal.Signals) -> None:
        """Keep which one."""
        super().__init__(number.name)
        self.signal = number


def stopping() -> list[signal.Signals]:
    """The signals to handle. Where the process was started to ignore hang-ups (``nohup``), they stay ignored."""
    handled = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    return handled


def interruptible() -> None:
    """Have Ctrl-C raise ``KeyboardInterrupt`` again, after a start that did not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
