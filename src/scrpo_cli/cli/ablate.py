"""`scrpo ablate`: vary one thing, over seeds, at equal budget."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    DbOption,
    DebugOption,
    JsonOption,
    Output,
    QuietOption,
    RecipeOption,
    SetOption,
    refuse_with_resume,
)
from scrpo_cli.errors import Interrupted, RunError, UserError
from scrpo_cli.recipe.load import load_recipe

if TYPE_CHECKING:
    from scrpo_cli.ablation.executor import Executor, Finished, Job
    from scrpo_cli.ablation.sweep import Sweep
    from scrpo_cli.ablation.table import SweepResult
    from scrpo_cli.pool.db import Database

EXECUTORS = ("local",)

ReflectOption = Annotated[
    str | None, typer.Option("--reflect-every", metavar="N,M,never", help="Arms: a reflection step after every N.")
]
VaryOption = Annotated[
    list[str] | None, typer.Option("--vary", metavar="K=a,b", help="Arms: values of a recipe key; repeat for a grid.")
]

DEFAULT_SEEDS = 2
SeedsOption = Annotated[
    int | None,
    typer.Option(
        "--seeds", min=1, show_default=str(DEFAULT_SEEDS), help="Runs of each arm, from the recipe's seed on."
    ),
]


def ablate(
    recipe: RecipeOption = None,
    reflect_every: ReflectOption = None,
    vary: VaryOption = None,
    seeds: SeedsOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time.")] = 1,
    executor: Annotated[str, typer.Option("--executor", help="Where runs run: local.")] = "local",
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="SWEEP", help="Run what is missing: an id, a prefix or `last`.")
    ] = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Vary one thing, over seeds, at equal generated tokens; a table with intervals and paired differences, a plot."""
    from scrpo_cli.ablation.executor import LocalExecutor
    from scrpo_cli.ablation.sweep import find_sweep, locked
    from scrpo_cli.pool.db import Database

    output = Output(json, quiet)
    if executor not in EXECUTORS:
        raise UserError(f"There is no executor '{executor}'", "--executor", f"One of: {', '.join(EXECUTORS)}.")
    started_with = {"--recipe": recipe, "--reflect-every": reflect_every, "--vary": vary or None, "--seeds": seeds}
    refuse_with_resume(resume, {**started_with, "--set": set_ or None})
    if resume is not None:
        with Database.open(db, create=False) as database:
            sweep = find_sweep(database, resume)
    else:
        sweep = new_sweep(recipe or DEFAULT_RECIPE, reflect_every, vary or (), seeds or DEFAULT_SEEDS, set_ or (), db)
    with Database.open(db) as database, locked(sweep):
        finish(database, sweep, LocalExecutor(jobs, say=output.say), db, output)


def new_sweep(
    recipe: str, reflect_every: str | None, vary: Sequence[str], seeds: int, sets: Sequence[str], db: str | None
) -> Sweep:
    """Check every arm before anything is written, then write the sweep down."""
    from scrpo_cli.ablation.grid import check_arms, make_arms
    from scrpo_cli.ablation.sweep import start_sweep
    from scrpo_cli.pool.db import Database

    arms = make_arms(reflect_every, vary)
    check_arms(recipe, sets, arms)
    base = load_recipe(recipe, sets)
    with Database.open(db) as database:
        return start_sweep(database, base, arms, range(base.seed, base.seed + seeds))


def finish(database: Database, sweep: Sweep, executor: Executor, db: str | None, output: Output) -> None:
    """Run what is to do, report on what is done, and fail when a run failed."""
    from scrpo_cli.ablation.results import write_results
    from scrpo_cli.ablation.sweep import jobs_to_do
    from scrpo_cli.ablation.table import render
    from scrpo_cli.pool.queries import finish_run

    again = f"scrpo ablate --resume {sweep.id}" + (f" --db {db}" if db else "")
    jobs = jobs_to_do(database, sweep, db)
    output.say(f"sweep {sweep.id}: {len(jobs)} of {len(sweep.cells)} runs to do, logs in {sweep.directory / 'logs'}")
    try:
        failed = run_jobs(executor, jobs, output)
    except KeyboardInterrupt:
        finish_run(database, sweep.id, "interrupted", {})
        raise Interrupted("Interrupted; what the runs had done is saved", str(sweep.directory), again) from None
    result = write_results(database, sweep)
    summary = {"failed": [job.job.name for job in failed], **(result.as_dict() if result else {})}
    finish_run(database, sweep.id, "failed" if failed else "done", summary)
    if failed:
        if result:
            output.say(render(result))
        what = f"{len(failed)} of {len(jobs)} runs failed; {failed[0].job.name}: {failed[0].error}"
        raise RunError(what, str(failed[0].job.log), again)
    if result:
        output.result(answer(sweep, result), tables(sweep, result))


def run_jobs(executor: Executor, jobs: Sequence[Job], output: Output) -> list[Finished]:
    """Run all, say what starts and ends; those that failed. KeyboardInterrupt when stopped by a signal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from scrpo_cli.ablation.executor import Finished

    failed = []
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=output.console, disable=not output.console.is_terminal)
    with terminate_as_interrupt(), bar, closing(executor.run(jobs)) as events:
        task = bar.add_task("runs", total=len(jobs))
        for event in events:
            if not isinstance(event, Finished):
                output.say(f"{event.name}: started")
                continue
            bar.advance(task)
            outcome = f"failed, {event.error}" if event.exit_code else "done"
            output.say(f"{event.job.name}: {outcome} after {event.seconds:.0f} s")
            failed += [event] if event.exit_code else []
    return failed


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM stops the runs as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def answer(sweep: Sweep, result: SweepResult) -> dict[str, Any]:
    from scrpo_cli.ablation.results import PLOT_FILE

    files = {"directory": str(sweep.directory), "plot": str(sweep.directory / PLOT_FILE)}
    return {"sweep": sweep.id, **files, **result.as_dict()}


def tables(sweep: Sweep, result: SweepResult) -> Any:
    from rich.console import Group
    from rich.text import Text

    from scrpo_cli.ablation.results import PLOT_FILE
    from scrpo_cli.ablation.table import render

    return Group(render(result), Text(f"plot: {sweep.directory / PLOT_FILE}"))
