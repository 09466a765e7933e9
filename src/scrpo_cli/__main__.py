"""`scrpo`, which is also `python -m scrpo_cli`: what holds from its first line to its last."""

import contextlib
import signal


def main() -> None:
    """Console entry; see `cli.app.main`."""
    if hasattr(signal, "pthread_sigmask"):  # at once: what follows takes milliseconds, in which Ctrl-C has to wait
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from scrpo_cli import signals, streams
    from scrpo_cli.errors import RunError

    signals.hold()
    streams.guard()
    streams.end_with_stdin()
    from scrpo_cli.cli.app import main as command  # what reports an interruption has to be there first

    try:
        command()
    except SystemExit as end:
        with contextlib.suppress(RunError), streams.writing_to_stdout():
            pass  # what is left in the buffer; that it cannot be written was said when it was filled
        signals.ending(int(end.code or 0))
        raise


if __name__ == "__main__":
    main()
