"""`scrpo fork`: go on from a step of an earlier run under a changed recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrpo_cli.cli.common import (
    DbOption,
    DebugOption,
    JsonOption,
    Output,
    QuietOption,
    SetOption,
    sets_of,
)
from scrpo_cli.cli.runs import RunArgument
from scrpo_cli.cli.train import (
    KEYS,
    ArmOption,
    ReflectOption,
    RunIdOption,
    SeedOption,
    SweepOption,
    begun,
    taken_up,
    train_to_end,
)

AT = "Of which checkpoint of RUN; `checkpoint.keep` says how many it keeps."


def fork(
    context: typer.Context,
    run: RunArgument,
    at: Annotated[int, typer.Option("--at", min=1, metavar="STEP", help=AT)],
    reflect_every: ReflectOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", metavar="FILE", help="A whole recipe instead of RUN's.")
    ] = None,
    run_id: RunIdOption = None,
    sweep: SweepOption = None,
    arm: ArmOption = "",
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Branch a run from a checkpoint of RUN and train on: with the same draws, so what differs comes from --set."""
    output = Output(json, quiet)
    output.begin(f"scrpo fork: step {at} of run {run}")
    from scrpo_cli.jobs.checks import check_training
    from scrpo_cli.jobs.fork import check_fork, find_branch, take_up
    from scrpo_cli.jobs.runs import started_run
    from scrpo_cli.pool.db import Database
    from scrpo_cli.recipe.load import load_recipe

    database = Database.open(db, create=False)
    if begun(database, sweep, run_id):
        with taken_up(database, str(run_id), patient=True) as active:
            train_to_end(active, database, output)
        return
    branch = find_branch(database, run, at)
    sets = sets_of(context, KEYS)
    resolved = load_recipe(recipe, sets) if recipe else branch.recipe(sets)
    check_fork(branch, resolved)
    check_training(database, resolved)
    with started_run(
        database, "train", resolved, run_id=run_id, sweep=sweep, arm=arm, summary=branch.as_dict()
    ) as active:
        active.start = take_up(database, active)
        train_to_end(active, database, output)
