"""`scrpo eval --from-jsonl` below the command line: which rules each response of a file is graded by, and what comes of
it. Everything that can be refused is refused before a run begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.identity import by_benchmark, of_benchmark, of_their_own, task_of, with_samples
from scrpo_cli.evaluation.outcomes import Key
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.evaluation.rows import arranged, evaluate_rows
from scrpo_cli.jobs.checks import load
from scrpo_cli.jobs.compare import earlier_run
from scrpo_cli.jobs.evaluate import Draw, Report, sum_up
from scrpo_cli.jobs.runs import ActiveRun, started_run
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_evaluation, refuse_changed
from scrpo_cli.recipe.benchmark import Benchmark, EvalPlan, benchmark_of_label, misspelt, plan
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.external import ResponseRow, models_of, rows_by_problem
from scrpo_cli.tasks.guard import stop_on_failures, unreadable_references


@dataclass(frozen=True)
class Sheet:
    """Responses that are scored together. `about` goes into their protocol."""

    rows: Sequence[ResponseRow]
    protocol: Protocol
    task: Task
    about: Mapping[str, Any]

    @property
    def problems(self) -> set[Key]:
        return {(row.source, row.id) for row in self.rows}


def evaluate_external(
    db: Database,
    recipe: Recipe,
    rows: Sequence[ResponseRow],
    against: str | None,
    report: Report,
    draw: Draw,
    *,
    named: bool,
    choose: bool,
) -> dict[str, Any]:
    """Score external responses; the run's summary. `named`: only those to the benchmarks of the recipe, whose rules
    hold. `choose`: where no benchmark has rules, the rows themselves say which task grades them, else the recipe.
    """
    if recipe.eval.gate.signal != "none":
        what = "A gate asks a model, and the answers of a file have no log-probs."
        raise UserError(what, "--from-jsonl with eval.gate", "Leave out one of the two.")
    planned = plan(recipe) if named else EvalPlan({})
    groups = asked_for(rows, planned, recipe, report) if named else by_benchmark(rows)
    with ExitStack() as stack:
        sheets: dict[str, Sheet] = {}
        for name, each in groups.items():
            benchmark = planned.benchmarks[name] if named else benchmark_of(name, each, recipe)
            sheet = of_rules(benchmark, each, recipe) if benchmark else of_no_rules(each, recipe, choose)
            stack.callback(sheet.task.close)
            check(sheet)
            report(announced(name, sheet, chosen=choose and not benchmark))
            sheets[name] = sheet
            refuse_changed(db, [(row.where, row.as_problem()) for row in sheet.rows])
        graders = {name: sheet.task.grader for name, sheet in sheets.items()}
        other = earlier_run(db, against, graders, {name: sheet.problems for name, sheet in sheets.items()})
        for name, sheet in sheets.items():
            for line in unreadable(name, sheet):
                report(line)
        with started_run(db, "eval", recipe, resumable=False, answered_by=models_of(rows)) as run:
            results = {name: score(db, run, name, sheet) for name, sheet in sheets.items()}
            sum_up(db, run, results, planned.suites, other, draw)
    return run.summary


def asked_for(
    rows: Sequence[ResponseRow], planned: EvalPlan, recipe: Recipe, report: Report
) -> dict[str, list[ResponseRow]]:
    """The rows of each benchmark of the plan. Rows that name none belong to the only one; those of others are left
    out, and that is said.
    """
    found: dict[str, list[ResponseRow]] = {name: [] for name in planned.benchmarks}
    others: dict[str, list[ResponseRow]] = {}
    for row in rows:
        if row.benchmark is None and len(found) > 1:
            fix = "Name one, or give the rows the field `benchmark`."
            raise UserError("Which of the benchmarks does the row answer?", f"--benchmarks, {row.where}", fix)
        name = row.benchmark or next(iter(found))
        (found if name in found else others).setdefault(name, []).append(row)
    for name, each in others.items():
        benchmark_of(name, each, recipe)  # a misspelt one is refused
    there = ", ".join(f"{len(each)} of {name}" for name, each in others.items())
    if missing := [name for name, each in found.items() if not each]:
        where = next(iter(others.values()))[0].where if others else "--benchmarks"
        fix = misspelt(missing[0]) or (f"There are rows: {there}." if there else "Leave it out.")
        raise UserError(f"No row answers {missing[0]}.", where, fix)
    if others:
        report(f"rows that answer another benchmark are left out: {there}")
    return found


def benchmark_of(name: str, rows: Sequence[ResponseRow], recipe: Recipe) -> Benchmark | None:
    """The shipped benchmark that rows name; None where they name none, or have a label of their own."""
    if rows[0].benchmark is None:
        return None
    benchmark = benchmark_of_label(name, recipe)
    if benchmark is None and (near := misspelt(name)):
        fix = f"{near} A benchmark of your own needs another name, or its file: --benchmarks mine.yaml."
        raise UserError(f"There is no benchmark '{name}'.", rows[0].where, fix)
    return benchmark


def of_rules(benchmark: Benchmark, rows: Sequence[ResponseRow], recipe: Recipe) -> Sheet:
    """Under a benchmark's own rules: its task, and of each problem its text, reference answer and tolerances."""
    protocol = Protocol.of(recipe, benchmark)
    task = make_task(protocol.task)
    with ExitStack() as stack:
        stack.callback(task.close)
        problems = load(benchmark, task)
        found = with_samples(of_benchmark(rows, problems, benchmark.name))
        stack.pop_all()
    about = {
        "split": benchmark.problems.split,
        "origin": benchmark.origin.model_dump(),
        "revision": benchmark.problems.revision or benchmark.origin.revision or None,
        "benchmark_problems": len(problems),
    }
    return Sheet(found, protocol, task, about)


