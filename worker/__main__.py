"""``python -m worker``: the same as ``enrichment-worker``."""

import signal

# Ctrl-C while this is loaded has nothing to stop in order.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from worker.cli.main import main

if __name__ == "__main__":
    main()
