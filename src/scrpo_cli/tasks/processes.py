"""Processes that can be killed, for work that may hang: each call has its own deadline and costs no other call."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as DeadlineExceeded
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from typing import Any

from pebble import ProcessExpired, ProcessPool

from scrpo_cli.errors import RunError
from scrpo_cli.signals import shielded
from scrpo_cli.tracking.activity import now

__all__ = ["DeadlineExceeded", "KillableProcesses", "ProcessExpired"]

FIX = "A script that grades needs `if __name__ == '__main__':` around its own code; else check the memory"


class KillableProcesses:
    """Calls in worker processes, which start with the first call. `start(*arguments)` runs in each new one, and a
    worker is replaced after `calls` calls (0: never). None `workers`: one less than CPUs, at most 8.
    """

    def __init__(
        self,
        workers: int | None,
        deadline_s: float,
        start: Callable[..., None],
        arguments: Sequence[Any] = (),
        calls: int = 0,
    ) -> None:
        self.workers, self.deadline_s = workers or max(1, min(8, (os.cpu_count() or 2) - 1)), deadline_s
        self._start, self._arguments, self._calls = start, arguments, calls
        self._pool: ProcessPool | None = None

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], where: str, fix: str = FIX) -> list:
        """The result of each call, or the exception that it ended with: DeadlineExceeded, ProcessExpired for a process
        that died, or what the function raised.

        Raises RunError where no process starts.
        """
        results = self._ask(function, calls)
        left = [i for i, result in enumerate(results) if isinstance(result, BrokenProcessPool)]
        if left:  # pebble gives the whole pool up when an idle process dies: once more, with a new one
            self.close()
            for i, result in zip(left, self._ask(function, [calls[i] for i in left]), strict=True):
                results[i] = result
        if broken := next((result for result in results if isinstance(result, BrokenProcessPool)), None):
            raise RunError("the grading processes cannot start", where, fix) from broken
        return results

    def _ask(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        if not calls:
            return []
        pool = self._running()
        futures: list[Future[Any]] = []
        with shielded(), suppress(RuntimeError):  # a pool that was given up takes no more calls
            futures += (pool.schedule(function, args=args, timeout=self.deadline_s) for args in calls)
        ended = [f.exception() or f.result() for f in now().each(futures)]  # waits; every call has its deadline
        return [*ended, *[BrokenProcessPool() for _ in calls[len(futures) :]]]

    def _running(self) -> ProcessPool:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # forking a process that runs torch's threads deadlocks
            begin = (self._start, *self._arguments)
            self._pool = ProcessPool(self.workers, self._calls, initializer=_begin, initargs=begin, context=context)
            with shielded():  # before the pool's first process: starting it lets Ctrl-C through again
                resource_tracker.ensure_running()
        return self._pool

    def close(self) -> None:
        """Ends the processes; they can be used again."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _begin(start: Callable[..., None], *arguments: Any) -> None:
    """What a worker does first. It ends with the process that it works for, even if that is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*arguments)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
