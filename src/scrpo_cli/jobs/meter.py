"""Seconds and memory of work on a device."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

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
