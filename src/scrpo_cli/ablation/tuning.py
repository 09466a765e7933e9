"""Tuning sweeps and races: what each setting reached on the validation problems, which one is chosen, and the arms of
the race, which are the recipes under their chosen settings.

Both are sweeps like any other. A tuning sweep keeps its recipes as they race (`Sweep.bases`), and a race the id of the
sweep that its settings come from (`Sweep.tuned_by`); its seeds come after those of the tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.grid import Arm, Cell, check_arms
from scrpo_cli.ablation.plan import Settings
from scrpo_cli.ablation.sweep import Sweep, find_sweep, runs_by_cell, start_sweep
from scrpo_cli.errors import UserError
from scrpo_cli.jobs.checks import check_trainings
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import evaluations_of
from scrpo_cli.recipe.load import recipe_json, stored_recipe

FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """One setting of a recipe: the keys that it sets (none: the recipe's own setting), and the accuracy of its answers
    to the validation problems after training, of each seed that is done and on average. There is no average until all
    seeds are done; a setting of which a run failed (`failed`: its seeds) has none.
    """

    recipe: str
    arm: str
    setting: list[str]
    seeds: list[int]
    by_seed: list[float]
    accuracy: float | None
    failed: list[int]
    budget: int
    chosen: bool = False


def start_tuning(db: Database, settings: Settings) -> Sweep:
    """A sweep over the settings of a plan."""
    check_trainings(db, [arm.recipe for arm in (*settings.bases, *settings.trials)])
    return start_sweep(db, settings.trials, settings.seeds, bases=settings.bases, plan=settings.plan)


def start_race(db: Database, ref: str, seeds: int, question: Question) -> Sweep:
    """A sweep of the recipes under the settings that the tuning sweep `ref` has chosen, on seeds that it did not use.
    UserError while it is not done, where it is none, and for a question about other arms.
    """
    sweep = find_sweep(db, ref)
    arms = race_arms(db, sweep)
    check_arms(arms)
    question.check([arm.name for arm in arms])
    return start_sweep(db, arms, seeds, first_seed=sweep.seeds[-1] + 1, tuned_by=sweep.id)


def race_arms(db: Database, sweep: Sweep) -> list[Arm]:
    if not sweep.bases:
        fix = "Start one with `scrpo ablate --tune PLAN.yaml`, or take up a race with --resume."
        raise UserError(f"Sweep {sweep.id} has tuned nothing", f"--race {sweep.id}", fix)
    chosen = {trial.recipe: trial for trial in read_trials(db, sweep) if trial.chosen}
    if missing := [base.name for base in sweep.bases if base.name not in chosen]:
        what = f"No setting is chosen of {', '.join(missing)}: runs are not done, or one failed of every setting"
        raise UserError(what, f"--race {sweep.id}", f"`{db.command('ablate', '--resume', sweep.id)}` runs them.")
    return [_under(base, chosen[base.name].setting) for base in sweep.bases]


def _under(base: Arm, setting: Sequence[str]) -> Arm:
    where = f"recipe {base.name} of the tuning sweep"
    return Arm(base.name, tuple(setting), stored_recipe(recipe_json(base.recipe), where, setting))


def read_trials(db: Database, sweep: Sweep) -> list[Trial]:
    """Every setting of a tuning sweep, in its order. Of each recipe whose runs have all ended, the best one on average
    is chosen, of equals the first.
    """
    runs = runs_by_cell(db, sweep)
    trials = [
        _trial(db, sweep, arm, {s: runs[cell] for s in sweep.seeds if (cell := Cell(arm.name, s)) in runs})
        for arm in sweep.arms
    ]
    chosen = [_best([trial for trial in trials if trial.recipe == base.name]) for base in sweep.bases]
    return [replace(trial, chosen=trial in chosen) for trial in trials]


def _trial(db: Database, sweep: Sweep, arm: Arm, runs: dict[int, RunRow]) -> Trial:
    done = {seed: accuracy for seed, run in runs.items() if (accuracy := accuracy_after(db, run)) is not None}
    failed = [seed for seed, run in runs.items() if run.status == FAILED]
    mean = float(np.mean([*done.values()])) if len(done) == len(sweep.seeds) else None
    budget = arm.recipe.optim.max_generated_tokens or 0
    return Trial(arm.of, arm.name, [*arm.overrides], [*done], [*done.values()], mean, failed, budget)


def accuracy_after(db: Database, run: RunRow) -> float | None:
    """Of first answers, after training; None while the run is not done, or where none of them could be graded."""
    if run.status != "done":
        return None
    found = next((e.metrics.get("avg") for e in evaluations_of(db, run.id) if e.label == "after"), None)
    return None if found is None else float(found)


def _best(trials: Sequence[Trial]) -> Trial | None:
    """None while a run has not ended, or where every setting failed."""
    if any(trial.accuracy is None and not trial.failed for trial in trials):
        return None
    known = [trial for trial in trials if trial.accuracy is not None]
    return max(known, key=lambda trial: trial.accuracy or 0.0) if known else None


def trials_behind(db: Database, sweeps: Sequence[Sweep]) -> list[Trial]:
    """Everything that was tried for the arms of these sweeps."""
    tuned = [
        sweep if sweep.bases else find_sweep(db, sweep.tuned_by) for sweep in sweeps if sweep.bases or sweep.tuned_by
    ]
    return [trial for sweep in {sweep.id: sweep for sweep in tuned}.values() for trial in read_trials(db, sweep)]
