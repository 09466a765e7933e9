"""`scrpo ablate`: compare recipes, or values of a key, over seeds, at equal budget."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
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
    from scrpo_cli.ablation.comparisons import Question
    from scrpo_cli.ablation.executor import Executor, Finished, Job
    from scrpo_cli.ablation.grid import Arm
    from scrpo_cli.ablation.sweep import Sweep
    from scrpo_cli.jobs.runs import ActiveRun
    from scrpo_cli.pool.db import Database

EXECUTORS = ("local",)
NEW_ARMS = ("--reflect-every", "--vary", "--set")
NEW_RUNS = ("--recipe", "--seeds")
"""Options that say what a sweep consists of."""
COMPARED = ("--against", "--pairs", "--margin")
"""Options that say what is compared."""
STARTS = {
    "--resume": (*NEW_RUNS, *NEW_ARMS),
    "--extend": (),
    "--tune": (*NEW_RUNS, "--reflect-every", "--vary", *COMPARED),
    "--race": ("--recipe", *NEW_ARMS),
}
"""Options that say where a sweep comes from, and what stands beside none of them."""
KEPT = {
    "--resume": ("A resumed sweep keeps the recipes and options of its start.", "`--extend` adds arms and seeds."),
    "--tune": (
        "The plan says which recipes, keys and seeds a tuning sweep has; it compares no arms.",
        "Write the plan.",
    ),
    "--race": ("A race takes recipes and settings from its tuning sweep.", "Tune with a plan that has them."),
}
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
    tune: Annotated[
        Path | None,
        typer.Option("--tune", metavar="PLAN", help="Choose a setting of each recipe of a plan, on task.validation."),
    ] = None,
    race: Annotated[
        str | None,
        typer.Option(
            "--race",
            metavar="SWEEP",
            autocompletion=completion.sweeps,
            help="Arms: the settings that a tuning sweep chose, on fresh seeds.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="ARM", help="The arm that the others are compared with; else the first."),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("--pairs", metavar="'NAME*'", help="Also compare all arms of this name among each other; repeat."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option("--margin", min=0.0, max=100.0, metavar="POINTS", help="Test whether arms are equal within this."),
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
    refuse_options(context)
    ref = resume or extend
    output.begin("scrpo ablate: " + (f"sweep {ref or race}" if ref or race else "checking the arms"))
    from scrpo_cli.ablation.comparisons import Question
    from scrpo_cli.ablation.executor import SAVE_SECONDS, LocalExecutor
    from scrpo_cli.ablation.plan import read_settings
    from scrpo_cli.ablation.sweep import extend_sweep, find_sweep, start_sweep, wait_for_strays
    from scrpo_cli.ablation.tuning import start_race, start_tuning
    from scrpo_cli.jobs.checks import check_trainings
    from scrpo_cli.jobs.runs import ActiveRun, closed_at_end, locked
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import reopen_run, resolve_run

    question = Question(against or "", tuple(pairs or ()), None if margin is None else margin / 100)
    settings = read_settings(tune, set_ or ()) if tune else None
    arms = [] if resume or tune or race else new_arms(recipe or (), reflect_every, vary or (), set_ or (), extend)
    if arms and extend is None:
        question.check([arm.name for arm in arms])
    with Database.open(db, create=ref is None and race is None) as database:
        check_trainings(database, [arm.recipe for arm in arms])
        if ref:
            sweep = find_sweep(database, ref)
        elif settings:
            sweep = start_tuning(database, settings)
        elif race:
            sweep = start_race(database, race, seeds or DEFAULT_SEEDS, question)
        else:
            sweep = start_sweep(database, arms, seeds or DEFAULT_SEEDS)
        with locked(sweep.directory, f"sweep {sweep.id}"):
            wait_for_strays(database, sweep, output.say, SAVE_SECONDS)
            if extend is not None:
                sweep = extend_sweep(find_sweep(database, sweep.id), arms, seeds)
            if sweep.bases and question != Question():
                raise UserError(
                    "A tuning sweep compares no arms", ", ".join(COMPARED), "Give these options to its race."
                )
            question.check([arm.name for arm in sweep.arms])  # before anything runs
            reopen_run(database, resolve_run(database, sweep.id))
            again = database.command("ablate", "--resume", sweep.id)
            row = ActiveRun(sweep.id, sweep.directory, sweep.arms[0].recipe, again)
            with closed_at_end(database, row):
                report = finish(database, sweep, question, LocalExecutor(jobs, say=output.say), db, row, output)
    if report:
        output.result({"sweep": sweep.id, "directory": str(sweep.directory), **report.answer}, report.tables)


def refuse_options(context: typer.Context) -> None:
    """UserError for what cannot stand beside --resume, --tune or --race, and for an --extend that adds nothing."""
    given = given_options(context)
    starts = [name for name in STARTS if name in given]
    if len(starts) > 1:
        raise UserError(f"{' and '.join(starts)} exclude each other", "scrpo ablate", "Give one of them.")
    for start in starts:
        if extra := [name for name in given if name in STARTS[start]]:
            what, fix = KEPT[start]
            raise UserError(what, f"{start} {given[start]}", f"Drop {', '.join(extra)}. {fix}")
    if "--extend" in given and "--recipe" not in given:
        if extra := [name for name in given if name in NEW_ARMS]:
            raise UserError("New arms need a recipe", ", ".join(extra), "Name it with --recipe.")
        if "--seeds" not in given:
            where = f"--extend {given['--extend']}"
            raise UserError("Nothing is added", where, "Give --recipe for arms, --seeds for seeds.")


def new_arms(
    recipe: Sequence[str], reflect_every: str | None, vary: Sequence[str], sets: Sequence[str], extend: str | None
) -> list[Arm]:
    """The arms that the command line names; mistakes show before anything is written."""
    from scrpo_cli.ablation.grid import check_arms, make_arms, split_recipes

    recipes = split_recipes(recipe) or ([] if extend else [DEFAULT_RECIPE])
    if not recipes:
        return []
    arms = make_arms(recipes, reflect_every, vary, sets, named=extend is not None or len(recipes) > 1)
    check_arms(arms)
    return arms


@dataclass(frozen=True)
class Report:
    """What is known of a sweep: as plain data for --json and the sweep's row, and for a terminal."""

    summary: dict[str, Any]
    answer: dict[str, Any]
    tables: Any


