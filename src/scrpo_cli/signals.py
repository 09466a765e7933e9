"""Ctrl-C, SIGTERM, a lost terminal, the warning of a scheduler: what asks a command to stop, from its first line on.

Light on purpose: it is imported before everything else. Outside of Python's main thread, which alone may set handlers,
nothing here has an effect.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any

HANGUP = getattr(signal, "SIGHUP", None)
"""What a terminal sends that was lost (a closed window, a broken ssh); Windows has none."""
WARNINGS = {found for name in ("SIGUSR1", "SIGUSR2") if (found := getattr(signal, name, None)) is not None}
"""What schedulers send some time before they end a job; unhandled, they would kill."""
NOTICES = WARNINGS | ({HANGUP} if HANGUP is not None else set())
"""Of those, a second one says nothing new: whoever sends them may send them twice."""
EVERY = {signal.SIGINT, signal.SIGTERM} | NOTICES
MASKS = hasattr(signal, "pthread_sigmask")  # not on Windows
AGAIN_SECONDS = 0.01


class Stopped(KeyboardInterrupt):
    """What our handlers raise. (CPython ends a program by SIGINT, whatever it says in the end, once a KeyboardInterrupt
    proper was raised in something like `exec("...")`, of which imports are full.)
    """


Handler = Callable[[int, FrameType | None], Any]


def stopping() -> list[signal.Signals]:
    """The signals that ask us to stop. A hangup is none where whoever started us had it ignored, as nohup does."""
    return [s for s in EVERY if s != HANGUP or signal.getsignal(s) is not signal.SIG_IGN]


@contextmanager
def handled(handler: Handler | signal.Handlers) -> Iterator[None]:
    """`handler` takes every signal that asks us to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handler) for signum in stopping()}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


@contextmanager
def interrupting() -> Iterator[None]:
    """Each of them raises KeyboardInterrupt, also those that came while they were held."""
    stopped = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if not (stopped and signum == HANGUP):  # the kernel and the shell both tell of one lost terminal
            stopped = True
            raise Stopped

    before, sys.unraisablehook = sys.unraisablehook, again_if_lost
    try:
        with handled(interrupt):
            let_through()
            yield
    finally:
        sys.unraisablehook = before


def deaf() -> AbstractContextManager[None]:
    """A context in which they are ignored, for the few milliseconds in which something must be written whole."""
    return handled(signal.SIG_IGN)


def hold() -> None:
    """They wait until `interrupting`."""
    if MASKS:
        signal.pthread_sigmask(signal.SIG_BLOCK, EVERY)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ending(code: int) -> None:
    """What the command ends with is decided. A signal now only makes the end come at once: Python, and what libraries
    have it do, may take their time over it.
    """
    for signum in stopping():
        signal.signal(signum, lambda *_: os._exit(code))


def leaving() -> list[int]:
    """An empty list: once an exit code is put in, the process ends with it as soon as all that waits for the end has
    run (this is registered first and comes last). Python would go on to take apart what torch has loaded: seconds, on
    a busy machine, until the shell is back.
    """
    decided: list[int] = []
    process = os.getpid()

    def leave() -> None:
        if decided and os.getpid() == process:  # not in a fork
            with suppress(OSError):  # Python says so
                for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):  # ours, and Python's own
                    if stream is not None:
                        stream.flush()
                os._exit(decided[0])

    atexit.register(leave)
    return decided


def let_through() -> None:
    """What `hold` holds."""
    if MASKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EVERY)


@contextmanager
def shielded() -> Iterator[None]:
    """Processes and threads that start in here never hear of Ctrl-C and hangups, which a terminal sends to all that it
    runs: we do, and end them. (They can be ended by SIGTERM.)
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EVERY - {signal.SIGTERM}) if MASKS else ()
    try:
        yield
    finally:
        if MASKS:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_interruption(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt led to `error`: an extension in whose import it falls makes an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def again_if_lost(unraisable: Any) -> None:
    """A KeyboardInterrupt that falls where Python cannot raise (a destructor; a callback of the import system) would
    be printed and forgotten: it is sent once more.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)
