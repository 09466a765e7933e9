"""Running a sweep and telling what it found; `scrpo ablate` says which."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scrpo_cli.cli.common import Output
from scrpo_cli.errors import RunError, UserError
from scrpo_cli.files import write_atomically
from scrpo_cli.tracking.activity import now

if TYPE_CHECKING:
    from scrpo_cli.ablation.comparisons import Question
    from scrpo_cli.ablation.executors.base import Executor, Finished, Job
    from scrpo_cli.ablation.grid import Arm, Cell
    from scrpo_cli.ablation.sweep import Sweep
    from scrpo_cli.jobs.runs import ActiveRun
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.models import RunRow

COMPARED = ("--against", "--pairs", "--margin")
"""Options that say what is compared."""
RESULTS_FILE, PLOT_FILE = "results.json", "plot.png"


@dataclass(frozen=True)
class Report:
    """What is known of a sweep: as plain data for --json and the sweep's row, and for a terminal."""

    summary: dict[str, Any]
    answer: dict[str, Any]
    tables: Any
    open_claims: Sequence[str] = ()
    """Of a study: those that one more seed might tell."""


def run_sweep(
    database: Database,
    sweep: Sweep,
    more: tuple[Sequence[Arm], int | None] | None,
    question: Question,
    executor: Executor,
    place: Sequence[str],
    db: str | None,
    output: Output,
) -> Report | None:
    """Run what is to do of a sweep, to which `more` arms and seeds may be added, once nobody else works on it. `place`:
    options that name the executor again.
    """
    from scrpo_cli.ablation.comparisons import Question
    from scrpo_cli.ablation.own_files import gather
    from scrpo_cli.ablation.sweep import extend_sweep, find_sweep, wait_for_strays
    from scrpo_cli.jobs.runs import SAVE_SECONDS, ActiveRun, closed_at_end, locked
    from scrpo_cli.pool.queries import reopen_run, resolve_run

    with locked(sweep.directory, f"sweep {sweep.id}"):
        gather(database, sweep, executor.at_work())
        if not executor.takes_over:
            wait_for_strays(database, sweep, output.say, SAVE_SECONDS)
            gather(database, sweep)
        if more is not None:
            sweep = extend_sweep(find_sweep(database, sweep.id), *more)
        if sweep.bases and question != Question():
            raise UserError("A tuning sweep compares no arms", ", ".join(COMPARED), "Give these options to its race.")
        question.check([arm.name for arm in sweep.arms])  # before anything runs
        reopen_run(database, resolve_run(database, sweep.id))
        again = database.command("ablate", "--resume", sweep.id, *place)
        row = ActiveRun(sweep.id, sweep.directory, sweep.arms[0].recipe, again)
        with closed_at_end(database, row):
            report = finish(database, sweep, question, executor, db, row, output)
            while report and report.open_claims:
                output.say(f"{len(sweep.seeds)} seeds, still open: {'; '.join(report.open_claims)}")
                sweep = extend_sweep(sweep, (), len(sweep.seeds) + 1)
                report = finish(database, sweep, question, executor, db, row, output)
            return report


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
    from scrpo_cli.ablation.own_files import give, own_file, take
    from scrpo_cli.ablation.standing import shown_live
    from scrpo_cli.ablation.sweep import jobs_to_do

    at_work = executor.at_work()

    def place(cell: Cell, run: RunRow | None) -> str | None:
        if not sweep.own_files:
            return db
        return str(own_file(sweep, cell.name) if cell.name in at_work else give(database, sweep, cell, run))

    def ended(event: Finished) -> None:
        if sweep.own_files:
            take(database, sweep, event)

    jobs = jobs_to_do(database, sweep, place)
    output.say(f"sweep {sweep.id}: {len(jobs)} of {len(sweep.cells)} runs to do, logs in {sweep.directory / 'logs'}")
    now().stage(f"sweep {sweep.id}, runs done", at_once=False)
    with shown_live(database, sweep):
        failed = run_jobs(executor, jobs, ended, output)
    now().stage("reading the results", at_once=False)
    report = report_on_tuning(database, sweep) if sweep.bases else report_on(database, sweep, question, output)
    if report is not None:
        with write_atomically(sweep.directory / RESULTS_FILE) as path:
            path.write_text(json.dumps(report.summary, indent=2) + "\n", encoding="utf-8")
    row.summary = {"failed": [job.job.name for job in failed], "question": asdict(question)}
    row.summary |= report.summary if report else {}
    if failed:
        if report:
            output.say(report.tables)
        what = f"{len(failed)} of {len(jobs)} runs failed; {failed[0].job.name}: {failed[0].error}"
        raise RunError(what, str(failed[0].job.log), row.again)
    return report


def report_on(database: Database, sweep: Sweep, question: Question, output: Output) -> Report | None:
    """The comparison of the arms, with its plot, also for W&B; None while no run is done."""
    from rich.console import Group

    from scrpo_cli.ablation.study import OPEN
    from scrpo_cli.ablation.table import read_result
    from scrpo_cli.layout import Pairs
    from scrpo_cli.report.figures import plot_sweep
    from scrpo_cli.report.published import publish_sweep
    from scrpo_cli.report.tables import render

    result, outcomes = read_result(database, [sweep], question)
    if result is None:
        return None
    figure = plot_sweep(result, outcomes, sweep.directory / PLOT_FILE)
    publish_sweep(sweep, result, figure, output.say)
    plot = {"plot": str(figure)}
    summary = result.as_dict()
    still_open = [claim.claim for claim in result.claims if claim.verdict == OPEN]
    return Report(summary, plot | summary, Group(render(result), Pairs(plot)), still_open)


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


def run_jobs(
    executor: Executor, jobs: Sequence[Job], ended: Callable[[Finished], None], output: Output
) -> list[Finished]:
    """Run all, say what starts and ends; those that failed. KeyboardInterrupt when stopped by a signal."""
    from scrpo_cli.ablation.executors.base import Finished

    failed = []
    now().progress(done := 0, len(jobs))
    with closing(executor.run(jobs)) as events:
        for event in events:
            if not isinstance(event, Finished):
                output.say(f"{event.name}: started")
                continue
            ended(event)
            now().progress(done := done + 1, len(jobs))
            outcome = f"failed, {event.error}" if event.exit_code else "done"
            output.say(f"{event.job.name}: {outcome} after {event.seconds:.0f} s")
            failed += [event] if event.exit_code else []
    return failed
