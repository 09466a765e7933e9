"""`scrpo train`: LoRA training by recipe."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    DbOption,
    DebugOption,
    JsonOption,
    MeasureOption,
    Output,
    QuietOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    as_yaml,
    named,
    refuse_idle,
    refuse_with_resume,
    sets_of,
)
from scrpo_cli.numbers import LARGEST
from scrpo_cli.tracking.activity import LIBRARIES, now

if TYPE_CHECKING:
    from rich.console import RenderableType

    from scrpo_cli.jobs.runs import ActiveRun
    from scrpo_cli.pool.db import Database
    from scrpo_cli.recipe.models import Recipe
    from scrpo_cli.training.resume import Start

ReflectOption = Annotated[
    str | None,
    typer.Option("--reflect-every", metavar="N|never", help="A reflection step after every N first-answer steps."),
]

SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, max=LARGEST, metavar="N", help="Overrides the recipe's seed.")
]
FromCheckpointOption = Annotated[
    int | None,
    typer.Option(
        "--from-checkpoint", min=0, metavar="STEP", help="With --resume: go back, and drop the steps after STEP."
    ),
]

# What a sweep gives the runs that it starts.
RunIdOption = Annotated[str | None, typer.Option("--run-id", hidden=True)]
SweepOption = Annotated[str | None, typer.Option("--sweep", hidden=True)]
ArmOption = Annotated[str, typer.Option("--arm", hidden=True)]
PackedOption = Annotated[Path | None, typer.Option("--packed", hidden=True)]
AtATimeOption = Annotated[int | None, typer.Option("--at-a-time", min=1, hidden=True)]

KEYS = {"--seed": "seed", "--reflect-every": "method.reflect_every"}


def train(
    context: typer.Context,
    recipe: RecipeOption = None,
    reflect_every: ReflectOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    resume: ResumeOption = None,
    from_checkpoint: FromCheckpointOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and its budget.")] = False,
    measure: MeasureOption = False,
    run_id: RunIdOption = None,
    sweep: SweepOption = None,
    arm: ArmOption = "",
    packed: PackedOption = None,
    at_a_time: AtATimeOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """LoRA training by recipe: ScRPO and the methods that it is compared with. Ctrl-C saves; --resume continues."""
    output = Output(json, quiet)
    if packed is not None:
        train_packed(packed, at_a_time, output)
        return
    refuse_with_resume(context, resume, "--from-checkpoint")
    refuse_idle(context, {"--from-checkpoint": "--resume", "--measure": "--dry-run"})
    output.begin(f"scrpo train: {named(resume, recipe)}")
    from scrpo_cli.recipe.load import load_recipe

    resolved = load_recipe(recipe or DEFAULT_RECIPE, sets_of(context, KEYS))
    if dry_run:
        show_budget(resolved, output, measure)
        return
    from scrpo_cli.jobs.checks import check_training
    from scrpo_cli.jobs.runs import started_run
    from scrpo_cli.pool.db import Database

    database = Database.open(db)
    if resume is not None:
        start = taken_up(database, resume, from_checkpoint)
    elif begun(database, sweep, run_id):
        start = taken_up(database, str(run_id), patient=True)
    else:
        check_training(database, resolved)
        start = started_run(database, "train", resolved, run_id=run_id, sweep=sweep, arm=arm)
    with start as run:
        train_to_end(run, database, output)


def train_packed(file: Path, at_a_time: int | None, output: Output) -> None:
    """The commands that a sweep has written into `file`, in this process."""
    output.begin(f"packed runs: {LIBRARIES}")
    from scrpo_cli.cli.app import run_inside
    from scrpo_cli.jobs.packed import run_commands

    run_commands(file, at_a_time, run_inside)


def begun(database: Database, sweep: str | None, run_id: str | None) -> bool:
    """Whether the run of a sweep is there already: a scheduler repeats the command of a node that was lost."""
    from scrpo_cli.pool.queries import list_runs

    return run_id is not None and any(run.id == run_id for run in list_runs(database, sweep=sweep))


def taken_up(
    database: Database, ref: str, from_checkpoint: int | None = None, patient: bool = False
) -> AbstractContextManager[ActiveRun]:
    """An earlier run; `patient` waits for a process that is about to leave it."""
    from scrpo_cli.jobs.runs import resumed_run

    def check(run: ActiveRun) -> Start:
        from scrpo_cli.jobs.fork import take_up

        return take_up(database, run, from_checkpoint)

    return resumed_run(database, "train", ref, check, patient=patient)


def train_to_end(run: ActiveRun, database: Database, output: Output) -> None:
    now().stage(f"run {run.run_id}: {LIBRARIES}")
    from scrpo_cli.jobs.train import run_training

    run.summary |= run_training(database, run, output)
    output.result(run.summary, *closing(run, database))


def show_budget(recipe: Recipe, output: Output, measured: bool) -> None:
    from scrpo_cli.evaluation.held_out import check_held_out, held_out, warnings
    from scrpo_cli.jobs import forecast
    from scrpo_cli.jobs.budget import estimate, render
    from scrpo_cli.layout import Prose

    data = recipe.model_dump(mode="json")
    budget = estimate(recipe)
    found = check_held_out(recipe, recipe.task, held_out(recipe))
    document = {"recipe": data, "budget": budget.as_dict(), "contamination": found, "measured": None}
    parts = [as_yaml(data), "", render(budget, measured), *map(Prose, warnings(found))]
    if measured:
        taken = forecast.measured(recipe, budget)
        document["measured"] = taken.as_dict()
        parts += ["", forecast.render(taken)]
    output.result(document, *parts)


def closing(run: ActiveRun, database: Database) -> tuple[RenderableType, ...]:
    """Before and after in one table, and where everything lies."""
    from scrpo_cli.cli.tables import before_after, errors_kept
    from scrpo_cli.layout import Pairs

    summary = run.summary
    rows = {"run": run.run_id, "database": str(database.url)}
    rows |= {"adapter": summary["adapter"], "metrics": summary["metrics"]}
    rows |= {"more": database.command("runs", "show", run.run_id)}
    return before_after(summary["eval"]), *errors_kept(summary), Pairs(rows)
