"""What the runs of a sweep answered, from the database, as plain arrays: all that table and plot know.

Shapes: N problems of the test split, K samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scrpo_cli.evaluation.metrics import padded
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import attempts_of, evaluations_of, steps_of
from scrpo_cli.types import Attempt, AttemptKind


@dataclass(frozen=True)
class Answers:
    """One evaluation: the outcome of each first answer, and of its correction where one was tried (NaN elsewhere)."""

    problems: tuple[str, ...]
    first_NK: np.ndarray
    repaired_NK: np.ndarray


@dataclass(frozen=True)
class Curve:
    """A metric over generated tokens (T points each)."""

    label: str
    tokens_T: np.ndarray
    value_T: np.ndarray


@dataclass(frozen=True)
class RunOutcome:
    """One finished run of a sweep. `after` is None when the recipe evaluates nothing."""

    arm: str
    seed: int
    run: str
    generated_tokens: int
    before: Answers | None
    after: Answers | None
    curve: Curve | None = None


def read_outcome(db: Database, row: RunRow) -> RunOutcome:
    """Everything that the table and the plot need of the run `row`."""
    tokens = {s.step: s.metrics.get("tokens/total") or 0.0 for s in steps_of(db, row.id)}
    labels = {e.benchmark.rpartition(":")[2]: e.benchmark for e in evaluations_of(db, row.id)}
    before, after = (_answers(db, row.id, labels.get(label)) for label in ("before", "after"))
    return RunOutcome(
        arm=row.arm or "",
        seed=row.seed,
        run=row.id,
        generated_tokens=int(max(tokens.values(), default=0)),
        before=before,
        after=after,
        curve=_curve(db, row.id, tokens),
    )


def answers_of(attempts: Sequence[Attempt]) -> Answers:
    """First answers by problem, each with the outcome of the correction that names it as its parent."""
    repairs = {a.parent: a.outcome for a in attempts if a.kind is AttemptKind.CORRECTION}
    by_problem: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda a: a.sample):
        if attempt.kind is AttemptKind.FIRST:
            by_problem[f"{attempt.problem.source}/{attempt.problem.id}"].append(attempt)
    problems = tuple(sorted(by_problem))
    rows = [by_problem[problem] for problem in problems]
    first_NK = padded([[a.outcome for a in row] for row in rows])
    return Answers(problems, first_NK, padded([[repairs.get(a.id, np.nan) for a in row] for row in rows]))


def _answers(db: Database, run_id: str, benchmark: str | None) -> Answers | None:
    return None if benchmark is None else answers_of(attempts_of(db, run_id, phase=f"eval:{benchmark}"))


def _curve(db: Database, run_id: str, tokens: dict[int, float]) -> Curve | None:
    """Evaluations during training when there are three or more of one split, else first answers while training."""
    by_split: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for evaluation in evaluations_of(db, run_id):
        split = evaluation.benchmark.rpartition(":")[0]
        by_split[split].append((tokens.get(evaluation.step, 0), evaluation.metrics["avg"]))
    longest = max(by_split, key=lambda split: len(by_split[split]), default=None)
    if longest is not None and len(by_split[longest]) > 2:
        return _make_curve(f"first-answer accuracy, {longest} split", by_split[longest])
    measured = [(s.step, s.metrics.get("trial/accuracy")) for s in steps_of(db, run_id)]
    points = [(tokens[step], accuracy) for step, accuracy in measured if accuracy is not None]
    return _make_curve("first-answer accuracy while training", points) if len(points) > 2 else None


def _make_curve(label: str, points: Sequence[tuple[float, float]]) -> Curve:
    tokens_T, value_T = np.array(sorted(points), dtype=float).T
    return Curve(label, tokens_T, value_T)
