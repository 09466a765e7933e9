"""stdout and stderr whose readers may go away, and stdin as the line to whoever started us."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from scrpo_cli.errors import RunError
from scrpo_cli.signals import HANGUP

STANDARD = "-"
"""Stands for stdin where a file is read and for stdout where one is written."""

FOLLOW = "SCRPO_ENDS_WITH_STDIN"
"""Set in the environment of a process that has to end (and save) when its stdin is closed, however that comes about."""


class Unbroken(io.FileIO):
    """A descriptor that goes on as /dev/null when nobody reads it any more: `| head`, a terminal that is gone. An
    exception in whatever happens to print would end the work half-way, and once more at exit.
    """

    hangs_up = False
    """Whether that is as good as a hangup."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            terminal = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            if error.errno != errno.EPIPE and not terminal:
                error.filename = {1: "stdout", 2: "stderr"}.get(self.fileno())  # for the error message
                raise
        lead_nowhere(self.fileno())
        if self.hangs_up and HANGUP is not None:
            os.kill(os.getpid(), HANGUP)
        return memoryview(data).nbytes


def guard() -> None:
    """Put our streams in place of Python's.

    A reader of answers (stdout) may stop whenever it has seen enough. Without one of stderr nobody watches the work:
    it is stopped and saved, as after a hangup, and as little where that is ignored.
    """
    occupy()
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 to the end of the process
    sys.stdout = unbroken(sys.stdout, 1)
    sys.stderr = unbroken(sys.stderr, 2, hangs_up=True)


def occupy() -> None:
    """Descriptors 0 to 2 are taken: where one was closed (`>&-`), the next file to be opened, the database perhaps,
    would get the number, and with it whatever is printed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def unbroken(stream: TextIO | None, descriptor: int, hangs_up: bool = False) -> TextIO:
    """`stream` over an `Unbroken`; one that was closed (none) writes to what is at its `descriptor` now."""
    raw = Unbroken(descriptor if stream is None else stream.fileno(), "w", closefd=False)
    raw.hangs_up = hangs_up
    encoding, errors = ("utf-8", None) if stream is None else (stream.encoding, stream.errors)
    lines = isinstance(stream, io.TextIOWrapper) and stream.line_buffering
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=lines)


@contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Inside, what is printed goes to stderr, and processes that are started have it as their stdout for good: a
    command's stdout is its answer.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def lead_nowhere(descriptor: int) -> None:
    """What is written to the descriptor from now on is lost, and no error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


class Routed:
    """A stream that goes where the thread says (`to`), else where it went before."""

    def __init__(self, own: TextIO) -> None:
        self._own = own
        self._said: ContextVar[TextIO] = ContextVar("stream", default=own)

    def to(self, file: TextIO) -> None:
        self._said.set(file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._said.get(), name)


@contextmanager
def routed() -> Iterator[tuple[Routed, Routed]]:
    """Inside, stdout and stderr go where a thread says."""
    before = sys.stdout, sys.stderr
    out, err = Routed(sys.stdout), Routed(sys.stderr)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr = before


def finish() -> None:
    """Write what is left for stdout; where it cannot be written, that has been said, and Python need not at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        lead_nowhere(sys.stdout.fileno())


@contextmanager
def writing_to_stdout() -> Iterator[None]:
    """What is printed inside is written at the end, or ends here with a RunError: a full disk is no answer."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        lead_nowhere(sys.stdout.fileno())  # Python writes the rest of its buffer at exit
        fix = "Make room, or send it somewhere else. What the command did before is done."
        raise RunError(f"Cannot write the answer: {error.strerror}", "stdout", fix) from None


def is_stdout(path: Path) -> bool:
    """Whether `path` is `-`, or names what stdout is: opening it once more would write over what is there already."""
    if str(path) == STANDARD:
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):  # no such file; no stdout, or one that is no file
        return False


def end_with_stdin() -> None:
    """Where the environment asks for it, SIGTERM when stdin ends: the other end is held by the process that started
    us, and even SIGKILL closes it. What we start is not asked.
    """

    def watch() -> None:
        while os.read(0, 1 << 10):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.pop(FOLLOW, None):
        threading.Thread(target=watch, daemon=True).start()
