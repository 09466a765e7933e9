"""What many recipes have in common is looked at once before a sweep."""

from __future__ import annotations

from pathlib import Path

from scrpo_cli.jobs import checks
from scrpo_cli.pool.db import Database
from scrpo_cli.recipe.load import load_recipe


def test_data_that_recipes_share_is_read_once(tmp_path: Path, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(checks, "check_data", lambda recipe, *splits: read.append((recipe.task, splits)))
    overrides = [["optim.lr=1e-3"], ["optim.lr=2e-3"], ["task.test=null"], ["task.test=null", "seed=3"]]
    recipes = [load_recipe("compare/grpo", given) for given in overrides]
    with Database.open(str(tmp_path / "x.db")) as db:
        checks.check_trainings(db, recipes)
    every = ("train", "validation", "test")
    assert read == [(recipes[0].task, every), (recipes[2].task, every)]
