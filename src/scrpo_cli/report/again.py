"""How what a report is about is made again: files, and the commands that run them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.grid import TOKENS, Arm
from scrpo_cli.ablation.plan import TuningPlan
from scrpo_cli.ablation.study import Study, StudyArm
from scrpo_cli.ablation.sweep import Fork, Sweep
from scrpo_cli.files import file_stem
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import resolve_run
from scrpo_cli.recipe.load import recipe_json, stored_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.section import Section


@dataclass(frozen=True)
class Again:
    """`commands` make it again from `files`: recipes, studies and plans by their names."""

    files: Mapping[str, Section]
    commands: Sequence[str]


def question_of(row: RunRow) -> Question:
    """What the sweep was asked when it was made, as far as its row says."""
    asked = json.loads(row.summary_json).get("question") or {}
    return Question(asked.get("against", ""), tuple(asked.get("pairs", ())), asked.get("margin"))


def sweeps_again(db: Database, sweeps: Sequence[Sweep], question: Question) -> Again:
    """A command for each sweep, since seeds, forks and budgets may differ. One alone asks what the report asks; of
    several each asks what it was asked itself, for it knows no arm of another.
    """
    files: dict[str, Section] = {}
    commands: dict[str, None] = {}
    for sweep in sweeps:
        if len(sweeps) == 1:
            found = sweep_again(db, sweep, question)
        else:
            found = sweep_again(db, sweep, question_of(resolve_run(db, sweep.id)), f"-{sweep.id}")
        files |= found.files
        commands |= dict.fromkeys(found.commands)
    return Again(files, [*commands])


def sweep_again(db: Database, sweep: Sweep, question: Question, mark: str = "") -> Again:
    """One sweep; `mark` ends the names of its files, lest those of another sweep be called alike. Files that name their
    arms go without: arms that are compared are never called alike.
    """
    recipes = recipes_of(sweep, sweep.arms, mark)
    if sweep.fork:
        return forks_again(db, sweep.fork, sweep.seeds, recipes)
    if sweep.plan:
        return tuning_again(sweep.plan, recipes_of(sweep, sweep.bases, mark), mark)
    if sweep.study:
        return study_again(sweep.study, sweep.arms, recipes, mark)
    if short := as_one_recipe(sweep, recipes, question, mark):
        return short
    recipes = recipes_of(sweep, sweep.arms, "")
    named = [word for file in recipes for word in ("--recipe", file)]
    seeds = ["--set", f"seed={sweep.seeds[0]}", "--seeds", str(len(sweep.seeds)), *matched(sweep), *question.words]
    return Again(recipes, [shlex.join(["scrpo", "ablate", *named, *seeds])])


def recipes_of(sweep: Sweep, arms: Sequence[Arm], mark: str) -> dict[str, Recipe]:
    return {f"{arm.file_stem}{mark}.yaml": without_group(arm.recipe, sweep) for arm in arms}


def without_group(recipe: Recipe, sweep: Sweep) -> Recipe:
    """The recipe as it was before its runs were grouped under the sweep's id in W&B."""
    wandb = recipe.tracking.wandb
    if wandb.group != sweep.id:
        return recipe
    ungrouped = recipe.tracking.model_copy(update={"wandb": wandb.model_copy(update={"group": None})})
    return recipe.model_copy(update={"tracking": ungrouped})


def forks_again(db: Database, fork: Fork, seeds: Sequence[int], recipes: Mapping[str, Recipe]) -> Again:
    left = runs_left(db, [fork.of])
    forks = [fork_command(fork.of, fork.at, file, seed) for file in recipes for seed in seeds]
    return Again({**left, **recipes}, [*map(train_command, left), *forks])


def tuning_again(plan: TuningPlan, bases: Mapping[str, Recipe], mark: str) -> Again:
    """The plan with its recipes as they race, which it gives their settings once more."""
    own = dict(zip(bases, plan.own.values(), strict=True))
    file, whole = f"plan{mark}.yaml", plan.model_copy(update={"own": own})
    return Again({file: whole, **bases}, [shlex.join(["scrpo", "ablate", "--tune", file])])


def matched(sweep: Sweep) -> list[str]:
    return [] if sweep.match == TOKENS else ["--match", sweep.match.name]


def study_again(study: Study, arms: Sequence[Arm], recipes: Mapping[str, Recipe], mark: str) -> Again:
    """The study with the resolved recipes of its arms."""
    of_arms = {arm.name: StudyArm(recipe=file) for arm, file in zip(arms, recipes, strict=True)}
    whole = study.model_copy(update={"recipe": None, "set": {}, "arms": of_arms})
    file = f"study{mark}.yaml"
    return Again({file: whole, **recipes}, [shlex.join(["scrpo", "ablate", "--study", file])])


def runs_left(db: Database, ids: Iterable[str]) -> dict[str, Recipe]:
    """The recipes of the runs that forks go on from: whoever makes a fork again makes such a run first."""
    rows = [resolve_run(db, of) for of in dict.fromkeys(ids)]
    return {f"{row.id}.yaml": stored_recipe(row.recipe_json, row.origin) for row in rows}


def fork_command(of: str, at: int, file: str, seed: int) -> str:
    return shlex.join(["scrpo", "fork", of, "--at", str(at), "--recipe", file, "--seed", str(seed)])


def train_command(file: str) -> str:
    return shlex.join(["scrpo", "train", "--recipe", file])


def as_one_recipe(sweep: Sweep, recipes: Mapping[str, Recipe], question: Question, mark: str) -> Again | None:
    """One file and the keys that are varied, where that makes the very same arms; else None."""
    base, *_ = recipes.values()
    axes: dict[str, dict[str, None]] = {}
    for arm in sweep.arms:
        for override in arm.overrides:
            key, _, value = override.partition("=")
            axes.setdefault(key, {})[value] = None
    grid = [tuple(f"{k}={v}" for k, v in zip(axes, values, strict=True)) for values in product(*axes.values())]
    if not axes or grid != [arm.overrides for arm in sweep.arms]:
        return None
    made = (stored_recipe(recipe_json(base), "report", arm.overrides) for arm in sweep.arms)
    if any(one != other for one, other in zip(made, recipes.values(), strict=True)):
        return None
    file = f"{file_stem(base.name)}{mark}.yaml"
    varied = [word for key, values in axes.items() for word in ("--vary", f"{key}={','.join(values)}")]
    first = [] if base.seed == sweep.seeds[0] else ["--set", f"seed={sweep.seeds[0]}"]  # of a race
    seeds = [*first, "--seeds", str(len(sweep.seeds)), *matched(sweep), *question.words]
    return Again({file: base}, [shlex.join(["scrpo", "ablate", "--recipe", file, *varied, *seeds])])
