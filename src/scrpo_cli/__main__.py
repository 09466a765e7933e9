"""`scrpo`, which is also `python -m scrpo_cli`: what holds from its first line to its last."""

import signal


def main() -> None:
    """Console entry; see `cli.app.main`."""
    if hasattr(signal, "pthread_sigmask"):  # at once: what follows takes milliseconds, in which Ctrl-C has to wait
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from scrpo_cli import signals, streams

    decided = signals.leaving()
    signals.hold()
    streams.guard()
    streams.end_with_stdin()
    from scrpo_cli.cli.app import main as command  # what reports an interruption has to be there first

    try:
        command()
    except SystemExit as end:
        streams.finish()
        decided.append(int(end.code or 0))
        signals.ending(decided[0])
        raise


if __name__ == "__main__":
    main()
