"""Programs that jobs of executors run in tests, in place of `scrpo`. Each appends a line to a file when it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from scrpo_cli.ablation.executors.base import Finished, Job

DEADLINE = 30.0
BEGIN = """
import os, signal, sys, time
from pathlib import Path
from scrpo_cli.streams import end_with_stdin
end_with_stdin()
place = Path(sys.argv[1])
with (place / "starts").open("a") as file: print(os.getpid(), file=file)
def save(*_):
    (place / "saved").touch()
    sys.exit(130)
for each in (signal.SIGTERM, signal.SIGUSR2): signal.signal(each, save)  # as `scrpo` does
"""
WORK = (
    BEGIN
    + """
while not (place / "go").exists(): time.sleep(0.05)
print('{"status": "done"}')
"""
)
FAIL = BEGIN + 'print(\'{"error": {"what": "Out of memory"}}\'); sys.exit(1)'


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def make_job(place: Path, name: str) -> Job:
    """With a directory of its own, `place/name`, that its program is told."""
    (place / name).mkdir(parents=True, exist_ok=True)
    return Job(name, (str(place / name),), place / name / "out.json", place / name / "err.log")


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def starts(job: Job) -> list[int]:
    """Process ids of each time that the job's program was started."""
    file = job.result.parent / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def running(job: Job) -> bool:
    return any(psutil.pid_exists(pid) for pid in starts(job))


def release(*jobs: Job) -> None:
    """Let the programs come to their end."""
    for job in jobs:
        (job.result.parent / "go").touch()


def saved(job: Job) -> bool:
    return (job.result.parent / "saved").exists()


def ends(events) -> dict[str, Finished]:
    return {event.job.name: event for event in events if isinstance(event, Finished)}
