"""What all measurements here share: the machine they ran on, medians with spread, a JSON file beside the table."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("scrpo-cli", "torch", "transformers", "peft", "trl")


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
