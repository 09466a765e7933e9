"""What a training run leaves in W&B beside its metrics: its numbers with intervals, some answers, its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scrpo_cli.evaluation.outcomes import Answers, flat, read_answers
from scrpo_cli.numbers import estimates
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import StoredEvaluation, evaluations_of
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.published import Published, TableData
from scrpo_cli.types import Attempt

SHOWN_ANSWERS = 100
"""First answers of the last evaluation that go along, with what revises them."""


def of_training(db: Database, run_id: str, recipe: Recipe, adapter: Path, step: int) -> Published:
    """`adapter`: the last checkpoint, which is of `step`."""
    evaluations = evaluations_of(db, run_id)
    tables = {"results": results(evaluations)} if evaluations else {}
    for evaluation in (e for e in evaluations if e.label == "after"):
        tables["attempts"] = attempts(read_answers(db, run_id, evaluation.phase))
    about = {"run": run_id, "recipe": recipe.name, "base_model": recipe.model.name, "step": step}
    return Published(tables, adapter=adapter, about=about)


def results(evaluations: Sequence[StoredEvaluation]) -> TableData:
    """A row for each number that has an interval."""
    rows = [
        (e.benchmark, e.label, e.step, name, value, *(ci95 or (None, None)))
        for e in evaluations
        for name, value, ci95 in estimates(e.metrics)
    ]
    return TableData(("benchmark", "label", "step", "measure", "value", "ci95 low", "ci95 high"), rows)


def attempts(answers: Answers) -> TableData:
    """The first answers in the order of the problems, each with what revises it below it."""
    firsts = flat(answers.first)[:SHOWN_ANSWERS]
    revisions: dict[str | None, list[Attempt]] = {}
    for attempt in (*flat(answers.later), *answers.repairs):
        revisions.setdefault(attempt.parent, []).append(attempt)
    columns = ("problem", "reference", "part", "response", "extracted", "verdict", "tokens", "attempt", "parent")
    return TableData(columns, [row_of(a) for first in firsts for a in lineage(first, revisions)])


def lineage(attempt: Attempt, revisions: dict[str | None, list[Attempt]]) -> list[Attempt]:
    return [attempt, *(a for child in revisions.get(attempt.id, []) for a in lineage(child, revisions))]


def row_of(attempt: Attempt) -> tuple[Any, ...]:
    problem, grade, completion = attempt.problem, attempt.grade, attempt.completion
    graded = (grade.extracted, grade.verdict.value)
    ids = (attempt.id, attempt.parent)
    return problem.text, problem.answer, attempt.part, completion.text, *graded, len(completion.ids), *ids
