"""A sweep on disk and in the database: what it consists of, and what of it is still to do.

Its directory holds the grid (sweep.json), the resolved recipe of each arm, the logs and the results. What has been done
is never written there: it is read from the database (run.sweep, run.arm, run.seed, run.status), so it cannot be out of
date.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scrpo_cli.ablation.executors.base import POLL_SECONDS, Job
from scrpo_cli.ablation.grid import MATCHES, TOKENS, Arm, Cell, Match, check_arms, check_size, make_cells
from scrpo_cli.ablation.plan import TuningPlan
from scrpo_cli.ablation.study import Study
from scrpo_cli.errors import UserError
from scrpo_cli.files import file_stem, write_atomically
from scrpo_cli.jobs.runs import is_alive, worker
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import list_runs, moved, new_run_id, resolve_run, start_run
from scrpo_cli.recipe.load import recipe_json, stored_recipe
from scrpo_cli.recipe.models import Recipe

COMMAND = "ablate"
GRID_FILE = "sweep.json"
RECIPES, BASES = "recipes", "bases"


@dataclass(frozen=True)
class Fork:
    """The run that all runs of a sweep go on from, after the step `at`."""

    of: str
    at: int


@dataclass(frozen=True)
class Sweep:
    """Arms x seeds. The sweep is itself a row of `run`, by which `--resume` and `--extend` find it.

    `bases`: of a tuning sweep, the recipes as they race; `plan`: what its settings are drawn from (older: None);
    `tuned_by`: of a race, the id of its tuning sweep; `fork`: where its runs branch from another; `study`: the question
    that says how many seeds it gets; `match`: what all runs spend alike; `own_files`: each run writes a database of its
    own.
    """

    id: str
    directory: Path
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    bases: tuple[Arm, ...] = ()
    tuned_by: str = ""
    fork: Fork | None = None
    study: Study | None = None
    match: Match = TOKENS
    own_files: bool = False
    plan: TuningPlan | None = None

    @property
    def cells(self) -> list[Cell]:
        return make_cells(self.arms, self.seeds)

    @property
    def budget(self) -> int:
        """What each run may spend, in the unit of `match` (`check_arms` has seen to it that there is one)."""
        return self.match.of(self.arms[0].recipe) or 0


def start_sweep(
    db: Database,
    arms: Sequence[Arm],
    seeds: int,
    first_seed: int | None = None,
    bases: Sequence[Arm] = (),
    tuned_by: str = "",
    fork: Fork | None = None,
    study: Study | None = None,
    match: Match = TOKENS,
    plan: TuningPlan | None = None,
) -> Sweep:
    """Write the grid and the resolved recipes (later edits of their files change nothing) and add the sweep's row.

    Each arm has as many `seeds`, from `first_seed` on, which is that of the first arm's recipe unless given.
    """
    recipe = arms[0].recipe
    first_seed = recipe.seed if first_seed is None else first_seed
    check_size(arms, first_seed, seeds, match)
    sweep_id = new_run_id()
    directory = db.home / "sweeps" / sweep_id
    every = _seeds(first_seed, seeds)
    sweep = Sweep(sweep_id, directory, tuple(arms), every, tuple(bases), tuned_by, fork, study, match, plan=plan)
    _write(sweep)
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


def extend_sweep(sweep: Sweep, arms: Sequence[Arm], seeds: int | None) -> Sweep:
    """`sweep` with more arms, and with `seeds` runs of every arm. UserError when an arm does not fit the others, or
    when that would drop seeds.
    """
    if sweep.bases:
        fix = "Write another plan and start a new one with --tune."
        raise UserError("A tuning sweep is not extended: every recipe has as many runs", f"--extend {sweep.id}", fix)
    count = seeds or len(sweep.seeds)
    if count < len(sweep.seeds):
        fix = "Nothing is taken out of a sweep; --seeds counts all runs of an arm."
        raise UserError(f"The sweep has {len(sweep.seeds)} seeds already", f"--seeds {seeds}", fix)
    everything = (*sweep.arms, *arms)
    check_arms(everything, sweep.match)
    check_size(everything, sweep.seeds[0], count, sweep.match)
    longer = replace(sweep, arms=everything, seeds=_seeds(sweep.seeds[0], count))
    _write(longer)
    return longer


def with_own_files(sweep: Sweep) -> Sweep:
    """The same, before any of its runs has begun: each will write a database of its own."""
    sweep = replace(sweep, own_files=True)
    _write(sweep)
    return sweep


def _seeds(start: int, count: int) -> tuple[int, ...]:
    return tuple(range(start, start + count))


def _write(sweep: Sweep) -> None:
    """The grid comes last and at once: whoever reads it finds every recipe that it names."""
    for folder, arms in ((RECIPES, sweep.arms), (BASES, sweep.bases)):
        for arm in arms:
            path = _recipe_file(sweep.directory, arm.name, folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(recipe_json(arm.recipe) + "\n", encoding="utf-8")  # JSON is YAML
    grid = {
        "arms": [{"name": arm.name, "overrides": arm.overrides, "of": arm.of} for arm in sweep.arms],
        "seeds": sweep.seeds,
        "home": str(_home(sweep.directory)),
        "bases": [arm.name for arm in sweep.bases],
        "tuned_by": sweep.tuned_by,
        "fork": asdict(sweep.fork) if sweep.fork else None,
        "study": sweep.study.model_dump(mode="json") if sweep.study else None,
        "plan": sweep.plan.model_dump(mode="json") if sweep.plan else None,
        "match": sweep.match.name,
        "own_files": sweep.own_files,
    }
    with write_atomically(sweep.directory / GRID_FILE) as path:
        path.write_text(json.dumps(grid, indent=2) + "\n", encoding="utf-8")


def _home(directory: Path) -> Path:
    """Where the database and `runs` lie. The grid keeps it, so that the recipes of a moved sweep can follow."""
    return directory.parents[1]


def _recipe_file(directory: Path, arm: str, folder: str) -> Path:
    return directory / folder / f"{file_stem(arm)}.yaml"


def find_sweep(db: Database, ref: str) -> Sweep:
    """The sweep that `ref` names: an id, a unique prefix, or `last`. Where it was moved, its files are mended."""
    row = resolve_run(db, ref, command=COMMAND)
    directory = Path(row.directory)
    try:
        grid = json.loads((directory / GRID_FILE).read_text(encoding="utf-8"))
        home = Path(grid.get("home", _home(directory)))
        arms = tuple(
            Arm(arm["name"], tuple(arm["overrides"]), _read_recipe(directory, home, arm["name"]), arm.get("of", ""))
            for arm in grid["arms"]
        )
        bases = tuple(Arm(name, (), _read_recipe(directory, home, name, BASES)) for name in grid.get("bases", ()))
        fork = Fork(**grid["fork"]) if grid.get("fork") else None
        study = Study.model_validate(grid["study"]) if grid.get("study") else None
        plan = TuningPlan.model_validate(grid["plan"]) if grid.get("plan") else None
        match, tuned_by = MATCHES[grid.get("match", TOKENS.name)], grid.get("tuned_by", "")
        own_files = bool(grid.get("own_files", False))
        seeds = tuple(grid["seeds"])
        sweep = Sweep(row.id, directory, arms, seeds, bases, tuned_by, fork, study, match, own_files, plan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"The sweep cannot be read: {type(error).__name__}: {error}"
        raise UserError(what, str(directory / GRID_FILE), "Start a new sweep.") from None
    if home != _home(directory):
        _write(sweep)
    return sweep


def sweep_of_study(db: Database, study: Study) -> Sweep | None:
    """The newest sweep of the study as it is now: one that was changed is another study. A sweep whose files are gone
    is nobody's.
    """
    for row in list_runs(db):
        if row.command == COMMAND:
            with suppress(UserError):
                if (sweep := find_sweep(db, row.id)).study == study:
                    return sweep
    return None


def _read_recipe(directory: Path, home: Path, arm: str, folder: str = RECIPES) -> Recipe:
    """The recipe of an arm as it was written when the database was in `home`."""
    path = _recipe_file(directory, arm, folder)
    return stored_recipe(moved(path.read_text(encoding="utf-8"), home, _home(directory)), str(path))


def runs_by_cell(db: Database, sweep: Sweep) -> dict[Cell, RunRow]:
    """The run of each cell that has one: a finished one if there is, else the newest."""
    rows = [row for row in list_runs(db, sweep=sweep.id) if row.arm is not None]
    ordered = sorted(rows, key=lambda row: (row.status == "done", row.created_at))  # what is wanted comes last
    by_key = {(row.arm, row.seed): row for row in ordered}
    return {cell: by_key[cell.arm, cell.seed] for cell in sweep.cells if (cell.arm, cell.seed) in by_key}


def cells_to_do(db: Database, sweep: Sweep) -> dict[Cell, RunRow | None]:
    """Every cell that is not done, with its run so far."""
    runs = runs_by_cell(db, sweep)
    return {cell: runs.get(cell) for cell in sweep.cells if cell not in runs or runs[cell].status != "done"}


def jobs_to_do(db: Database, sweep: Sweep, place: Callable[[Cell, RunRow | None], str | None]) -> list[Job]:
    """A command for every cell that is not done: a new run (or fork) where there is none, else a resumed one. `place`:
    the database in which a run is to write, as --db takes it.
    """
    return [_job(sweep, cell, run, place(cell, run)) for cell, run in cells_to_do(db, sweep).items()]


def _job(sweep: Sweep, cell: Cell, run: RunRow | None, db_url: str | None) -> Job:
    if run is not None:
        arguments = ["train", "--resume", run.id]
    else:
        arguments = ["fork", sweep.fork.of, "--at", str(sweep.fork.at)] if sweep.fork else ["train"]
        recipe = _recipe_file(sweep.directory, cell.arm, RECIPES)
        arguments += ["--recipe", str(recipe), "--seed", str(cell.seed)]
        arguments += ["--run-id", new_run_id(), "--sweep", sweep.id, "--arm", cell.arm]
    arguments += ["--json", *(["--db", db_url] if db_url else [])]
    stem = file_stem(cell.name)
    logs = sweep.directory / "logs"
    return Job(cell.name, tuple(arguments), logs / f"{stem}.json", logs / f"{stem}.log")


def wait_for_strays(db: Database, sweep: Sweep, say: Callable[[str], None], seconds: float) -> None:
    """Until no other process works on a run of the sweep: those of a sweep that was killed save their step and end.
    UserError that names them when they take longer than `seconds`.
    """
    deadline, said = time.monotonic() + seconds, False
    while strays := [run for run in list_runs(db, sweep=sweep.id) if run.id != sweep.id and is_alive(run)]:
        who = ", ".join(f"{run.id} by {worker(Path(run.directory)) or 'another process'}" for run in strays)
        if time.monotonic() > deadline:
            what = f"Other processes are still working on {len(strays)} runs of the sweep."
            again = db.command(COMMAND, "--resume", sweep.id)
            raise UserError(what, who, f"Wait for them, or end them; then `{again}`.")
        if not said:
            say(f"waiting up to {seconds:g} s for what still works on the sweep: {who}")
        said = True
        time.sleep(POLL_SECONDS)


def done_runs(db: Database, sweep: Sweep) -> list[RunRow]:
    """The finished runs, in the order of the grid."""
    return [run for run in runs_by_cell(db, sweep).values() if run.status == "done"]
