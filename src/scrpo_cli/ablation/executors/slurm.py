"""Runs as jobs of SLURM, through submitit: one job array for what is to do.

Nodes have to reach the database and the directories by the same paths. SLURM's jobs outlive us: their ids are kept in
the sweep's directory, and whoever takes the sweep up again goes on waiting for those that are queued or running.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scrpo_cli.ablation.executors.base import POLL_SECONDS, Executor, Finished, Job, error_of
from scrpo_cli.ablation.executors.children import PROGRAM, start, stop, waited_for
from scrpo_cli.errors import UserError
from scrpo_cli.files import write_atomically
from scrpo_cli.jobs.runs import SAVE_SECONDS
from scrpo_cli.recipe.document import parse_value

WATCH_SECONDS = 5.0
"""Between two looks at the queue, which others use as well."""
MISSED = 3
"""Looks at the queue without a job after which it is lost, if it has left no result: files of nodes come late."""
OURS = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
"""What submitit names by itself; the rest are options of sbatch."""
MOST_TIMES = 10_000
"""That a job whose time is up is queued again; submitit's own is 3, and a long run may have a short limit."""
DAY = 24 * 60
"""Minutes that a job may take unless said otherwise."""
WARNED = int(SAVE_SECONDS) + 60
"""Seconds before its end at which a job is told, unless said otherwise: to end its step, be saved and be queued again.
At most a quarter of its time.
"""
JOBS_FILE, STOPPING_FILE = "jobs.json", "stopping"
INTERRUPTED = 130
"""The exit code of a run that was stopped and has saved."""


class Command:
    """What a node does. Pickled by submitit, which calls it, and `checkpoint` before SLURM ends the job (its time is
    up, or others go before it): the run saves its step, and the job that is queued again takes it up.
    """

    def __init__(self, job: Job, program: tuple[str, ...], stopping: Path) -> None:
        self.job, self.program, self.stopping = job, program, stopping
        self.process: subprocess.Popen | None = None

    def __call__(self) -> Finished:
        self.process = start(self.job, self.program, threads=os.environ.get("SLURM_CPUS_PER_TASK", 1))
        end = waited_for(self.job, self.process)
        if end.exit_code == INTERRUPTED:  # by SIGTERM, which a preempted job gets before it is told to go
            deadline = time.monotonic() + SAVE_SECONDS
            while time.monotonic() < deadline and not self.stopping.exists():
                time.sleep(POLL_SECONDS)
        return end

    def checkpoint(self) -> Any:
        import submitit

        if self.process is not None:
            stop([self.process])
        return submitit.helpers.DelayedSubmission(Command(self.job, self.program, self.stopping))


