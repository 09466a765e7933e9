"""What `scrpo eval` runs: names of benchmarks to problems, answers made elsewhere to outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import summarize, two_turn
from scrpo_cli.evaluation.runner import Evaluation, as_entry, outcome
from scrpo_cli.recipe.models import ProblemsConfig, Recipe
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.responses import ResponseRow
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Problem


def benchmark_problems(recipe: Recipe, task: Task, name: str) -> Sequence[Problem]:
    """The test split of a data set, cut at `eval.limit`."""
    problems = task.problems(ProblemsConfig(source=name, split="test"))
    return problems[: recipe.eval.limit or len(problems)]


def evaluate_rows(recipe: Recipe, task: Task, rows: Sequence[ResponseRow], prefix: str) -> Evaluation:
    """Score answers made elsewhere, one or two turns; a second-turn row belongs to the first-turn row of its problem
    with the same sample number.
    """
    first = [r for r in rows if r.turn == 1]
    second = {(r.source, r.id, r.sample): r for r in rows if r.turn == 2}
    columns = samples_by_problem(first)
    attempts = graded(task, first, prefix, AttemptKind.FIRST, {})
    by_key = {row_key(r): a for r, a in zip(first, attempts, strict=True)}
    metrics = summarize(matrix(columns, by_key), None, [[by_key[row_key(r)].grade.extracted for r in c] for c in columns] if even(columns) else None)
    if second:
        missing = [r for r in first if row_key(r) not in second]
        if missing or len(second) != len(first):
            raise UserError(
                "Every first-turn row needs a second-turn row with the same id and sample, and the reverse.",
                (missing or list(second.values()))[0].where,
                "Complete the file, or leave the second turns out.",
            )
        parents = {row_key(r): a for r, a in zip(first, attempts, strict=True)}
        later = graded(task, [second[row_key(r)] for r in first], f"{prefix}:second", AttemptKind.CHECK, parents)
        by_second = {row_key(r): a for r, a in zip(first, later, strict=True)}
        metrics |= two_turn(matrix(columns, by_key), matrix(columns, by_second))
        attempts += later
    return Evaluation(metrics, attempts)


def row_key(row: ResponseRow) -> tuple[str, str, int]:
    return row.source, row.id, row.sample


def samples_by_problem(rows: Sequence[ResponseRow]) -> list[list[ResponseRow]]:
    """Rows of one problem together, by sample; two rows with the same key are refused."""
    problems: dict[tuple[str, str], dict[int, ResponseRow]] = {}
    for row in rows:
        samples = problems.setdefault((row.source, row.id), {})
        if row.sample in samples:
            fix = "Number the samples of a problem with `sample`: 0, 1, 2, ..."
            raise UserError(f"Problem {row.id} has sample {row.sample} twice.", row.where, fix)
        samples[row.sample] = row
    return [[samples[s] for s in sorted(samples)] for samples in problems.values()]


def even(columns: Sequence[Sequence[ResponseRow]]) -> bool:
    return len({len(c) for c in columns}) == 1


def matrix(columns: Sequence[Sequence[ResponseRow]], attempts: dict[tuple[str, str, int], Attempt]) -> np.ndarray:
    """(N, K) outcomes, NaN where a problem has fewer samples than others."""
    outcomes_NK = np.full((len(columns), max(len(c) for c in columns)), np.nan)
    for i, column in enumerate(columns):
        outcomes_NK[i, : len(column)] = [outcome(attempts[row_key(r)]) for r in column]
    return outcomes_NK


def graded(
    task: Task,
    rows: Sequence[ResponseRow],
    prefix: str,
    kind: AttemptKind,
    parents: dict[tuple[str, str, int], Attempt],
) -> list[Attempt]:
    problems = [problem_of(r) for r in rows]
    grades = task.grade([(p, r.response) for p, r in zip(problems, rows, strict=True)])
    attempts = []
    for i, (row, problem, grade) in enumerate(zip(rows, problems, grades, strict=True)):
        parent = parents.get(row_key(row))
        completion = Completion([], [], [], row.response, FinishReason.UNKNOWN)
        attempts.append(
            Attempt(f"{prefix}:{i}:{row.sample}", problem, completion, grade, kind, row.turn, row.sample, as_entry(parent).attempt_id if parent else None)
        )
    return attempts


def problem_of(row: ResponseRow) -> Problem:
    """The problem of a row; an answer is needed to grade it."""
    if row.answer is None:
        raise UserError("The row has no `answer`.", row.where, "Name the field with --map answer=THEIRS.")
    return Problem(row.id, row.source, row.problem or "", row.answer, dict(row.meta))
