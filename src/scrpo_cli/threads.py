"""Threads: work that may never end and can be left behind, and whose turn it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from scrpo_cli.signals import shielded

Result = TypeVar("Result")


def in_a_thread(work: Callable[[], Result]) -> Future[Result]:
    """What `work` will return or raise. Unlike a ThreadPoolExecutor's, the thread is not waited for at exit, and
    signals reach the main thread.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 it is raised by whoever waits
            done.set_exception(error)

    with shielded():
        threading.Thread(target=run, daemon=True).start()
    return done


class Turn:
    """A lock that goes to who asked first; a plain one may stay for ever with a thread that asks again at once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = self._now = 0

    @property
    def waiting(self) -> int:
        """How many ask for it while another has it."""
        return max(0, self._asked - self._now - 1)

    def take(self) -> None:
        with self._changed:
            mine, self._asked = self._asked, self._asked + 1
            self._changed.wait_for(lambda: self._now == mine)

    def give(self) -> None:
        with self._changed:
            self._now += 1
            self._changed.notify_all()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give()
