"""What `scrpo eval` runs: names of benchmarks to problems, answers made elsewhere to an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.changes import changes
from scrpo_cli.evaluation.metrics import padded, summarize, two_turn
from scrpo_cli.evaluation.runner import Evaluation
from scrpo_cli.recipe.models import ProblemsConfig, Recipe, ReflectionConfig
from scrpo_cli.rollout.imported import attempts_of_rows, by_problem, row_key
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.responses import ResponseRow
from scrpo_cli.types import Attempt, AttemptKind, Problem


def benchmark_problems(recipe: Recipe, task: Task, name: str) -> Sequence[Problem]:
    """The test split of a data set, cut at `eval.limit`."""
    return task.problems(ProblemsConfig(source=name, split="test"))[: recipe.eval.limit]


def evaluate_rows(task: Task, rows: Sequence[ResponseRow], prefix: str) -> Evaluation:
    """Score answers made elsewhere; a second-turn row revises the first-turn row of its problem with its sample."""
    columns = by_problem([r for r in rows if r.turn == 1])
    if not columns:
        raise UserError("The file has no first-turn rows.", rows[0].where, "Give rows with turn 1 (the default).")
    refuse_repeats([r for column in columns for r in column])
    first = attempts_of_rows(task, columns, f"{prefix}:first")
    metrics = summarize(outcomes(first), None, extracted(first))
    later = [r for r in rows if r.turn == 2]
    if not later:
        return Evaluation(metrics, flat(first))
    seconds = paired_columns(columns, later)
    parents = {row_key(r): a.id for c, same in zip(columns, first, strict=True) for r, a in zip(c, same, strict=True)}
    second = attempts_of_rows(task, seconds, f"{prefix}:second", AttemptKind.CHECK, parents)
    metrics |= two_turn(outcomes(first), outcomes(second)) | changes(first, flat(second), ReflectionConfig())
    return Evaluation(metrics, flat(first) + flat(second))


def refuse_repeats(rows: Sequence[ResponseRow]) -> None:
    seen: set[tuple[str, str, int]] = set()
    for row in rows:
        if row_key(row) in seen:
            fix = "Number the samples of a problem with `sample`: 0, 1, 2, ..."
            raise UserError(f"Problem {row.id} has sample {row.sample} twice.", row.where, fix)
        seen.add(row_key(row))


def paired_columns(columns: Sequence[Sequence[ResponseRow]], later: Sequence[ResponseRow]) -> list[list[ResponseRow]]:
    """The second-turn rows in the order of the first-turn ones; each must have exactly one partner."""
    refuse_repeats(later)
    by_key: Mapping[tuple[str, str, int], ResponseRow] = {row_key(r): r for r in later}
    first = {row_key(r): r for column in columns for r in column}
    if odd := first.keys() ^ by_key.keys():
        lonely = next(r for key, r in [*first.items(), *by_key.items()] if key in odd)
        raise UserError(
            f"{len(odd)} rows have no partner in the other turn; the first is problem {lonely.id}.",
            lonely.where,
            "Give every problem and sample both turns, or only the first.",
        )
    return [[by_key[row_key(r)] for r in column] for column in columns]


def outcomes(attempts: Sequence[Sequence[Attempt]]) -> np.ndarray:
    """(N, K) outcomes, NaN where a problem has fewer samples than others."""
    return padded([[a.outcome for a in same] for same in attempts])


def extracted(attempts: Sequence[Sequence[Attempt]]) -> list[list[str | None]]:
    """(N, K) final answers, None where there is none."""
    width = max(len(same) for same in attempts)
    return [[a.grade.extracted for a in same] + [None] * (width - len(same)) for same in attempts]


def flat(attempts: Sequence[Sequence[Attempt]]) -> list[Attempt]:
    return [a for same in attempts for a in same]
