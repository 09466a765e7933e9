"""What the runs of a sweep answered and what they spent, from the database: all that table and figures know."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from scrpo_cli.evaluation.outcomes import Outcomes, read_answers
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import StepMetrics, StoredEvaluation, evaluations_of, seconds_of, steps_of
from scrpo_cli.tracking.activity import now

WARN = "warn/"


@dataclass(frozen=True)
class Spending:
    """Sums over the steps of one phase (`first`, `reflect`, `turns`, ...) of one run or several.

    `varied` adds up the steps' share of groups whose rewards differ, `trained` the tokens with a weight in the loss.
    """

    steps: int = 0
    generated: float = 0.0
    completions: float = 0.0
    varied: float = 0.0
    trained: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(*map(sum, zip(astuple(self), astuple(other), strict=True)))


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
    `spent` what each phase sampled, `validations` the generated tokens and the accuracy of first answers of each
    evaluation on the validation problems.
    """

    arm: str
    seed: int
    run: str
    generated_tokens: int
    before: Outcomes | None
    after: Outcomes | None
    steps: int = 0
    seconds: float = 0.0
    warnings: Mapping[str, int] = field(default_factory=dict)
    spent: Mapping[str, Spending] = field(default_factory=dict)
    curve: Curve | None = None
    validations: Sequence[tuple[float, float]] = ()


def read_outcome(db: Database, row: RunRow) -> RunOutcome:
    """Everything that the table and the figures need of the run `row`."""
    steps, evaluations = steps_of(db, row.id), evaluations_of(db, row.id)
    tokens = {s.step: s.metrics.get("tokens/total") or 0.0 for s in steps}
    phases = {e.label: e.phase for e in evaluations}
    before, after = (
        read_answers(db, row.id, phases[label]).outcomes if label in phases else None for label in ("before", "after")
    )
    return RunOutcome(
        arm=row.arm or "",
        seed=row.seed,
        run=row.id,
        generated_tokens=int(max(tokens.values(), default=0)),
        before=before,
        after=after,
        steps=len(tokens),
        seconds=seconds_of(steps),
        warnings=_warnings(steps),
        spent=spending(steps),
        curve=_curve(steps, evaluations, tokens),
        validations=[
            (tokens.get(e.step, 0.0), float(e.metrics["avg"])) for e in evaluations if e.benchmark == "validation"
        ],
    )


def read_outcomes(db: Database, runs: Sequence[RunRow]) -> list[RunOutcome]:
    """Of each run; the answers of many are minutes of reading."""
    with now().doing("runs read"):
        return [read_outcome(db, run) for run in now().each(runs)]


def spending(steps: Sequence[StepMetrics]) -> dict[str, Spending]:
    """By phase, from the metrics of a run's steps. Phases that sample nothing (`fit`) are left out."""
    found: dict[str, Spending] = defaultdict(Spending)
    for step in steps:
        generated = step.metrics.get(f"{step.phase}/tokens") or 0.0
        length = step.metrics.get(f"{step.phase}/length")
        if not generated or not length:
            continue
        varied = 1 - (step.metrics.get("groups/skipped_share") or 0.0)
        trained = step.metrics.get("train/tokens") or 0.0
        found[step.phase] += Spending(1, generated, generated / length, varied, trained)
    return dict(found)


def added(parts: Iterable[Mapping[str, Spending]]) -> dict[str, Spending]:
    """The spending of several runs together."""
    total: dict[str, Spending] = defaultdict(Spending)
    for part in parts:
        for phase, spent in part.items():
            total[phase] += spent
    return dict(total)


def _warnings(steps: Sequence[StepMetrics]) -> dict[str, int]:
    """Steps on which each monitor fired, by its name: metrics `warn/NAME` that are 1."""
    fired = Counter(key.removeprefix(WARN) for s in steps for key, v in s.metrics.items() if key.startswith(WARN) and v)
    return dict(sorted(fired.items()))


def _curve(
    steps: Sequence[StepMetrics], evaluations: Sequence[StoredEvaluation], tokens: Mapping[int, float]
) -> Curve | None:
    """Evaluations during training when there are three or more of one split, else first answers while training."""
    by_split: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for evaluation in evaluations:
        by_split[evaluation.benchmark].append((tokens.get(evaluation.step, 0), evaluation.metrics["avg"]))
    split, points = max(by_split.items(), key=lambda item: len(item[1]), default=("", []))
    label = f"first-answer accuracy, {split} split"
    if len(points) <= 2:
        measured = [(tokens[s.step], s.metrics.get("first/accuracy")) for s in steps]
        points = [(spent, accuracy) for spent, accuracy in measured if accuracy is not None]
        label = "first-answer accuracy while training"
    if len(points) <= 2:
        return None
    tokens_T, value_T = np.array(sorted(points), dtype=float).T
    return Curve(label, tokens_T, value_T)
