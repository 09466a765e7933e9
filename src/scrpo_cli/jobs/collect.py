"""`scrpo collect`: sample a policy on problems, or take external responses, grade, and keep the wrong ones.

Each step is one transaction and its problems are a pure function of its number, so an interrupted collection goes on
with the first step that is not in the database, and with what of it was answered (`training.half_step`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from math import isnan
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.outcomes import NO_ANSWERS, REPAIR
from scrpo_cli.jobs.runs import ActiveRun, note_fingerprint
from scrpo_cli.methods.parts.pool import FilterConfig, PoolConfig, PoolRules, decisions, reasons, said
from scrpo_cli.methods.parts.rewards import RewardConfig
from scrpo_cli.methods.scrpo import pool_rules
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.entries import list_entries
from scrpo_cli.pool.queries import attempts_of, decisions_of, record_step, refuse_changed, steps_of
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.rollout.groups import Origin
from scrpo_cli.rollout.prompts import check_prompt_budget
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.external import ResponseRow, attempts_of_rows, rows_by_problem
from scrpo_cli.tasks.guard import stop_on_failures, unreadable_references
from scrpo_cli.tracking.activity import now
from scrpo_cli.training import half_step
from scrpo_cli.types import Group, SampleRequest, Verdict

if TYPE_CHECKING:
    from scrpo_cli.training.runtime import Runtime

Report = Callable[[str], None]
EVERY_ERROR = PoolRules(FilterConfig(mode="none"), PoolConfig(per_prompt="all", include_truncated=True), RewardConfig())
SHOWN = 4  # problems of a step that are shown with the verdicts on their answers


def fill_pool(
    db: Database, run: ActiveRun, rows: Sequence[ResponseRow] | None, report: Report, *, use_filter: bool = False
) -> dict[str, Any]:
    """Sample the recipe's problems, or take `rows` of external responses; what came of it, for the run's summary."""
    if rows is not None:
        with closing(make_task(run.recipe.task)) as task:
            collect_rows(db, run, task, rows, report, use_filter=use_filter)
        return totals(db, run, pool_rules(run.recipe.method) if use_filter else EVERY_ERROR)
    if run.summary["from"]:
        raise UserError("An import is one transaction and cannot be resumed.", run.run_id, "Run it again.")
    from scrpo_cli.training.runtime import open_runtime  # loads torch, which external responses do not need

    with open_runtime(run.recipe, run.run_id) as runtime:
        collect_samples(db, run, runtime, report)
    return totals(db, run, pool_rules(run.recipe.method))


def check_rows(db: Database, rows: Sequence[ResponseRow]) -> None:
    """UserError, before a run begins, where rows cannot be collected: none is a first answer, or one changes the
    problem of another or of the database.
    """
    if not first_answers(rows):
        raise UserError("The file has no first-turn rows.", rows[0].where, "Give rows with turn 1 (the default).")
    refuse_changed(db, [(row.where, row.as_problem()) for row in rows])


def first_answers(rows: Sequence[ResponseRow]) -> list[ResponseRow]:
    """The rows that answer their problem and no earlier answer."""
    return [row for row in rows if row.turn == 1 and row.kind not in (*NO_ANSWERS, REPAIR)]


def repeated(rows: Sequence[ResponseRow]) -> list[ResponseRow]:
    """Rows that are an earlier one over again, as in a file that was joined to itself. Exported pools of several
    steps have the same sample of a problem more than once, with other texts.
    """
    seen: set[tuple[tuple[str, str, int], str | None, str]] = set()
    found = []
    for row in rows:
        each = (row.key, row.model, row.response)
        if row.numbered and each in seen:
            found.append(row)
        seen.add(each)
    return found


def collect_samples(db: Database, run: ActiveRun, runtime: Runtime, report: Report) -> None:
    """Sample `rollout.group_size` first answers of each training problem and keep the errors in the run's pool."""
    recipe = runtime.recipe
    note_fingerprint(db, run, runtime.chat)
    problems = runtime.task.problems(recipe.task.train)
    check_prompt_budget(recipe.task, runtime.task, runtime.chat, problems)
    for line in unreadable_references(runtime.task, problems, "task.train"):
        report(line)
    done = {s.step for s in steps_of(db, run.run_id)}
    size = recipe.optim.prompts_per_step
    for step, start in enumerate(range(0, len(problems), size), start=1):
        if step in done:
            continue
        batch = f"problems {start + 1} to {min(start + size, len(problems))} of {len(problems)}"
        now().whole(start, len(problems))
        now().stage(f"sampling {batch}")
        requests = [
            SampleRequest(p, runtime.task.messages(p), recipe.rollout.group_size)
            for p in problems[start : start + size]
        ]
        with half_step.keeping(run.directory, step, runtime.stamp, run.again, report) as answers:
            origin = Origin(f"{run.run_id}:{step}", recipe.seed, step, "collect")
            groups = runtime.answer(requests, origin, answers)
            decided = decisions(groups, pool_rules(recipe.method), recipe.rollout.max_tokens, recipe.seed, step)
            stop_on_failures(runtime.task, str(run.directory), run.again)  # a resumed collection grades this step again
            store(db, run, step, groups, decided)
        half_step.drop(run.directory)
        report("\n".join(glance(g) for g in groups[:SHOWN]))
        report(f"{batch}: {describe(groups, decided)}")


