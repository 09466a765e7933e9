"""Jobs as processes of the machine that this runs on: it may be the user's, or a node of a cluster.

Children have a session of their own, so that Ctrl-C reaches them through us: each gets SIGTERM, saves and exits. Each
holds an end of a pipe whose other end is ours, so that it does the same when we are killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import psutil

from scrpo_cli.ablation.executors.base import POLL_SECONDS, Finished, Job, error_of
from scrpo_cli.jobs.runs import SAVE_SECONDS
from scrpo_cli.streams import FOLLOW

PROGRAM = (sys.executable, "-m", "scrpo_cli")
TO_A_FILE = {"TTY_COMPATIBLE": "0"}
"""Goes before FORCE_COLOR in Rich: what a job says is no terminal's, and of several live lines in one process (packed
runs) each would print the others for ever.
"""


def program_of(gpus: int | None) -> tuple[str, ...]:
    """What runs a job: with several GPUs, one process for each of them (docs/gpus.md)."""
    if not gpus or gpus == 1:
        return PROGRAM
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", *PROGRAM[1:])


def start(
    job: Job,
    program: tuple[str, ...] = PROGRAM,
    environment: Mapping[str, str] | None = None,
    threads: int | str = 1,
) -> subprocess.Popen:
    """The job's process, which has so many CPU threads unless OMP_NUM_THREADS says otherwise (a small model takes one
    of them); `environment` goes before ours.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.result.open("wb") as out, job.log.open("ab") as err:
        return subprocess.Popen(
            [*program, *job.arguments],
            cwd=job.directory,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={"OMP_NUM_THREADS": str(threads), **os.environ, **(environment or {}), FOLLOW: "1", **TO_A_FILE},
            start_new_session=True,
        )


def run_to_end(job: Job, program: tuple[str, ...] = PROGRAM, environment: Mapping[str, str] | None = None) -> Finished:
    """What a node of a cluster does for a job. Whatever ends it lets the child save first."""
    process = start(job, program, environment)
    try:
        return waited_for(job, process)
    finally:
        stop([process])


def waited_for(job: Job, process: subprocess.Popen) -> Finished:
    """The end of a process that has just been started."""
    began = time.monotonic()
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
    return ended(job, process, time.monotonic() - began)


def ended(job: Job, process: subprocess.Popen, seconds: float) -> Finished:
    return Finished(job, process.returncode, seconds, error_of(job) if process.returncode else "")


def stop(processes: Iterable[subprocess.Popen], save_seconds: float = SAVE_SECONDS) -> None:
    """SIGTERM to all, time to save, then an end to whole process trees.

    Not by Popen: an interruption that falls between two lines of its `poll` leaves a lock taken, for which its
    `wait` waits for ever.
    """
    processes = list(processes)
    living = [found for process in processes for found in _found(process.pid)]
    for process in living:
        process.terminate()
    try:
        psutil.wait_procs(living, timeout=save_seconds)
    finally:  # those that did not save in time, or after a second Ctrl-C
        for process in living:
            _kill_tree(process)
        for each in processes:
            let_go(each)


def let_go(process: subprocess.Popen) -> None:
    """Close our end of the pipe to a process that has ended."""
    if process.stdin is not None:
        process.stdin.close()


def _found(pid: int) -> list[psutil.Process]:
    """The process, unless it is gone."""
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _kill_tree(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
