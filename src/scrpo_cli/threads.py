"""Work that may never end, in a thread that can be left behind."""

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
