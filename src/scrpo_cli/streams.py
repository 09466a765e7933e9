"""stdout and stderr whose readers may go away, and stdin as the line to whoever started us."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import sys
import threading
from typing import Any, TextIO

from scrpo_cli.signals import HANGUP

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
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if self.hangs_up and HANGUP is not None:
            os.kill(os.getpid(), HANGUP)
        return memoryview(data).nbytes


def guard() -> None:
    """Put our streams in place of Python's.

    A reader of answers (stdout) may stop whenever it has seen enough. Without one of stderr nobody watches the work:
    it is stopped and saved, as after a hangup, and as little where that is ignored.
    """
    occupy()
    sys.stdout = unbroken(sys.stdout)
    sys.stderr = unbroken(sys.stderr, hangs_up=True)


def occupy() -> None:
    """Descriptors 0 to 2 are taken: where one was closed (`>&-`), the next file to be opened, the database perhaps,
    would get the number, and with it whatever is printed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def unbroken(stream: TextIO | None, hangs_up: bool = False) -> TextIO:
    """`stream` over an `Unbroken`; one that was closed goes nowhere from the start."""
    if stream is None:
        return open(os.devnull, "w")
    if not isinstance(stream, io.TextIOWrapper):  # a test's
        return stream
    raw = Unbroken(stream.fileno(), "w", closefd=False)
    raw.hangs_up = hangs_up
    buffer, lines = io.BufferedWriter(raw), stream.line_buffering
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=lines)


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
