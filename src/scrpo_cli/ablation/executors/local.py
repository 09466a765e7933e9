"""Runs on this machine: as many at a time as it has GPUs for, else cores and memory, or as the user says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from scrpo_cli.ablation.executors.base import POLL_SECONDS, Executor, Finished, Job
from scrpo_cli.ablation.executors.children import PROGRAM, ended, let_go, start, stop
from scrpo_cli.errors import UserError
from scrpo_cli.jobs.runs import SAVE_SECONDS
from scrpo_cli.recipe.models import Recipe

VISIBLE = "CUDA_VISIBLE_DEVICES"
PROCESS = 2**30
"""Bytes that a run takes beside the estimate of its model's: for Python, torch and their libraries (0.4 GiB with the
tiny model), and room."""


@dataclass
class LocalExecutor(Executor):
    """Subprocesses, `jobs` at a time. With `slots`, each of them sees the GPUs of one slot and no others."""

    jobs: int = 1
    program: tuple[str, ...] = PROGRAM
    save_seconds: float = SAVE_SECONDS
    say: Callable[[str], None] = lambda text: None
    """Takes lines for the reader."""
    slots: Sequence[str] = ()
    """Values of CUDA_VISIBLE_DEVICES, at least as many as jobs; none: every child sees what we see."""
    takes_over: bool = field(default=False, init=False)
    _running: dict[Job, tuple[subprocess.Popen, float, str]] = field(default_factory=dict, init=False)

    def run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]:
        waiting = deque(jobs)
        free = deque(self.slots or [""] * self.jobs)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    job, slot = waiting.popleft(), free.popleft()
                    environment = {VISIBLE: slot} if slot else None
                    process = start(job, self.program, environment, max(1, cores() // self.jobs))
                    self._running[job] = (process, time.monotonic(), slot)
                    yield job
                for end, slot in self._reap():
                    free.append(slot)
                    yield end
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()

    def _reap(self) -> Iterator[tuple[Finished, str]]:
        for job, (process, began, slot) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[job]
                let_go(process)
                yield ended(job, process, time.monotonic() - began), slot

    def _stop(self) -> None:
        running = [process for process, _, _ in self._running.values()]
        self._running.clear()
        if running:
            self.say(f"Stopping {len(running)} runs: each saves its step. Ctrl-C again ends them at once.")
            stop(running, self.save_seconds)


def gpu_slots(gpus_per_run: int | None, jobs: int | None) -> tuple[list[str], int | None]:
    """(GPUs of each slot as CUDA_VISIBLE_DEVICES, runs at a time) of this machine; no number where neither the user
    nor a GPU says one.

    Without a number of GPUs a run it is 1 where there are any; 0 lets all runs see all. UserError where fewer are here
    than are asked for: runs that share a GPU without being told to are slow or out of memory.
    """
    devices = visible_gpus()
    each = (1 if devices else 0) if gpus_per_run is None else gpus_per_run
    if each == 0:
        return [], jobs or (1 if devices else None)
    slots = [",".join(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each)]
    if len(slots) < (jobs or 1):
        wanted = f"{jobs or 1} runs at a time with {each} GPUs each, and {len(devices)} are visible"
        fix = "Lower --jobs or --gpus-per-run; --gpus-per-run 0 lets runs share them."
        raise UserError(wanted, f"--jobs {jobs or 1} --gpus-per-run {each}", fix)
    return slots, jobs or len(slots)


def runs_at_once(recipes: Iterable[Recipe]) -> int:
    """How many runs under any of these recipes the cores and the memory of this machine take without a GPU."""
    return max(1, min(map(_room, recipes), default=1))


def _room(recipe: Recipe) -> int:
    """1 where model or adapter cannot be read, as the run itself will say, and for an engine that takes all cores."""
    from scrpo_cli.jobs.budget import known_sizes
    from scrpo_cli.training.policy import threads_of

    sizes = None
    with suppress(UserError):
        sizes, _ = known_sizes(recipe)
    if sizes is None or recipe.rollout.engine == "vllm":
        return 1
    threads = threads_of(recipe.model, sizes.parameters)
    return min(cores() // threads, psutil.virtual_memory().available // (sizes.peak + PROCESS))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. No torch: it would take one of them."""
    if (given := os.environ.get(VISIBLE)) is not None:
        return [each.strip() for each in given.split(",") if each.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return found.stdout.split() if found.returncode == 0 else []
