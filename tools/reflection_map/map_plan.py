"""The plan of a map, and what of it is still to do.

A cell is a model at a difficulty. It has one run of `scrpo advise` and one sweep, which are found again in the database
by the recipes' name: it is the cell's mark, and holds a digest of what was planned. What a plan says differently is
another cell, and what is done is never done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from scrpo_cli.ablation.sweep import COMMAND as ABLATE
from scrpo_cli.ablation.sweep import cells_to_do, find_sweep
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import list_runs
from scrpo_cli.recipe.document import read_document
from scrpo_cli.section import Name, PositiveInt, Section

ADVISE = "advise"


@dataclass(frozen=True)
class Cell:
    """`sets`: the recipe keys of the cell, for --set; its mark is among them."""

    name: str
    mark: str
    sets: tuple[str, ...]


class Plan(Section):
    """A plan file. Recipes and models that are files beside it are found there, wherever the tool is run."""

    name: Name
    recipes: Annotated[list[Name], Field(min_length=2)]
    """The arms; the first is the one that the others are compared with, the last the one that `advise` samples."""
    seeds: PositiveInt = 4
    """Of each arm in each cell; a plan that names more later adds them."""
    problems: PositiveInt = 128
    """Of `scrpo advise`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Recipe keys of all cells."""
    models: Annotated[dict[Name, Name], Field(min_length=1)]
    """By the name that cells have: model directories or names."""
    difficulties: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    """By the name that cells have: recipe keys, such as task.think.lines."""
    directory: str = ""
    """Where the plan lies; not written in it."""

    @property
    def cells(self) -> list[Cell]:
        """Every model at every difficulty."""
        return [self._cell(model, difficulty) for model in self.models for difficulty in self.difficulties]

    def _cell(self, model: str, difficulty: str) -> Cell:
        keys = {**self.set, **self.difficulties[difficulty]}
        planned = json.dumps([self.recipes, self.models[model], keys], sort_keys=True)
        name = f"{model} {difficulty}"
        mark = f"map {self.name}: {name} ({hashlib.sha256(planned.encode()).hexdigest()[:8]})"
        values = {**keys, "model.name": self._beside(self.models[model]), "name": mark}
        return Cell(name, mark, tuple(f"{key}={json.dumps(value)}" for key, value in values.items()))

    @property
    def arms(self) -> list[str]:
        """The recipes as they are named on a command line."""
        return [self._beside(recipe) for recipe in self.recipes]

    def _beside(self, name: str) -> str:
        path = Path(self.directory, name)
        return str(path) if path.exists() else name


def read_plan(path: Path) -> Plan:
    """UserError where the file cannot be read or is no plan."""
    document = read_document(path)
    try:
        return Plan.model_validate({**document.data, "directory": str(path.resolve().parent)})
    except ValidationError as error:
        raise document.mistake(error, Plan.model_fields) from None


def newest(db: Database, command: str, mark: str) -> RunRow | None:
    """The cell's run of this command."""
    rows = [row for row in list_runs(db) if (row.command, row.recipe_name) == (command, mark)]
    return rows[0] if rows else None


def to_do(db: Database, plan: Plan, cell: Cell, place: Sequence[str]) -> list[list[str]]:
    """The `scrpo` commands, without the database, that complete a cell; none where it is complete. `place`:
    where its runs work, as options of `scrpo ablate`.
    """
    sets = [word for item in cell.sets for word in ("--set", item)]
    found: list[list[str]] = []
    advised = newest(db, ADVISE, cell.mark)
    if advised is None:
        found.append([ADVISE, "--recipe", plan.arms[-1], *sets, "--problems", str(plan.problems)])
    elif advised.status != "done":
        found.append([ADVISE, "--resume", advised.id])
    row = newest(db, ABLATE, cell.mark)
    if row is None:
        recipes = [word for recipe in plan.arms for word in ("--recipe", recipe)]
        return [*found, [ABLATE, *recipes, *sets, "--seeds", str(plan.seeds), *place]]
    sweep = find_sweep(db, row.id)
    if len(sweep.seeds) < plan.seeds:
        found.append([ABLATE, "--extend", row.id, "--seeds", str(plan.seeds), *place])
    elif cells_to_do(db, sweep):
        found.append([ABLATE, "--resume", row.id, *place])
    return found
