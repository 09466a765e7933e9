"""All runs in one process of this machine, over one base model."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from scrpo_cli.ablation.executors.base import POLL_SECONDS, Executor, Finished, Job, error_of
from scrpo_cli.ablation.executors.children import PROGRAM, let_go, start, stop
from scrpo_cli.ablation.executors.local import cores
from scrpo_cli.jobs.packed import EVENTS, Command, Event, write_commands
from scrpo_cli.jobs.runs import SAVE_SECONDS

COMMANDS, RESULT, LOG = "commands.json", "packed.json", "packed.log"


@dataclass
class PackedExecutor(Executor):
    """`folder` takes what the process is told and says; `jobs` runs go forward at a time, or all."""

    folder: Path
    jobs: int | None = None
    save_seconds: float = SAVE_SECONDS
    takes_over: bool = field(default=False, init=False)

    def run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]:
        if not jobs:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        commands = [Command(job.name, job.arguments, str(job.result), str(job.log)) for job in jobs]
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
        write_commands(self.folder / COMMANDS, commands)
        (self.folder / EVENTS).write_text("", encoding="utf-8")  # without those of an earlier sitting
        arguments = ["train", "--packed", str(self.folder / COMMANDS)]
        arguments += ["--at-a-time", str(self.jobs)] if self.jobs else []
        all_of_them = Job("packed", tuple(arguments), self.folder / RESULT, self.folder / LOG, jobs[0].directory)
        process = start(all_of_them, PROGRAM, threads=cores())
        try:
            yield from self._events(process, {job.name: job for job in jobs})
        finally:
            stop([process], self.save_seconds)

    def _events(self, process: subprocess.Popen, jobs: dict[str, Job]) -> Generator[Job | Finished, None, None]:
        """What the process says, until it ends. What it has not told of then has failed with it."""
        began, left = time.monotonic(), dict(jobs)
        with (self.folder / EVENTS).open(encoding="utf-8") as file:
            over = False
            while not over:
                over = process.poll() is not None
                for line in whole_lines(file):
                    event = Event(**json.loads(line))
                    job = jobs[event.name]
                    if event.exit_code is None:
                        yield job
                        continue
                    del left[job.name]
                    yield Finished(job, event.exit_code, event.seconds, error_of(job) if event.exit_code else "")
                time.sleep(0 if over else POLL_SECONDS)
        let_go(process)
        for job in left.values():
            what = f"the process of all runs ended with exit code {process.returncode}; see {self.folder / LOG}"
            yield Finished(job, process.returncode or 1, time.monotonic() - began, what)


def whole_lines(file: TextIO) -> list[str]:
    """Those that have been written since; what is half written is read again."""
    found: list[str] = []
    while True:
        here = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(here)
            return found
        found.append(line)
