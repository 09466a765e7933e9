"""`scrpo ablate`: compare recipes, or values of a key, over seeds, at equal budget."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    DbOption,
    DebugOption,
    JsonOption,
    Output,
    QuietOption,
    SetOption,
    given_options,
)
from scrpo_cli.errors import RunError, UserError
from scrpo_cli.files import write_atomically
from scrpo_cli.tracking.activity import now

if TYPE_CHECKING:
    from scrpo_cli.ablation.executor import Executor, Finished, Job
    from scrpo_cli.ablation.sweep import Sweep
    from scrpo_cli.ablation.table import SweepResult
    from scrpo_cli.jobs.runs import ActiveRun
    from scrpo_cli.pool.db import Database

EXECUTORS = ("local",)
NEW_RUNS = ("--recipe", "--seeds")
NEW_ARMS = ("--reflect-every", "--vary", "--set")
"""Options that say what a sweep consists of."""
RESULTS_FILE, PLOT_FILE = "results.json", "plot.png"

RecipesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="R",
        autocompletion=completion.several(completion.recipes),
        show_default=DEFAULT_RECIPE,
        help="A shipped recipe or a YAML file; several, or `a,b`, are arms.",
    ),
]

ReflectOption = Annotated[
    str | None, typer.Option("--reflect-every", metavar="N,M,never", help="Arms: a reflection step after every N.")
]
VaryOption = Annotated[
    list[str] | None, typer.Option("--vary", metavar="K=a,b", help="Arms: values of a recipe key; repeat for a grid.")
]

DEFAULT_SEEDS = 2
MOST_JOBS = 256
"""Processes on one machine, each with a model of its own."""
SeedsOption = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        min=1,
        metavar="N",
        show_default=str(DEFAULT_SEEDS),
        help="Runs of each arm, from the recipe's seed on.",
    ),
]


def ablate(
    context: typer.Context,
    recipe: RecipesOption = None,
    reflect_every: ReflectOption = None,
    vary: VaryOption = None,
    seeds: SeedsOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=MOST_JOBS, metavar="N", help="Runs at a time.")] = 1,
    executor: Annotated[
        str,
        typer.Option(
            "--executor", metavar="NAME", autocompletion=completion.among(*EXECUTORS), help="Where runs run: local."
        ),
    ] = "local",
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="SWEEP",
            autocompletion=completion.sweeps,
            help="Run what is missing: an id, a prefix or `last`.",
        ),
    ] = None,
    extend: Annotated[
        str | None,
        typer.Option(
            "--extend",
            metavar="SWEEP",
            autocompletion=completion.sweeps,
            help="Add arms (--recipe) or seeds (--seeds), and run.",
        ),
    ] = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Recipes or values of a key, over seeds, at equal generated tokens: intervals, paired differences, a plot."""
    output = Output(json, quiet)
    if executor not in EXECUTORS:
        raise UserError(f"There is no executor '{executor}'", "--executor", f"One of: {', '.join(EXECUTORS)}.")
    refuse_options(context, resume, extend)
    output.begin("scrpo ablate: " + (f"sweep {resume or extend}" if resume or extend else "checking the arms"))
    from scrpo_cli.ablation.executor import SAVE_SECONDS, LocalExecutor
    from scrpo_cli.ablation.grid import check_arms, make_arms, split_recipes
    from scrpo_cli.ablation.sweep import extend_sweep, find_sweep, start_sweep, wait_for_strays
    from scrpo_cli.jobs.checks import check_training
    from scrpo_cli.jobs.runs import ActiveRun, closed_at_end, locked
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import reopen_run, resolve_run

    recipes = split_recipes(recipe or ()) or ([] if resume or extend else [DEFAULT_RECIPE])
    arms = []
    if recipes:  # mistakes show before anything is written
        arms = make_arms(recipes, reflect_every, vary or [], set_ or [], named=extend is not None or len(recipes) > 1)
        check_arms(arms)
    ref = resume or extend
    with Database.open(db, create=ref is None) as database:
        for arm in arms:
            check_training(database, arm.recipe)
        sweep = find_sweep(database, ref) if ref else start_sweep(database, arms, seeds or DEFAULT_SEEDS)
        with locked(sweep.directory, f"sweep {sweep.id}"):
            wait_for_strays(database, sweep, output.say, SAVE_SECONDS)
            if extend is not None:
                sweep = extend_sweep(find_sweep(database, sweep.id), arms, seeds)
            reopen_run(database, resolve_run(database, sweep.id))
            again = database.command("ablate", "--resume", sweep.id)
            row = ActiveRun(sweep.id, sweep.directory, sweep.arms[0].recipe, again)
            with closed_at_end(database, row):
                result = finish(database, sweep, LocalExecutor(jobs, say=output.say), db, row, output)
    if result:
        output.result(answer(sweep, result), tables(sweep, result))


