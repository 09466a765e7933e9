"""Runs as tasks of Ray: on this machine, or on the cluster behind an address. Only Ray Core; Tune is not used.

Nodes have to reach the database and the directories by the same paths. A task whose worker or node is lost is repeated
elsewhere by Ray, and takes its run up from the newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from scrpo_cli.ablation.executors.base import Executor, Finished, Job
from scrpo_cli.ablation.executors.children import PROGRAM, run_to_end
from scrpo_cli.jobs.runs import SAVE_SECONDS

RETRIES = 3
"""Of a task whose worker was lost."""
WAIT_SECONDS = 1.0
CARRIED = ("SCRPO_", "WANDB_", "HF_", "HUGGINGFACE_", "OMP_", "TOKENIZERS_", "PYTHONPATH")
"""Beginnings of the names of environment variables that runs get from us: a worker has those of its node."""


@dataclass
class RayExecutor(Executor):
    """`jobs` at a time (none: as many as the cluster has CPUs or GPUs for)."""

    address: str | None = None
    jobs: int | None = None
    gpus_per_run: int | None = None
    program: tuple[str, ...] = PROGRAM
    takes_over: bool = field(default=False, init=False)

    def run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]:
        with redirect_stdout(sys.stderr):  # Ray tells of lost workers on stdout, which is for our answer
            yield from self._run(jobs)

    def _run(self, jobs: Sequence[Job]) -> Generator[Job | Finished, None, None]:
        import ray

        began_here = not ray.is_initialized()
        if began_here:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        environment = {k: v for k, v in os.environ.items() if k.startswith(CARRIED)}
        gpus = self._gpus(ray)
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(run_to_end)
        waiting = deque(jobs)
        running: dict[Any, tuple[Job, float]] = {}
        most = self.jobs or self._slots(ray, gpus)
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    job = waiting.popleft()
                    running[task.remote(job, self.program, environment)] = (job, time.monotonic())
                    yield job
                for ref in ray.wait(list(running), timeout=WAIT_SECONDS)[0]:
                    yield _end(ray, ref, *running.pop(ref))
        finally:
            _stop(ray, list(running))
            if began_here:
                ray.shutdown()

    def _gpus(self, ray: Any) -> int:
        if self.gpus_per_run is not None:
            return self.gpus_per_run
        return int(ray.cluster_resources().get("GPU", 0) > 0)

    def _slots(self, ray: Any, gpus: int) -> int:
        found = ray.cluster_resources()
        return max(1, int(found.get("GPU", 0)) // gpus if gpus else int(found.get("CPU", 1)))


def _end(ray: Any, ref: Any, job: Job, began: float) -> Finished:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return Finished(job, 1, time.monotonic() - began, f"Ray lost it: {type(error).__name__}; see {job.log}")


def _stop(ray: Any, refs: Sequence[Any]) -> None:
    """Interrupt the tasks and let their runs save."""
    for ref in refs:
        ray.cancel(ref)
    if refs:
        ray.wait(list(refs), num_returns=len(refs), timeout=SAVE_SECONDS)
