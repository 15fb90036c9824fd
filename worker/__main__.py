"""``python -m worker``: the same as ``enrichment-worker``."""

import signal

# While this is loading, Ctrl-C has nothing to clean up.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from worker.cli.main import main

if __name__ == "__main__":
    main()
