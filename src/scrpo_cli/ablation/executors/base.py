"""What an executor is. It knows commands, not recipes: what a run did is read from the database afterwards.

A command line may be started more than once. It names the run's id, and a run that is there already is taken up where
its checkpoint left it, so that a scheduler can repeat on another machine what was lost on one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """A `scrpo` command line, where it is to run, and the files that take its stdout (one JSON document) and stderr."""

    name: str
    arguments: tuple[str, ...]
    result: Path
    log: Path
    directory: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Finished:
    """How a job ended. `error` is what its JSON document says about a failure."""

    job: Job
    exit_code: int
    seconds: float
    error: str = ""


class Executor(Protocol):
    """Runs jobs and yields each as it starts (as a Job) and ends. Closing the generator stops what is running."""

    takes_over: bool
    """Whether it goes on with jobs that outlived an executor before it, instead of starting them again."""

    def at_work(self) -> Collection[str]:
        """Names of jobs that outlived an executor before it and still wait or run."""
        return ()

    def run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]: ...


def error_of(job: Job) -> str:
    """The first line of the job's error, or where to look."""
    try:
        return json.loads(job.result.read_bytes())["error"]["what"]
    except (OSError, ValueError, KeyError, TypeError):  # ended without a document: killed, or before it could write
        return f"see {job.log}"
