"""Which signals ask a process to stop in order."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """A signal asked the command to stop."""

    def __init__(self, number: signal.Signals) -> None:
        """Keep which."""
        super().__init__(number.name)
        self.signal = number


def stopping() -> list[signal.Signals]:
    """The signals to heed. A hang-up that whoever began the process has it ignore (``nohup``) stays ignored."""
    heeded = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    return heeded


def interruptible() -> None:
    """Have Ctrl-C raise ``KeyboardInterrupt`` again, after a start that did not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
