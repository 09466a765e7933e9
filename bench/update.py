"""The optimizer step with shared prefixes against every row on its own, and sampling with a merged adapter against an
unmerged one: seconds and ratios, side by side in one process.

The rows are random tokens: groups of 8 completions of one prompt, at four ratios of prompt to completion. The floor is
the share of tokens that is left to compute, (p / G + c) / (p + c) with the lengths as drawn.

    python bench/update.py [--quick] [--repeats N]
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, save, shown, spread
from rich.console import Console
from rich.table import Table

from scrpo_cli.methods.base import ClipConfig, Credits, flat_credit
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout import transformers_engine
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.training.policy import Policy, load_policy
from scrpo_cli.training.update import Updater
from scrpo_cli.types import Completion, FinishReason

RATIOS = ((64, 256), (128, 128), (256, 64), (512, 32))
GROUPS, SIZE = 4, 8
FIXED = ["optim.lr=1e-9", "method.kl.beta=0"]  # the policy stands still: repeats compare
ROWS = (16, 32, 128)


def groups(prompt: int, completion: int, vocabulary: int, rng: np.random.Generator) -> list[Completion]:
    """Completions of half to one and a half times `completion` tokens."""
    found = []
    for _ in range(GROUPS):
        ids = rng.integers(0, vocabulary, prompt).tolist()
        for _ in range(SIZE):
            tokens = rng.integers(0, vocabulary, rng.integers(completion // 2, completion * 3 // 2 + 1)).tolist()
            found.append(Completion(ids, tokens, [-1.0] * len(tokens), "", FinishReason.STOP))
    return found


def floor(rows: Sequence[Completion]) -> float:
    prompts, tokens = sum(len(row.prompt_ids) for row in rows), sum(len(row.ids) for row in rows)
    return (prompts / SIZE + tokens) / (prompts + tokens)


def update_race(policy: Policy, recipes: dict[bool, Recipe], repeats: int) -> list[dict[str, Any]]:
    rng, found = np.random.default_rng(0), []
    for prompt, completion in RATIOS:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(-1, repeats):  # the first pair warms up
            rows = groups(prompt, completion, 300, rng)
            credits = Credits(
                [flat_credit(len(row.ids), rng.normal(), 0.0) for row in rows], "masked_tokens", ClipConfig()
            )
            for share in (True, False) if repeat % 2 else (False, True):
                updater = Updater(policy, recipes[share])
                taken = timed(partial(updater.update, 1, rows, credits))
                if repeat >= 0:
                    seconds[share].append(taken)
        ratio = np.array(seconds[True]) / np.array(seconds[False])
        found.append(
            {
                "prompt": prompt,
                "completion": completion,
                "floor": floor(rows),
                "shared_s": spread(seconds[True]),
                "plain_s": spread(seconds[False]),
                "ratio": spread(ratio),
            }
        )
    return found


def merge_race(policy: Policy, repeats: int) -> list[dict[str, Any]]:
    """The same rows are sampled both ways."""
    engine, found = TransformersEngine(policy, max(ROWS)), []
    prompt = [5, 6, 7, 8, 9, 10, 11, 12]
    merged = transformers_engine.merged
    for rows in ROWS:
        seconds: dict[str, list[float]] = {"merged": [], "unmerged": []}
        for repeat in range(repeats):
            keys = [RowKey(0, repeat, "bench", i) for i in range(rows)]
            for way in sorted(seconds, reverse=bool(repeat % 2)):
                transformers_engine.merged = merged if way == "merged" else contextlib.nullcontext
                work = partial(engine.generate, [prompt] * rows, Sampling(1.0, 64), keys)
                seconds[way].append(timed(work))
        transformers_engine.merged = merged
        ratio = np.array(seconds["merged"]) / np.array(seconds["unmerged"])
        found.append({"rows": rows, "ratio": spread(ratio)} | {f"{way}_s": spread(s) for way, s in seconds.items()})
    return found


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 repeats; says little more than that it runs")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where the JSON file goes (default bench/results)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats, console, before = 2 if args.quick else args.repeats, Console(), machine()
    recipes = {share: load_recipe("tiny-grpo", [*FIXED, f"optim.share_prefixes={share}"]) for share in (True, False)}
    policy = load_policy(recipes[True].model, 0)
    updates, samples = update_race(policy, recipes, repeats), merge_race(policy, repeats)
    grid = Table("prompt : completion", "shared s", "alone s", "shared / alone", "floor", title="medians (quartiles)")
    for row in updates:
        times = (shown(row["shared_s"]), shown(row["plain_s"]), shown(row["ratio"], 2))
        grid.add_row(f"{row['prompt']} : {row['completion']}", *times, f"{row['floor']:.2f}")
    console.print(grid)
    grid = Table("rows", "merged s", "unmerged s", "merged / unmerged", title="sampling, medians (quartiles)")
    for row in samples:
        grid.add_row(str(row["rows"]), shown(row["merged_s"]), shown(row["unmerged_s"]), shown(row["ratio"], 2))
    console.print(grid)
    data = {"bench": "update", "before": before, "after": machine(), "update": updates, "sampling": samples}
    console.print(str(save("update", data, args.out)), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
