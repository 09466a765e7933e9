"""Wall time of a sweep whose runs share one process, against the same runs one after the other.

    python bench/packed.py [--arms N] [--rounds N] [--quick]

`scrpo ablate` is called as a user calls it, in turn with both executors, each time with a database of its own.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from measuring import Grid, machine, options, report, shown, spread

HOW = {"packed": ("--executor", "packed"), "one after the other": ("--jobs", "1")}
SHARED = (
    *("--recipe", "tiny", "--seeds", "1"),
    *("--set", "optim.max_generated_tokens=20000", "--set", "eval.limit=50", "--set", "tracking.wandb.mode=off"),
)
RATES = ("5e-4", "6e-4", "7e-4", "8e-4", "9e-4", "1e-3", "1.1e-3", "1.2e-3")


def seconds(how: tuple[str, ...], arms: int) -> float:
    """Of a whole sweep, with its start and its tables."""
    command = [sys.executable, "-m", "scrpo_cli", "ablate", "--vary", f"optim.lr={','.join(RATES[:arms])}", *SHARED]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        subprocess.run(
            [*command, *how, "--db", f"{home}/bench.db", "--json"],
            cwd=home,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - began


def measured(arms: int, rounds: int) -> dict[str, list[float]]:
    """In alternating order, so that a machine that slows down slows both."""
    found: dict[str, list[float]] = {name: [] for name in HOW}
    orders = itertools.cycle((list(HOW), list(HOW)[::-1]))
    for _, order in zip(range(rounds), orders, strict=False):
        for name in order:
            found[name].append(seconds(HOW[name], arms))
    return found


def grid(found: dict[str, Any], arms: int) -> Grid:
    rows = [[name, shown(row, 2)] for name, row in found.items()]
    return Grid(f"{arms} arms of the tiny world, seconds, medians (quartiles)", ["runs", "seconds"], rows)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--arms", type=int, default=len(RATES), choices=range(2, len(RATES) + 1), metavar="N")
    parser.add_argument("--rounds", type=int, default=1, help="of both (default 1: two of them take ten minutes)")
    args = parser.parse_args()
    arms = 2 if args.quick else args.arms
    before, raw = machine(), measured(arms, args.rounds)
    pairs = zip(raw["packed"], raw["one after the other"], strict=True)
    found: dict[str, Any] = {name: spread(values) for name, values in raw.items()}
    found["ratio"] = spread([packed / alone for packed, alone in pairs])
    report("packed", [grid(found, arms)], {"before": before, "arms": arms, "found": found, "raw": raw}, args.out)


if __name__ == "__main__":
    main()
