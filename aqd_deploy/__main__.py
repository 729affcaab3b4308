"""The command line, as `python -m aqd_deploy` and as the console script: Ctrl-C is answered before anything
else is imported.
"""

import os
import signal

INTERRUPTED, _STDERR = 130, 2


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    # Ignored where a shell started us in the background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    from aqd_deploy.cli.main import main as run

    run()


def _interrupted(*_: object) -> None:
    """There is nothing to clean up yet, and no exception that an import could lose."""
    os.write(_STDERR, b"error: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
