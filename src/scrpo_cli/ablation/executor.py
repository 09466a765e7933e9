"""Who runs the runs of a sweep: a small protocol, and this machine.

An executor knows commands, not recipes. What a run did is read from the database afterwards, so another executor has
only to start commands somewhere that reaches the same database and files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from scrpo_cli.streams import FOLLOW

POLL_SECONDS = 0.1
SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Job:
    """A `scrpo` command line, and the files that take its stdout (one JSON document) and stderr."""

    name: str
    arguments: tuple[str, ...]
    result: Path
    log: Path


@dataclass(frozen=True)
class Finished:
    """How a job ended. `error` is what its JSON document says about a failure."""

    job: Job
    exit_code: int
    seconds: float
    error: str = ""


class Executor(Protocol):
    """Runs jobs and yields each as it starts (as a Job) and ends. Closing the generator stops what is running."""

    def run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]: ...


@dataclass
class LocalExecutor:
    """Subprocesses of this machine, `jobs` at a time, one CPU thread each unless OMP_NUM_THREADS says otherwise.

    Children have a session of their own, so that Ctrl-C reaches them through us: each gets SIGTERM, saves and exits.
    Each holds an end of a pipe whose other end is ours, so that it does the same when we are killed.
    """

    jobs: int = 1
    program: tuple[str, ...] = (sys.executable, "-m", "scrpo_cli")
    save_seconds: float = SAVE_SECONDS
    say: Callable[[str], None] = lambda text: None
    """Takes lines for the reader."""
    _running: dict[Job, tuple[subprocess.Popen, float]] = field(default_factory=dict, init=False)

    def run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]:
        waiting = deque(jobs)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    job = waiting.popleft()
                    self._running[job] = (self._start(job), time.monotonic())
                    yield job
                yield from self._reap()
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()

    def _start(self, job: Job) -> subprocess.Popen:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1", **os.environ, FOLLOW: "1"}
        with job.result.open("wb") as out, job.log.open("ab") as err:
            return subprocess.Popen(
                [*self.program, *job.arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )

    def _reap(self) -> Iterator[Finished]:
        for job, (process, start) in list(self._running.items()):
            exit_code = process.poll()
            if exit_code is not None:
                del self._running[job]
                _let_go(process)
                yield Finished(job, exit_code, time.monotonic() - start, _error(job) if exit_code else "")

    def _stop(self) -> None:
        """SIGTERM to all, time to save, then an end to whole process trees.

        Not by Popen: an interruption that falls between two lines of its `poll` leaves a lock taken, for which its
        `wait` waits for ever.
        """
        running = [process for process, _ in self._running.values()]
        self._running.clear()
        if running:
            self.say(f"Stopping {len(running)} runs: each saves its step. Ctrl-C again ends them at once.")
        living = [found for process in running for found in _found(process.pid)]
        for process in living:
            process.terminate()
        try:
            psutil.wait_procs(living, timeout=self.save_seconds)
        finally:  # those that did not save in time, or after a second Ctrl-C
            for process in living:
                _kill_tree(process)
            for ended in running:
                _let_go(ended)


def _found(pid: int) -> list[psutil.Process]:
    """The process, unless it is gone."""
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _let_go(process: subprocess.Popen) -> None:
    """Close our end of the pipe to a process that has ended."""
    if process.stdin is not None:
        process.stdin.close()


def _kill_tree(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def _error(job: Job) -> str:
    """The first line of the job's error, or where to look."""
    try:
        return json.loads(job.result.read_bytes())["error"]["what"]
    except (OSError, ValueError, KeyError, TypeError):  # ended without a document: killed, or before it could write
        return f"see {job.log}"
