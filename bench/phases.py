"""Seconds and tokens per second of ScRPO's first-answer and reflection steps, phase by phase.

The loop itself is measured, through `scrpo train`'s own entry: the numbers are those that every run logs. The learning
rate is so small that the policy stands still, so that steps are repeats of each other.

    python bench/phases.py [--quick] [--repeats N] [--set K=V ...]
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import Grid, machine, options, report, shown, spread

from scrpo_cli.jobs.runs import started_run
from scrpo_cli.jobs.train import run_training
from scrpo_cli.pool.db import Database
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe

FIXED = [
    "optim.lr=1e-9",
    "optim.max_generated_tokens=",
    "method.reflect_every=1",  # first-answer and reflection steps in turn
    "task.validation=",
    "task.test=",
    "checkpoint.every=1000000",
    "tracking.wandb.mode=off",
]
PHASES = ("sample", "grade", "credit", "train", "record")


def measured(recipe: Recipe) -> list[dict[str, float]]:
    """The metrics of every step of a training run."""
    with tempfile.TemporaryDirectory() as directory:
        db = Database.open(f"{directory}/bench.db")
        with started_run(db, "train", recipe) as run:
            run_training(db, run, None)
            lines = (Path(run.directory) / "metrics.jsonl").read_text().splitlines()
        db.dispose()
    steps = [json.loads(line) for line in lines]
    return [with_record(before, step) for before, step in itertools.pairwise(steps)]


def with_record(before: dict[str, float], step: dict[str, float]) -> dict[str, float]:
    """Adds what lies between two steps and in no phase: the database, the metrics file, reading the pool."""
    total = step["time"] - before["time"]
    timed = sum(step[f"seconds/{phase}"] for phase in PHASES if phase != "record")
    return step | {"seconds/record": total - timed, "seconds/step": total}


def summary(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Per phase: spread of seconds and, where tokens are what it works on, of tokens per second."""
    found: dict[str, Any] = {f"{p}_s": spread([s[f"seconds/{p}"] for s in steps]) for p in (*PHASES, "step")}
    speeds = {"sample": "rollout/tokens", "train": "train/tokens", "step": "rollout/tokens"}
    for phase, tokens in speeds.items():
        found[f"{phase}_tokens_per_s"] = spread([s[tokens] / s[f"seconds/{phase}"] for s in steps])
    found["generated_tokens"] = spread([s["rollout/tokens"] for s in steps])
    found["trained_tokens"] = spread([s["train/tokens"] for s in steps])
    return found


def grid(found: dict[str, dict[str, Any]]) -> Grid:
    rows = [
        [kind, phase, shown(row[f"{phase}_s"]), shown(speed, 0) if (speed := row.get(f"{phase}_tokens_per_s")) else ""]
        for kind, row in found.items()
        for phase in (*PHASES, "step")
    ]
    return Grid("tiny world, ScRPO phase by phase, medians (quartiles)", ["step", "phase", "seconds", "tokens/s"], rows)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="measured steps of each kind (default 10)")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="override a recipe key")
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if args.quick else args.repeats
    recipe = load_recipe("tiny", [*FIXED, f"optim.steps={2 * repeats + 2}", *args.set])  # the first two warm up
    before, steps = machine(), measured(recipe)[1:]
    kinds = {"first": "first/reward", "reflection": "reflect/reward"}
    found = {kind: summary([s for s in steps if key in s]) for kind, key in kinds.items()}
    data = {"before": before, "recipe": recipe.model_dump(mode="json"), "kinds": found, "steps": steps}
    report("phases", [grid(found)], data, args.out)


if __name__ == "__main__":
    main()
