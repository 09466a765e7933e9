"""A sweep on disk and in the database: what it consists of, and what of it is still to do.

Its directory holds the resolved recipe, the grid (sweep.json), the logs and the results. What has been done is never
written there: it is read from the database (run.sweep, run.arm, run.seed, run.status), so it cannot be out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from scrpo_cli.ablation.executor import Job
from scrpo_cli.ablation.grid import Arm, Cell, make_cells
from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import list_runs, new_run_id, resolve_run, start_run
from scrpo_cli.recipe.load import load_recipe, recipe_json
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training.launch import runs_directory

COMMAND = "ablate"
GRID_FILE = "sweep.json"
RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class Sweep:
    """Arms x seeds of one recipe. The sweep is itself a row of `run`, by which `--resume` finds it."""

    id: str
    directory: Path
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]

    @property
    def cells(self) -> list[Cell]:
        return make_cells(self.arms, self.seeds)


def start_sweep(db: Database, recipe: Recipe, arms: Sequence[Arm], seeds: Sequence[int]) -> Sweep:
    """Write the grid and the resolved recipe (later edits of the file change nothing) and add the sweep's row.

    W&B groups the runs under the sweep's id, unless the recipe names a group.
    """
    sweep_id = new_run_id()
    recipe = _grouped(recipe, sweep_id)
    directory = runs_directory(db).parent / "sweeps" / sweep_id
    sweep = Sweep(sweep_id, directory, tuple(arms), tuple(seeds))
    sweep.directory.mkdir(parents=True)
    (sweep.directory / RECIPE_FILE).write_text(recipe_json(recipe) + "\n", encoding="utf-8")  # JSON is YAML
    grid = {"arms": [asdict(arm) for arm in sweep.arms], "seeds": sweep.seeds}
    (sweep.directory / GRID_FILE).write_text(json.dumps(grid, indent=2) + "\n", encoding="utf-8")
    start_run(
        db,
        command=COMMAND,
        recipe=recipe,
        directory=str(sweep.directory),
        model=recipe.model.name,
        run_id=sweep_id,
        sweep=sweep_id,
    )
    return sweep


def _grouped(recipe: Recipe, group: str) -> Recipe:
    data = recipe.model_dump(mode="json")
    data["tracking"]["wandb"]["group"] = recipe.tracking.wandb.group or group
    return Recipe.model_validate(data)


def budget_of(sweep: Sweep) -> int:
    """Generated tokens that each run may spend (`check_arms` has seen to it that there is one)."""
    recipe = load_recipe(sweep.directory / RECIPE_FILE, sweep.arms[0].overrides)
    return recipe.optim.max_generated_tokens or 0


def find_sweep(db: Database, ref: str) -> Sweep:
    """The sweep that `ref` names: an id, a unique prefix, or `last`."""
    row = resolve_run(db, ref, command=COMMAND)
    path = Path(row.directory) / GRID_FILE
    try:
        grid = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The sweep's grid cannot be read: {error}", str(path), "Start a new sweep.") from None
    arms = tuple(Arm(arm["name"], tuple(arm["overrides"])) for arm in grid["arms"])
    return Sweep(row.id, path.parent, arms, tuple(grid["seeds"]))


@contextmanager
def locked(sweep: Sweep) -> Iterator[None]:
    """One process at a time runs a sweep."""
    lock = FileLock(sweep.directory / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        fix = "Wait for it, or stop it; then resume."
        raise UserError("Another process is running this sweep", str(sweep.directory), fix) from None


def runs_by_cell(db: Database, sweep: Sweep) -> dict[Cell, RunRow]:
    """The run of each cell that has one: a finished one if there is, else the newest."""
    rows = [row for row in list_runs(db, sweep=sweep.id) if row.arm is not None]
    ordered = sorted(rows, key=lambda row: (row.status == "done", row.created_at))  # what is wanted comes last
    by_key = {(row.arm, row.seed): row for row in ordered}
    return {cell: by_key[cell.arm.name, cell.seed] for cell in sweep.cells if (cell.arm.name, cell.seed) in by_key}


def jobs_to_do(db: Database, sweep: Sweep, db_url: str | None) -> list[Job]:
    """A `scrpo train` for every cell that is not done: a new run where there is none, else a resumed one."""
    runs = runs_by_cell(db, sweep)
    todo = [cell for cell in sweep.cells if cell not in runs or runs[cell].status != "done"]
    return [_job(sweep, cell, runs.get(cell), db_url) for cell in todo]


def _job(sweep: Sweep, cell: Cell, run: RunRow | None, db_url: str | None) -> Job:
    arguments = ["train", "--json", *(["--db", db_url] if db_url else [])]
    if run is not None:
        arguments += ["--resume", run.id]
    else:
        arguments += ["--recipe", str(sweep.directory / RECIPE_FILE), "--seed", str(cell.seed)]
        arguments += [part for override in cell.arm.overrides for part in ("--set", override)]
        arguments += ["--run-id", new_run_id(), "--sweep", sweep.id, "--arm", cell.arm.name]
    stem = re.sub(r"[^\w.=-]+", "_", cell.name)
    logs = sweep.directory / "logs"
    return Job(cell.name, tuple(arguments), logs / f"{stem}.json", logs / f"{stem}.log")


def done_runs(db: Database, sweep: Sweep) -> list[RunRow]:
    """The finished runs, in the order of the grid."""
    return [run for run in runs_by_cell(db, sweep).values() if run.status == "done"]
