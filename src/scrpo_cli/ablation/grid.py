"""Which runs a sweep has: arms (sets of dotted overrides) x seeds, all at the same budget of generated tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe

REFLECT_EVERY = "method.reflect_every"
BUDGET = "optim.max_generated_tokens"
_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # not inside [1, 2] or {a: 1, b: 2}


@dataclass(frozen=True)
class Arm:
    """One setting of what is varied: its name, and the overrides (`KEY=VALUE`) that make it."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name} seed={self.seed}"


def make_arms(reflect_every: str | None, vary: Sequence[str]) -> list[Arm]:
    """The product of everything that is varied, in the order given; the first arm is what the others are held against.

    `reflect_every` is "5,10,never"; each of `vary` is "KEY=a,b". Names depend on nothing else: `reflect_every=5`.
    """
    axes = [_axis(f"{REFLECT_EVERY}={reflect_every}", "--reflect-every")] if reflect_every else []
    axes += [_axis(text, f"--vary {text}") for text in vary]
    if not axes:
        fix = "For example --reflect-every 5,10,never or --vary method.loss.tokens=reflection,all."
        raise UserError("Nothing is varied", "scrpo ablate", fix)
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise UserError("The same key is varied twice", ", ".join(keys), "Give all its values in one --vary.")
    return [_arm(keys, values) for values in product(*(values for _, values in axes))]


def _axis(text: str, where: str) -> tuple[str, list[str]]:
    key, equals, listed = text.partition("=")
    values = [value.strip() for value in _COMMA.split(listed)]
    if not equals or not key.strip() or not all(values):
        raise UserError("A varied key takes values: KEY=a,b", where, "For example --vary optim.lr=1e-6,2e-6.")
    if len(set(values)) < len(values):
        raise UserError("A value is given twice", where, "Name each value once; --seeds repeats runs.")
    return key.strip(), values


def _arm(keys: Iterable[str], values: Iterable[str]) -> Arm:
    overrides = tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return Arm(" ".join(override.removeprefix("method.") for override in overrides), overrides)


def make_cells(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Cell]:
    """Seed by seed, so that a sweep that is stopped early has pairs to compare."""
    return [Cell(arm, seed) for seed in seeds for arm in arms]


def check_arms(recipe: str | Path, sets: Sequence[str], arms: Sequence[Arm]) -> list[Recipe]:
    """The recipe of each arm. UserError for one that is not valid or evaluates nothing, or when the arms do not share
    a token budget.
    """
    recipes = [load_recipe(recipe, [*sets, *arm.overrides]) for arm in arms]
    if any(r.task.test is None and r.task.validation is None for r in recipes):
        fix = "Name problems in task.test, the same for all arms."
        raise UserError("The recipe evaluates nothing, so there is nothing to compare", "task.test", fix)
    budgets = {r.optim.max_generated_tokens for r in recipes}
    if None in budgets:
        fix = f"Give one, for example --set {BUDGET}=400000."
        raise UserError("Arms are compared at equal generated tokens and this recipe has no budget", BUDGET, fix)
    if len(budgets) > 1:
        raise UserError("The arms have different token budgets", BUDGET, "Give all arms the same one.")
    return recipes
