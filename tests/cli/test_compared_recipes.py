"""Every recipe of the comparison trains through the real command line, down to the last step of its method."""

import json
from pathlib import Path

import pytest

from scrpo_cli.recipe.load import load_recipe, shipped_recipes

COMPARED = sorted(name for name in shipped_recipes() if name.startswith("compare/") and name != "compare/base")
SMALL = {
    "optim.max_generated_tokens": 3000,
    "optim.prompts_per_step": 4,
    "rollout.group_size": 4,
    "task.test": "null",
    "task.validation": "null",
    "tracking.wandb.mode": "off",
    "checkpoint.every": 100,
}
BUDGETS = {"compare/star": 6000}
"""Of one whose last round of sampling has to hold a repaired answer."""
SETS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]


def test_all_methods_are_compared():
    assert len(COMPARED) >= 16


VARIANTS = [name for name in COMPARED if any(name.startswith(f"{other}-") for other in COMPARED)]
"""What differs from another of them in a switch or two: `scrpo-negative`, `score-no-shaping`."""


PINNED = ("compare/grpo", "compare/score", "compare/scrpo")
"""Whose like is trained by the default suite anyway (training/test_pinned_runs.py)."""
SLOW = {*VARIANTS, *PINNED, "compare/rloo", "compare/sft", "compare/pair-sft", "compare/dapo"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in COMPARED])
def test_a_compared_recipe_trains(scrpo, name):
    budget = BUDGETS.get(name, SMALL["optim.max_generated_tokens"])
    outcome = scrpo("train", "--recipe", name, "--json", *SETS, "--set", f"optim.max_generated_tokens={budget}")
    assert outcome.code == 0, outcome.err
    steps = [json.loads(line) for line in Path(outcome.json["metrics"]).read_text().splitlines()]
    assert sum(step.get("train/tokens", 0) for step in steps) > 0, "nothing was ever trained"
    assert_meets(budget, outcome.json["generated_tokens"], [s for s in steps if s.get("rollout/planned")])


def assert_meets(budget, generated, steps):
    """Within 2% of it, or within the dearest group of the run: one problem with its retries or second turns."""
    group = max(s["rollout/tokens"] / s["rollout/planned"] for s in steps) * SMALL["rollout.group_size"]
    assert 0 <= generated - budget <= max(0.02 * budget, group)


def test_compared_recipes_differ_in_nothing_but_the_method():
    """And in what is said in their files: the samples of two-turn methods, DPO's learning rate."""
    base = load_recipe("compare/base").model_dump()
    for name in COMPARED:
        other = load_recipe(name).model_dump()
        for section in ("seed", "model", "task", "eval", "checkpoint"):
            assert other[section] == base[section], name
        assert {k for k, v in other["optim"].items() if v != base["optim"][k]} <= {"lr"}
        assert {k for k, v in other["rollout"].items() if v != base["rollout"][k]} <= {"group_size"}