def refuse_options(context: typer.Context, resume: str | None, extend: str | None) -> None:
    """UserError for what cannot stand beside --resume, and for an --extend that adds nothing."""
    given = given_options(context)
    if resume is not None and (extra := [name for name in given if name in (*NEW_RUNS, *NEW_ARMS, "--extend")]):
        fix = f"Drop {', '.join(extra)}; `--extend {resume}` adds arms and seeds to a sweep."
        raise UserError("A resumed sweep keeps the recipes and options of its start.", f"--resume {resume}", fix)
    if extend is not None and "--recipe" not in given:
        if extra := [name for name in given if name in NEW_ARMS]:
            raise UserError("New arms need a recipe", ", ".join(extra), "Name it with --recipe.")
        if "--seeds" not in given:
            raise UserError("Nothing is added", f"--extend {extend}", "Give --recipe for arms, --seeds for seeds.")


def finish(
    database: Database, sweep: Sweep, executor: Executor, db: str | None, row: ActiveRun, output: Output
) -> SweepResult | None:
    """Run what is to do, report on what is done into the sweep's `row`, and fail when a run failed."""
    from scrpo_cli.ablation.sweep import jobs_to_do
    from scrpo_cli.ablation.table import read_result
    from scrpo_cli.report.figures import plot_sweep
    from scrpo_cli.report.tables import render

    jobs = jobs_to_do(database, sweep, db)
    output.say(f"sweep {sweep.id}: {len(jobs)} of {len(sweep.cells)} runs to do, logs in {sweep.directory / 'logs'}")
    now().stage(f"sweep {sweep.id}, runs done", at_once=False)
    failed = run_jobs(executor, jobs, output)
    now().stage("reading the results, drawing the plot", at_once=False)
    result, outcomes = read_result(database, [sweep])
    if result is not None:
        with write_atomically(sweep.directory / RESULTS_FILE) as path:
            path.write_text(jsonlib.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
        plot_sweep(result, outcomes, sweep.directory / PLOT_FILE)
    row.summary = {"failed": [job.job.name for job in failed], **(result.as_dict() if result else {})}
    if failed:
        if result:
            output.say(render(result))
        what = f"{len(failed)} of {len(jobs)} runs failed; {failed[0].job.name}: {failed[0].error}"
        raise RunError(what, str(failed[0].job.log), row.again)
    return result


def run_jobs(executor: Executor, jobs: Sequence[Job], output: Output) -> list[Finished]:
    """Run all, say what starts and ends; those that failed. KeyboardInterrupt when stopped by a signal."""
    from scrpo_cli.ablation.executor import Finished

    failed = []
    now().progress(done := 0, len(jobs))
    with closing(executor.run(jobs)) as events:
        for event in events:
            if not isinstance(event, Finished):
                output.say(f"{event.name}: started")
                continue
            now().progress(done := done + 1, len(jobs))
            outcome = f"failed, {event.error}" if event.exit_code else "done"
            output.say(f"{event.job.name}: {outcome} after {event.seconds:.0f} s")
            failed += [event] if event.exit_code else []
    return failed


def answer(sweep: Sweep, result: SweepResult) -> dict[str, Any]:
    files = {"directory": str(sweep.directory), "plot": str(sweep.directory / PLOT_FILE)}
    return {"sweep": sweep.id, **files, **result.as_dict()}


def tables(sweep: Sweep, result: SweepResult) -> Any:
    from rich.console import Group

    from scrpo_cli.layout import Pairs
    from scrpo_cli.report.tables import render

    return Group(render(result), Pairs({"plot": str(sweep.directory / PLOT_FILE)}))
