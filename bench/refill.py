"""Slots that waiting rows take as soon as rows are finished, against one batch after the other: processor seconds,
which other work on the machine moves less than the clock's, and ratios, side by side in one process. Both sample the
same tokens.

The rows are problems of the tiny and the thinking world, three batches of them. At temperature 1 the answers are those
of training; at temperature 2 those of the thinking world end anywhere.

    python bench/refill.py [--quick] [--repeats N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, save, shown, spread
from rich.console import Console
from rich.table import Table

from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.types import Completion, SampleRequest

RACES = {"tiny": (1.0,), "think": (1.0, 2.0)}
SLOTS, BATCHES = (16, 48, 128), 3


def race(runtime: Runtime, temperature: float, slots: int, repeats: int) -> dict[str, Any]:
    """`static`: as many calls as batches. Its rows are dealt in the same order."""
    rows = BATCHES * slots
    problems = runtime.task.problems(runtime.recipe.task.train)[:rows]
    prompts = [runtime.chat.prompt(SampleRequest(p, runtime.task.messages(p), 1)) for p in problems]
    prompts = sorted((prompts * rows)[:rows], key=len)
    sampling = Sampling(temperature, runtime.recipe.rollout.max_tokens)
    seconds: dict[str, list[float]] = {"refilled": [], "static": []}
    found: dict[str, list[Completion]] = {}
    for repeat in range(repeats):
        keys = [RowKey(0, repeat, "bench", i) for i in range(rows)]
        for way in sorted(seconds, reverse=bool(repeat % 2)):
            size = slots if way == "static" else rows
            start = time.process_time()
            found[way] = sampled(runtime, slots, prompts, sampling, keys, size)
            seconds[way].append(time.process_time() - start)
        assert [c.ids for c in found["refilled"]] == [c.ids for c in found["static"]]
    lengths = [len(c.ids) for c in found["static"]]
    ratio = np.array(seconds["refilled"]) / np.array(seconds["static"])
    times = {f"{way}_s": spread(taken) for way, taken in seconds.items()}
    return {"temperature": temperature, "slots": slots, "tokens": spread(lengths), "ratio": spread(ratio)} | times


def sampled(
    runtime: Runtime,
    slots: int,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    keys: Sequence[RowKey],
    size: int,
) -> list[Completion]:
    """In calls of `size` rows."""
    engine = TransformersEngine(runtime.policy, slots)
    calls = range(0, len(prompts), size)
    return [c for at in calls for c in engine.generate(prompts[at : at + size], sampling, keys[at : at + size])]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 repeat; says little more than that it runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where the JSON file goes (default bench/results)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats, console, before = 1 if args.quick else args.repeats, Console(), machine()
    grid = Table("world", "temperature", "slots", "tokens", "refilled s", "static s", "refilled / static")
    found = []
    for world, temperatures in RACES.items():
        with open_runtime(load_recipe(world, ["rollout.engine=transformers"])) as runtime:
            for temperature in temperatures:
                for slots in SLOTS:
                    row = {"world": world} | race(runtime, temperature, slots, repeats)
                    found.append(row)
                    times = (shown(row["refilled_s"], 2), shown(row["static_s"], 2), shown(row["ratio"], 2))
                    grid.add_row(world, f"{temperature:g}", str(slots), shown(row["tokens"], 0), *times)
    console.print(grid)
    data = {"bench": "refill", "before": before, "after": machine(), "rows": found}
    console.print(str(save("refill", data, args.out)), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
