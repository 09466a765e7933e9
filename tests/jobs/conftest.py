"""A database with the run of `exported_run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exported_run import HOSTILE, RUN, answers

from scrpo_cli.evaluation.outcomes import Answers
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.evaluation.runner import measure
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import finish_run, record_evaluation, record_step, resolve_run, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tasks import make_task


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("tiny").model_copy(update={"name": HOSTILE})


@pytest.fixture
def db(tmp_path: Path, recipe: Recipe) -> Any:
    """A training run of two steps, evaluated at its end."""
    with Database.open(str(tmp_path / "runs.db")) as database:
        given = {"recipe": recipe, "model": "tiny", "directory": str(tmp_path / "run"), "sweep": "s1", "arm": HOSTILE}
        start_run(database, command="train", run_id=RUN, **given)
        for step in (1, 2):
            record_step(database, RUN, StepRecord(step, "first", [], metrics={"tokens/total": 10.0 * step}))
        task = make_task(recipe.task)
        metrics = measure(Answers.of(answers()), task, Protocol.of(recipe))
        record_evaluation(database, RUN, 2, "test", metrics, answers(), "after")
        finish_run(database, RUN, "done", {})
        yield database


@pytest.fixture
def run(db: Database) -> RunRow:
    return resolve_run(db, RUN)
