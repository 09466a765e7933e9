"""What runs have in common that are held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from scrpo_cli.errors import UserError, shown
from scrpo_cli.recipe.models import SECOND_TURNS, Recipe

WHEN = ("every", "every_tokens")
"""Keys of `eval` that say when, not what."""
PROBLEMS = ("name", "think", "grader", "options", "sandbox")
"""Keys of `task` that say what the problems are and which answers are right."""


def shared_keys(recipe: Recipe) -> dict[str, Any]:
    """Dotted keys with their values: the model, what is asked of it in an evaluation, how it samples then and how that
    is graded. `eval.every` and `eval.every_tokens` are left out: they measure during training.
    """
    data = recipe.model_dump(mode="json")
    task = {key: data["task"][key] for key in (*PROBLEMS, *asked(recipe))}
    task |= {"test": benchmark_of(recipe), "grading": {"deadline": recipe.task.grading.deadline}}
    evaluation = {key: value for key, value in data["eval"].items() if key not in WHEN}
    evaluation |= recipe.protocol().model_dump()
    return _flat({"model": data["model"], "task": task, "eval": evaluation})


def asked(recipe: Recipe) -> list[str]:
    """Keys of `task` that say what an evaluation asks, turn by turn."""
    cfg, keys = recipe.eval, ["system", "prompt", "shots"]
    further = recipe.protocol().turns > 1
    if further:
        keys += SECOND_TURNS[cfg.second_turn]
    if further and cfg.gate.signal == "verdict":
        keys += ["verdict_prompt"]
    if cfg.repair or (further and cfg.second_turn == "reflect"):
        keys += ["reflection", "reflect_prompt" if recipe.task.reflection.reveal_wrong else "check_prompt"]
    return keys


def benchmark_of(recipe: Recipe) -> dict[str, Any] | None:
    """The problems that are evaluated before and after training."""
    problems = recipe.task.test or recipe.task.validation
    return problems.model_dump(mode="json") if problems else None


def check_packed(recipes: Sequence[Recipe]) -> None:
    """UserError where runs under them cannot share one base model and one engine in a process."""
    keys = [_packed_keys(recipe) for recipe in recipes]
    for first, other in pairwise(keys):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                where = f"{key}: {shown(first.get(key))} and {shown(other.get(key))}"
                fix = "Put such arms into sweeps of their own, or take another executor."
                raise UserError("Packed runs share their model and their engine.", where, fix)


def _packed_keys(recipe: Recipe) -> dict[str, Any]:
    """The model and, where it is not transformers', which is our own over any model, the engine."""
    data = recipe.model_dump(mode="json")
    rollout = {"engine": data["rollout"]["engine"], "vllm": data["rollout"]["vllm"]}
    own = rollout["engine"] == "transformers"
    return _flat({"model": data["model"], "rollout": {"engine": "transformers"} if own else rollout})


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