def of_no_rules(rows: Sequence[ResponseRow], recipe: Recipe, choose: bool) -> Sheet:
    """Under what the rows say of their problems, graded by the recipe's task or by the one that they call for."""
    found = with_samples(of_their_own(rows))
    protocol = Protocol.of(recipe)
    if choose:
        protocol = replace(protocol, task=protocol.task.model_copy(update={"name": task_of(found)}))
    return Sheet(found, protocol, make_task(protocol.task), {})


def check(sheet: Sheet) -> None:
    """Refuse rows that do not fit together, and curves that they cannot give, before a run begins."""
    turns, _ = arranged(sheet.rows)
    if sheet.protocol.scaling and len(turns) < 2:
        what = "Inference scaling compares first answers with corrected ones, and the file has no second turn."
        raise UserError(what, sheet.rows[0].where, "Leave out --scaling, or give rows with turn 2.")


def announced(name: str, sheet: Sheet, *, chosen: bool) -> str:
    """Who grades a sheet, and how much of a benchmark it is."""
    asked, all_ = len(sheet.problems), sheet.about.get("benchmark_problems")
    of = f"{asked} of its {all_:,} problems" if all_ else f"{asked} problems"
    why = f"; the rows call for the task {sheet.task.name}, --recipe R names another" if chosen else ""
    return f"{name}: {of}, {len(sheet.rows)} answers, graded by {sheet.task.grader}{why}"


def unreadable(name: str, sheet: Sheet) -> list[str]:
    """See `unreadable_references`. Of a benchmark they are counted among all its problems: a few rows may answer no
    others.
    """
    problems = [column[0].as_problem() for column in rows_by_problem(sheet.rows)]
    return unreadable_references(sheet.task, problems, name, sheet.about.get("benchmark_problems", 0))


def score(db: Database, run: ActiveRun, name: str, sheet: Sheet) -> dict[str, Any]:
    """Grade and store the answers; their metrics."""
    found = evaluate_rows(sheet.task, sheet.rows, f"{run.run_id}:0:{name}", sheet.protocol, sheet.about)
    stop_on_failures(sheet.task, str(run.directory), run.again)
    record_evaluation(db, run.run_id, 0, name, found.metrics, found.attempts, models=found.models)
    return found.metrics
