"""`scrpo`, which is also `python -m scrpo_cli`: what holds from its first line to its last."""

import atexit
import contextlib
import os
import signal
import sys


def main() -> None:
    """Console entry; see `cli.app.main`."""
    if hasattr(signal, "pthread_sigmask"):  # at once: what follows takes milliseconds, in which Ctrl-C has to wait
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from scrpo_cli import signals, streams

    decided: list[int] = []
    atexit.register(leave, decided, os.getpid())
    signals.hold()
    streams.guard()
    streams.end_with_stdin()
    from scrpo_cli.cli.app import main as command  # what reports an interruption has to be there first

    try:
        command()
    except SystemExit as end:
        code = int(end.code or 0)
        with contextlib.suppress(OSError):  # at exit Python says so
            sys.stdout.flush()
            decided.append(code)
        signals.ending(code)
        raise


def leave(decided: list[int], process: int) -> None:
    """End with the code that was `decided`. As the first to be registered this comes after all else that waits for the
    end. Python would go on to take apart what torch has loaded: seconds, on a busy machine, until the shell is back.
    """
    if decided and os.getpid() == process:  # not in a fork
        with contextlib.suppress(OSError):  # likewise
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(decided[0])


if __name__ == "__main__":
    main()
