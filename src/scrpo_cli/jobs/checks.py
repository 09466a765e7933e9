"""What a command names (an adapter, runs, data, a pool) is looked for before it loads a model or adds a row of a run.

Nothing here imports torch: a slip of the pen is answered in a second. What is inside of an adapter or a model shows
when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from scrpo_cli.errors import UserError, nearest
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.entries import known_pool
from scrpo_cli.pool.queries import resolve_run
from scrpo_cli.recipe.benchmark import Benchmark, plan, shipped
from scrpo_cli.recipe.models import Recipe, TaskConfig
from scrpo_cli.recipe.references import check_adapter, check_model
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Problem

RUN_KEYS = ("runs", "offline_run", "injection.run")
"""Of a method's section: which recorded runs it learns from."""


def check_training(db: Database, recipe: Recipe) -> None:
    """The model, the runs and the data of a training run."""
    check_trainings(db, [recipe])


def check_trainings(db: Database, recipes: Iterable[Recipe]) -> None:
    """`check_training` of many recipes, which mostly have their data in common: what is the same is read once."""
    known: list[TaskConfig] = []
    for recipe in recipes:
        check_policy(recipe)
        check_method_runs(db, recipe)
        if recipe.task not in known:
            check_data(recipe, "train", "validation", "test")
            known.append(recipe.task)


def check_sampling(recipe: Recipe) -> None:
    """The model and the data of a collection."""
    check_policy(recipe)
    check_data(recipe, "train")


def check_correction(db: Database, recipe: Recipe, pool: str) -> None:
    """The model and the pool of corrections."""
    check_policy(recipe)
    known_pool(db, pool)


def check_evaluation(db: Database, recipe: Recipe, against: str | None) -> None:
    """The model and the benchmarks of an evaluation, and the run that it is compared with."""
    if against not in (None, "last"):
        resolve_run(db, against)
    check_policy(recipe)
    for benchmark in plan(recipe).benchmarks.values():
        with closing(make_task(benchmark.task)) as task:
            load(benchmark, task)


def check_policy(recipe: Recipe) -> None:
    """The directories of the model and of its adapter."""
    check_model(recipe.model.name)
    if recipe.model.adapter is not None:
        check_adapter(recipe.model.adapter)


def check_method_runs(db: Database, recipe: Recipe) -> None:
    """UserError where the method is to learn from a run that is not there."""
    for key, ref in method_runs(recipe):
        try:
            resolve_run(db, ref)
        except UserError as error:
            raise UserError(error.what, f"method.{key}: {ref} ({error.where})", error.fix) from None


def method_runs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The recorded runs that the method is to learn from, each with the key that names it."""
    for key in RUN_KEYS:
        value: Any = recipe.method
        for part in key.split("."):
            value = getattr(value, part, None)
        yield from ((key, str(ref)) for ref in ([value] if isinstance(value, str) else value or ()))


def check_data(recipe: Recipe, *splits: str) -> None:
    """UserError where problems that the recipe names cannot be read."""
    with closing(make_task(recipe.task)) as task:
        for split in splits:
            if (cfg := getattr(recipe.task, split)) is not None:
                task.problems(cfg)


def load(benchmark: Benchmark, task: Task, limit: int | None = None) -> Sequence[Problem]:
    """The problems of a benchmark; a word that is no data set is answered with the nearest benchmark."""
    try:
        return task.problems(benchmark.problems)[:limit]
    except UserError as error:
        near = nearest(benchmark.name, shipped())
        if not near or benchmark.name in shipped():
            raise
        fix = f"{near} `scrpo eval --list` lists the benchmarks. For a data set: {error.fix}"
        raise UserError(error.what, error.where, fix) from None