def collect_rows(
    db: Database, run: ActiveRun, task: Task, rows: Sequence[ResponseRow], report: Report, *, use_filter: bool
) -> None:
    """Grade external responses and pool every wrong one (or, with `use_filter`, what the recipe's filter keeps)."""
    first = first_answers(rows)
    if len(first) < len(rows):
        report(f"{len(rows) - len(first)} rows are left out: they are no first answers to their problems")
    if again := repeated(first):
        what = f"{len(again)} rows repeat an earlier row (same sample, same text) and count as further answers"
        report(f"warning: {what}; the first is {again[0].where}")
    columns = rows_by_problem(first)[: run.recipe.task.train.limit]
    for line in unreadable_references(task, [column[0].as_problem() for column in columns], "--from-jsonl"):
        report(line)
    attempts = attempts_of_rows(task, columns, f"{run.run_id}:1")
    groups = [
        Group(SampleRequest(same[0].problem, task.messages(same[0].problem), len(same)), same) for same in attempts
    ]
    models = {
        a.id: row.model
        for same, column in zip(attempts, columns, strict=True)
        for a, row in zip(same, column, strict=True)
        if row.model
    }
    rules = pool_rules(run.recipe.method) if use_filter else EVERY_ERROR
    decided = decisions(groups, rules, run.recipe.rollout.max_tokens, run.recipe.seed, 1)
    stop_on_failures(task, str(run.directory), run.again)
    store(db, run, 1, groups, decided, models)


def store(
    db: Database,
    run: ActiveRun,
    step: int,
    groups: Sequence[Group],
    decisions: Mapping[str, str],
    models: Mapping[str, str] | None = None,
) -> None:
    attempts = [a for g in groups for a in g.attempts]
    graded = [a.reward for a in attempts if a.grade.verdict is not Verdict.GRADER_ERROR]
    metrics: dict[str, float] = {"collect/attempts": len(attempts)}
    if graded:
        metrics["collect/accuracy"] = sum(graded) / len(graded)
    pool = run.summary["pool"]
    record_step(db, run.run_id, StepRecord(step, "collect", attempts, decisions, pool, [], metrics, models or {}))


def glance(group: Group) -> str:
    """A problem in one line, with a mark for each answer: `47+38=?   right ..x.x   answer 85`."""
    problem = group.request.problem
    text = shorten(problem.text, 60, placeholder="...")
    marks = "".join("?" if isnan(a.outcome) else "." if a.reward else "x" for a in group.attempts)
    failed = ", ? not graded" if "?" in marks else ""
    answer = f"; answer {shorten(problem.answer, 30, placeholder='...')}" if problem.answer else ""
    return f"  {text:<24} {marks}  (. right, x wrong{failed}{answer})"


def describe(groups: Sequence[Group], decisions: Mapping[str, str]) -> str:
    attempts = [a for g in groups for a in g.attempts]
    right, failed = sum(a.reward for a in attempts), sum(isnan(a.outcome) for a in attempts)
    also = f", {failed} not graded" if failed else ""
    return f"{right:.0f} of {len(attempts)} right{also}, {said(dict(Counter(decisions.values()).most_common()))}"


def totals(db: Database, run: ActiveRun, rules: PoolRules) -> dict[str, Any]:
    """Counts of a collection from the database: attempts by verdict, errors by the filter's decision (and what each
    decision means by `rules`), entries that it added to the pool.
    """
    attempts = attempts_of(db, run.run_id, phase="collect")
    decided = decisions_of(db, run.run_id)
    return {
        "run": run.run_id,
        "attempts": len(attempts),
        "verdicts": dict(Counter(a.grade.verdict.value for a in attempts)),
        "decisions": decided,
        "reasons": reasons(decided, rules),
        "kept": list_entries(db, run_id=run.run_id, limit=0)[0],
    }