@dataclass
class SlurmExecutor(Executor):
    """`jobs` at a time (none: as many as SLURM lets run), under the user's `options` of sbatch."""

    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    jobs: int | None = None
    gpus_per_run: int | None = None
    cluster: str = "slurm"
    """`local`: submitit's own stand-in, for tests."""
    watch_seconds: float = WATCH_SECONDS
    program: tuple[str, ...] = PROGRAM
    takes_over: bool = field(default=True, init=False)

    def run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]:
        submitted = self._submitted(jobs)
        began: dict[Job, float] = {}
        missed: Counter[Job] = Counter()
        try:
            while submitted:
                queued = self._queued()
                for job, handle in list(submitted.items()):
                    if job not in began and job.result.exists():  # its process opens the file
                        began[job] = time.monotonic()
                        yield job
                    missed[job] = missed[job] + 1 if queued is not None and handle.job_id not in queued else 0
                    if self._has_ended(handle) or missed[job] >= MISSED:
                        del submitted[job]
                        yield _end(job, handle, time.monotonic() - began.get(job, time.monotonic()))
                time.sleep(self.watch_seconds if submitted else 0)
        finally:
            self._cancel(submitted)

    @property
    def _stopping(self) -> Path:
        """There while the user stops the sweep, so that its jobs do not wait for SLURM to queue them again."""
        return self.folder.absolute() / STOPPING_FILE

    def at_work(self) -> set[str]:
        return {*self._living()}

    def _living(self) -> dict[str, Any]:
        """Jobs that an executor before this one has submitted, and that wait or run."""
        queued = self._queued()
        return {name: handle for name, handle in self._known().items() if self._lives(handle, queued)}

    def _submitted(self, jobs: Sequence[Job]) -> dict[Job, Any]:
        """A submitit job for each job: one that is still queued or running, or a new one."""
        import submitit

        self._stopping.unlink(missing_ok=True)
        living = self._living()
        handles = {job: living[job.name] for job in jobs if job.name in living}
        new = [job for job in jobs if job not in handles]
        for job in new:
            job.result.unlink(missing_ok=True)
        if new:
            executor = self._executor(submitit)
            with executor.batch():
                handles |= {job: executor.submit(Command(job, self.program, self._stopping)) for job in new}
        with write_atomically(self.folder / JOBS_FILE) as path:
            ids = {job.name: handle.job_id for job, handle in handles.items()}
            path.write_text(json.dumps({"cluster": self.cluster, "ids": ids}, indent=2), encoding="utf-8")
        return {job: handles[job] for job in jobs}

    def _executor(self, submitit: Any) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        executor = submitit.AutoExecutor(self.folder, self.cluster, slurm_max_num_timeout=MOST_TIMES)
        given = {
            key if key in OURS or key.startswith("slurm_") else f"slurm_{key}": v for key, v in self.options.items()
        }
        if self.gpus_per_run is not None:
            given["gpus_per_node"] = self.gpus_per_run
        if self.jobs is not None:
            given["slurm_array_parallelism"] = self.jobs
        warned = min(WARNED, int(15 * given.get("timeout_min", DAY)))
        try:
            executor.update_parameters(name="scrpo", **{"timeout_min": DAY, "slurm_signal_delay_s": warned, **given})
        except (NameError, TypeError, AssertionError) as error:
            what = f"submitit does not take these options: {error}"
            raise UserError(
                what, "--slurm", "Options are those of sbatch, with _ for -: --slurm partition=gpu."
            ) from None
        return executor

    def _known(self) -> dict[str, Any]:
        """The jobs that an executor before this one has submitted."""
        import submitit

        try:
            stored = json.loads((self.folder / JOBS_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        kind = submitit.SlurmJob if stored["cluster"] == "slurm" else submitit.LocalJob
        return {name: kind(self.folder, job_id) for name, job_id in stored["ids"].items()}

    def _queued(self) -> set[str] | None:
        """Ids of our jobs that wait or run; None where SLURM does not answer. submitit asks sacct, which not every
        cluster has, and which is slow to tell of a job that ended without a result.
        """
        if self.cluster != "slurm":
            return None
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return set(found.stdout.split())

    def _cancel(self, submitted: Mapping[Job, Any]) -> None:
        """SLURM sends SIGTERM to the processes of a job: its run saves, if KillWait lets it."""
        if submitted:
            self._stopping.touch()
        for handle in submitted.values():
            handle.cancel(check=False)
        deadline = time.monotonic() + SAVE_SECONDS
        while time.monotonic() < deadline and any(self._lives(each, self._queued()) for each in submitted.values()):
            time.sleep(POLL_SECONDS)

    def _has_ended(self, handle: Any) -> bool:
        """With a result. submitit would ask sacct as well; in its local mode it asks the process."""
        return handle.paths.result_pickle.exists() or (self.cluster == "local" and handle.done())

    def _lives(self, handle: Any, queued: set[str] | None) -> bool:
        return not self._has_ended(handle) and (queued is None or handle.job_id in queued)


def _end(job: Job, handle: Any, seconds: float) -> Finished:
    """What the node said of the job, if it could."""
    if handle.paths.result_pickle.exists() and handle.exception() is None:
        return handle.result()
    what = f"{error_of(job)}; SLURM job {handle.job_id} left the queue without a result ({handle.paths.stderr})"
    return Finished(job, 1, seconds, what)


def refuse_living(folder: Path) -> None:
    """UserError while jobs wait or run that an executor here has submitted: they would train the same runs."""
    if not (folder / JOBS_FILE).exists():
        return
    living = SlurmExecutor(folder).at_work()
    if living:
        what = f"{len(living)} runs of this sweep wait or run as jobs of SLURM"
        fix = "Add --executor slurm, which takes them over; or `scancel` them and remove that file."
        raise UserError(what, str(folder / JOBS_FILE), fix)


def slurm_options(given: Sequence[str]) -> dict[str, Any]:
    """`--slurm KEY=VALUE` as a mapping."""
    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError("--slurm takes KEY=VALUE", f"--slurm {text}", "For example --slurm partition=gpu.")
        options[key.strip().replace("-", "_")] = parse_value(value, f"--slurm {text}")
    return options
