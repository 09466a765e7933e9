"""What the runs of a sweep answered, from the database, as plain arrays: all that table and plot know.

Shapes: N problems of the test split, K samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from scrpo_cli.ablation.signal import Spending, spending
from scrpo_cli.evaluation.metrics import padded
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import StepMetrics, attempts_of, evaluations_of, steps_of
from scrpo_cli.types import Attempt, AttemptKind

WARN = "warn/"


@dataclass(frozen=True)
class Answers:
    """One evaluation: the outcome of each first answer, of its correction where one was tried, and of the second answer
    of a two-turn evaluation (NaN elsewhere).
    """

    problems: tuple[str, ...]
    first_NK: np.ndarray
    repaired_NK: np.ndarray
    second_NK: np.ndarray

    @property
    def has_pairs(self) -> bool:
        """Whether some answer has a second one, both of which count."""
        return bool((~np.isnan(self.first_NK + self.second_NK)).any())

    def same(self, other: Answers) -> bool:
        """Whether the outcomes are the same, answer by answer."""
        ours, theirs = self.parts, other.parts
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True))

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.first_NK, self.repaired_NK, self.second_NK

    def of(self, problems: Sequence[str], width: int) -> Answers:
        """Only these problems, in this order, with room for `width` samples (NaN where there are fewer)."""
        row = {problem: index for index, problem in enumerate(self.problems)}
        rows = [row[problem] for problem in problems]
        pad = ((0, 0), (0, width - self.first_NK.shape[1]))
        return Answers(tuple(problems), *(np.pad(part[rows], pad, constant_values=np.nan) for part in self.parts))


def side_by_side(evaluations: Sequence[Answers | None], problems: Sequence[str]) -> Answers:
    """The samples of all evaluations as samples of each problem: (N, evaluations x K). All of them hold `problems`."""
    there = [answers for answers in evaluations if answers is not None]
    assert len(there) == len(evaluations)
    width = max(answers.first_NK.shape[1] for answers in there)
    aligned = [answers.of(problems, width) for answers in there]
    parts = zip(*(answers.parts for answers in aligned), strict=True)
    return Answers(tuple(problems), *(np.concatenate(part, axis=1) for part in parts))


@dataclass(frozen=True)
class Curve:
    """A metric over generated tokens (T points each)."""

    label: str
    tokens_T: np.ndarray
    value_T: np.ndarray


@dataclass(frozen=True)
class RunOutcome:
    """One finished run of a sweep. `after` is None when the recipe evaluates nothing.

    `seconds` are those of its training steps, without evaluations; `warnings` says on how many steps a monitor fired,
    `spent` what each phase sampled.
    """

    arm: str
    seed: int
    run: str
    generated_tokens: int
    before: Answers | None
    after: Answers | None
    steps: int = 0
    seconds: float = 0.0
    warnings: Mapping[str, int] = field(default_factory=dict)
    spent: Mapping[str, Spending] = field(default_factory=dict)
    curve: Curve | None = None


def read_outcome(db: Database, row: RunRow) -> RunOutcome:
    """Everything that the table and the plot need of the run `row`."""
    steps = steps_of(db, row.id)
    tokens = {s.step: s.metrics.get("tokens/total") or 0.0 for s in steps}
    labelled = {e.label: e.phase for e in evaluations_of(db, row.id)}
    before, after = (_answers(db, row.id, labelled.get(label)) for label in ("before", "after"))
    return RunOutcome(
        arm=row.arm or "",
        seed=row.seed,
        run=row.id,
        generated_tokens=int(max(tokens.values(), default=0)),
        before=before,
        after=after,
        steps=len(tokens),
        seconds=sum(s.metrics.get("seconds/step") or 0.0 for s in steps),
        warnings=_warnings(steps),
        spent=spending(steps),
        curve=_curve(db, row.id, tokens),
    )


def _warnings(steps: Sequence[StepMetrics]) -> dict[str, int]:
    """Steps on which each monitor fired, by its name: metrics `warn/NAME` that are 1."""
    fired = Counter(key.removeprefix(WARN) for s in steps for key, v in s.metrics.items() if key.startswith(WARN) and v)
    return dict(sorted(fired.items()))


def answers_of(attempts: Sequence[Attempt]) -> Answers:
    """First answers by problem, each with the outcomes of the correction and of the check that name it as parent."""
    by_problem: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda a: a.sample):
        if attempt.kind is AttemptKind.FIRST:
            by_problem[f"{attempt.problem.source}/{attempt.problem.id}"].append(attempt)
    problems = tuple(sorted(by_problem))
    rows = [by_problem[problem] for problem in problems]

    def revised(kind: AttemptKind) -> np.ndarray:
        outcome = {a.parent: a.outcome for a in attempts if a.kind is kind}
        return padded([[outcome.get(a.id, np.nan) for a in row] for row in rows])

    first_NK = padded([[a.outcome for a in row] for row in rows])
    return Answers(problems, first_NK, revised(AttemptKind.CORRECTION), revised(AttemptKind.CHECK))


def _answers(db: Database, run_id: str, phase: str | None) -> Answers | None:
    return None if phase is None else answers_of(attempts_of(db, run_id, phase=phase))


def _curve(db: Database, run_id: str, tokens: dict[int, float]) -> Curve | None:
    """Evaluations during training when there are three or more of one split, else first answers while training."""
    by_split: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for evaluation in evaluations_of(db, run_id):
        by_split[evaluation.benchmark].append((tokens.get(evaluation.step, 0), evaluation.metrics["avg"]))
    longest = max(by_split, key=lambda split: len(by_split[split]), default=None)
    if longest is not None and len(by_split[longest]) > 2:
        return _make_curve(f"first-answer accuracy, {longest} split", by_split[longest])
    measured = [(s.step, s.metrics.get("first/accuracy")) for s in steps_of(db, run_id)]
    points = [(tokens[step], accuracy) for step, accuracy in measured if accuracy is not None]
    return _make_curve("first-answer accuracy while training", points) if len(points) > 2 else None


def _make_curve(label: str, points: Sequence[tuple[float, float]]) -> Curve:
    tokens_T, value_T = np.array(sorted(points), dtype=float).T
    return Curve(label, tokens_T, value_T)