def finish(
    database: Database,
    sweep: Sweep,
    question: Question,
    executor: Executor,
    db: str | None,
    row: ActiveRun,
    output: Output,
) -> Report | None:
    """Run what is to do, report on what is done into the sweep's `row`, and fail when a run failed."""
    from scrpo_cli.ablation.sweep import jobs_to_do

    jobs = jobs_to_do(database, sweep, db)
    output.say(f"sweep {sweep.id}: {len(jobs)} of {len(sweep.cells)} runs to do, logs in {sweep.directory / 'logs'}")
    now().stage(f"sweep {sweep.id}, runs done", at_once=False)
    failed = run_jobs(executor, jobs, output)
    now().stage("reading the results", at_once=False)
    report = report_on_tuning(database, sweep) if sweep.bases else report_on(database, sweep, question)
    if report is not None:
        with write_atomically(sweep.directory / RESULTS_FILE) as path:
            path.write_text(jsonlib.dumps(report.summary, indent=2) + "\n", encoding="utf-8")
    row.summary = {"failed": [job.job.name for job in failed], "question": asdict(question)}
    row.summary |= report.summary if report else {}
    if failed:
        if report:
            output.say(report.tables)
        what = f"{len(failed)} of {len(jobs)} runs failed; {failed[0].job.name}: {failed[0].error}"
        raise RunError(what, str(failed[0].job.log), row.again)
    return report


def report_on(database: Database, sweep: Sweep, question: Question) -> Report | None:
    """The comparison of the arms, with its plot; None while no run is done."""
    from rich.console import Group

    from scrpo_cli.ablation.table import read_result
    from scrpo_cli.layout import Pairs
    from scrpo_cli.report.figures import plot_sweep
    from scrpo_cli.report.tables import render

    result, outcomes = read_result(database, [sweep], question)
    if result is None:
        return None
    plot = {"plot": str(plot_sweep(result, outcomes, sweep.directory / PLOT_FILE))}
    summary = result.as_dict()
    return Report(summary, plot | summary, Group(render(result), Pairs(plot)))


def report_on_tuning(database: Database, sweep: Sweep) -> Report:
    """Every setting that was tried, the chosen ones, and how they race."""
    from rich.console import Group

    from scrpo_cli.ablation.tuning import read_trials
    from scrpo_cli.layout import Pairs
    from scrpo_cli.report.tables import terminal, tuning

    trials = read_trials(database, sweep)
    summary = {"tuning": [asdict(trial) for trial in trials]}
    command = {"race": database.command("ablate", "--race", sweep.id, "--seeds", "8")}
    sheet = tuning(trials)
    assert sheet is not None  # a tuning sweep has settings
    return Report(summary, command | summary, Group(terminal(sheet), Pairs(command)))


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
