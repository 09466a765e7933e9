"""What `scrpo ablate --tune` tries: a plan in YAML, and the settings of each recipe that it comes to.

    common:                                      # the grid that all recipes share
      optim.lr: [1.0e-3, 2.0e-3]
      optim.prompts_per_step: [4, 8, 16]
      rollout.group_size: [4, 8]
    own:                                         # every recipe that races, with knobs of its own
      compare/grpo: {method.clip.high: [0.2, 0.28]}
      compare/scrpo: {method.reflect_every: [2, 5, 10]}
    runs: 6                                      # settings of each recipe, its own one among them
    seeds: 2                                     # runs of each setting
    max_generated_tokens: 60_000                 # of a tuning run; without it the recipe's budget

Every recipe gets as many settings, so that nobody can say one was tuned and the other not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from scrpo_cli.ablation.grid import BUDGET, Arm, check_arms
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.document import parse_value, read_document
from scrpo_cli.recipe.load import find_recipe, load_recipe
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.rng import generator
from scrpo_cli.section import Count, Name, PositiveInt, Section, Tokens

FIRST_ANSWERS_ALONE = (
    "task.test=null",
    "eval.every=null",
    "eval.every_tokens=null",
    "eval.turns=1",
    "eval.repair=false",
)
"""How a tuning run is evaluated: without test problems a run evaluates on those for validation, before and after."""
MOST_SETTINGS = 100_000
"""Of one recipe's grid."""

Values = Annotated[list[Any], Field(min_length=1)]


class TuningPlan(Section):
    common: dict[Name, Values] = Field(default_factory=dict)
    """Recipe key -> the values that it may have in every recipe."""
    own: Annotated[dict[Name, dict[Name, Values]], Field(min_length=1)]
    """Recipe -> the keys that it has on top, which may be none, with their values."""
    runs: Annotated[PositiveInt, Field(ge=2)]
    """Settings of each recipe: its own one, the others drawn from the grid."""
    seeds: PositiveInt = 1
    """Runs of each setting."""
    max_generated_tokens: Tokens | None = None
    """Budget of a tuning run; none: the recipe's."""
    draw: Count = 0
    """Another number draws other settings."""

    @model_validator(mode="after")
    def _no_key_is_in_both(self) -> TuningPlan:
        for recipe, knobs in self.own.items():
            if both := sorted(knobs.keys() & self.common.keys()):
                raise ValueError(f"{both[0]} is in `common` and under {recipe} in `own`: leave out one of them")
        return self

    def settings(self, recipe: str) -> Iterator[tuple[str, ...]]:
        """The overrides of every point of a recipe's grid, in the random order in which they are drawn."""
        axes = {**self.common, **self.own[recipe]}
        if math.prod(map(len, axes.values())) > MOST_SETTINGS:
            what = f"The grid of {recipe} has more than {MOST_SETTINGS:,} settings"
            raise UserError(what, "common, own", "Give fewer values.")
        points = list(product(*axes.values()))
        for i in generator(self.draw, 0, "tune").permutation(len(points)):
            yield tuple(f"{key}={written(value)}" for key, value in zip(axes, points[i], strict=True))


def read_plan(path: Path) -> TuningPlan:
    """UserError names the first mistake with its file and line."""
    if not path.is_file():
        raise UserError("There is no such plan", f"--tune {path}", "Name a YAML file with `common`, `own` and `runs`.")
    document = read_document(path)
    try:
        return TuningPlan.model_validate(document.data)
    except ValidationError as error:
        raise document.mistake(error, TuningPlan.model_fields, "See docs/quickstart.md.") from None


def written(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, str) and parse_value(value, value) == value:
        return value
    return json.dumps(value)


@dataclass(frozen=True)
class Settings:
    """What a plan comes to: the recipes as they race, every setting that is tried of them, and how many seeds of it."""

    plan: TuningPlan
    bases: Sequence[Arm]
    trials: Sequence[Arm]

    @property
    def seeds(self) -> int:
        return self.plan.seeds


def read_settings(path: Path, sets: Sequence[str] = ()) -> Settings:
    """The settings of the plan at `path`, beside which recipe files are looked for, under the overrides `sets`.

    UserError for what cannot race or be tuned, before anything has run.
    """
    plan = read_plan(path)
    varied = {*plan.common, *(key for knobs in plan.own.values() for key in knobs)}
    if idle := [key for item in sets if (key := item.partition("=")[0].strip()) in varied]:
        raise UserError(
            f"--set {idle[0]} has no effect: the plan varies it", f"--tune {path}", "Leave out one of them."
        )
    files = {recipe: find_recipe(recipe, path.parent) for recipe in plan.own}
    bases = [Arm(file.stem, (), load_recipe(file, sets)) for file in files.values()]
    for base in bases:
        check_validation(base)
    check_arms(bases)
    trials = [trial for recipe, file in files.items() for trial in tried(plan, recipe, file, sets)]
    check_arms(trials)
    return Settings(plan, bases, trials)


def tried(plan: TuningPlan, recipe: str, path: Path, sets: Sequence[str]) -> list[Arm]:
    """`plan.runs` different settings, the recipe's own one first."""
    budget = [f"{BUDGET}={plan.max_generated_tokens}"] if plan.max_generated_tokens else []
    found: list[Arm] = []
    for overrides in ((), *plan.settings(recipe)):
        try:
            resolved = load_recipe(path, [*sets, *overrides, *FIRST_ANSWERS_ALONE, *budget])
        except UserError as error:
            raise UserError(error.what, f"{recipe} in the plan: {error.where}", error.fix) from None
        if all(resolved != other.recipe for other in found):
            name = " ".join([path.stem, *(override.removeprefix("method.") for override in overrides)])
            found.append(Arm(name, overrides, resolved, of=path.stem))
        if len(found) == plan.runs:
            return found
    fix = f"Give more values, or `runs: {len(found)}` for all recipes."
    raise UserError(f"{recipe} has {len(found)} different settings, and {plan.runs} are asked for", "runs", fix)


def check_validation(arm: Arm) -> None:
    """UserError unless a recipe has problems to be tuned on that are not those of the race."""
    task = arm.recipe.task
    if task.validation is None or task.test is None:
        key = "task.test" if task.validation else "task.validation"
        what = f"{arm.name} has no {key}: settings are chosen on task.validation and race on task.test"
        raise UserError(what, key, "Give the recipe both, with different problems.")
    if _place(task.validation) == _place(task.test):
        what = f"{arm.name} would be tuned on the problems that it races on: task.validation and task.test are the same"
        raise UserError(what, "task.validation", "Name another split or file for one of them.")


def _place(problems: ProblemsConfig) -> tuple[str, str]:
    """Where problems come from; `limit` takes the first of them, so it keeps nothing apart."""
    return problems.source, problems.split
