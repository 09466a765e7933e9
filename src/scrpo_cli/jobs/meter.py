"""Seconds and memory of work on a device, and bytes of rows in a database."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import new_run_id, record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt

ROWS = 512
"""Stored to see how large a row is."""
RUN = "measure"
"""The id of the run that a measurement makes, in a database of its own."""

T = TypeVar("T")


class Meter:
    """Seconds of work, and by name the highest use of memory: of the CUDA device, else of this process so far."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.peaks: dict[str, int] = {}

    def __call__(self, work: Callable[[], T], name: str = "") -> tuple[T, float]:
        """What `work` gives, and the seconds until the device had done it. Its peak counts under `name`."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        done = work()
        if self.cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        if name:
            self.peaks[name] = max(self.peaks.get(name, 0), self.peak())
        return done, seconds

    def peak(self) -> int:
        if self.cuda:
            free, whole = torch.cuda.mem_get_info()
            others = whole - free - torch.cuda.memory_reserved()  # the driver, and an engine in another process
            return others + torch.cuda.max_memory_allocated()
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    @property
    def memory(self) -> int:
        """Bytes that there are for this process."""
        if self.cuda:
            return torch.cuda.mem_get_info()[1]
        return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def bytes_a_token(folder: Path, recipe: Recipe, attempts: Sequence[Attempt]) -> float:
    """What a database grows by for every token of the prompts and answers of `attempts`, stored often enough that its
    first pages, which are there without a row, do not count.
    """
    copies, sizes = (1, 2 + ROWS // len(attempts)), []
    run = new_run_id()  # a row names its run several times
    for times in copies:
        file = folder / f"stored-{times}.db"
        with Database.open(str(file)) as db:
            start_run(db, command="train", recipe=recipe, directory=str(folder), model=recipe.model.name, run_id=run)
            for step in range(times):
                rows = [replace(a, id=f"{run}:{step}:{i}") for i, a in enumerate(attempts)]
                record_step(db, run, StepRecord(step, RUN, rows))
        sizes.append(file.stat().st_size)  # of a closed one, with the write-ahead log in it
    tokens = sum(len(a.completion.prompt_ids) + len(a.completion.ids) for a in attempts)
    return (sizes[1] - sizes[0]) / ((copies[1] - copies[0]) * tokens)
