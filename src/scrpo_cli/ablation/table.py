"""The numbers of a sweep: each arm before and after, and each arm against the first, with intervals.

The unit of every `ci95` is the problem (docs/metrics.md), with the seeds of an arm as further samples of each: it
speaks about the runs that were made. `ci95_seeds` is over problems and seeds, and speaks about others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scrpo_cli.ablation.differences import (
    ENOUGH_SEEDS,
    against,
    first_answers,
    of_problems,
    over_seeds,
    second_less_first,
)
from scrpo_cli.ablation.outcomes import Answers, RunOutcome, side_by_side
from scrpo_cli.ablation.signal import Spending, added
from scrpo_cli.errors import RunError
from scrpo_cli.evaluation.metrics import paired, repair_rate, summarize, two_turn

BUDGET_SLACK = 0.05  # a run that generated less or more of its budget than this is pointed out
UNEQUAL_STARTS = (
    "The runs of a seed do not start from the same answers, so no row stands for all of them before training."
)

FEW_SEEDS = (
    f"Fewer than {ENOUGH_SEEDS} seeds give no usable interval over seeds: what is said holds for these runs, and "
    "perhaps not for the setting."
)


@dataclass(frozen=True)
class Scores:
    """One evaluation over the seeds, each number {"value", "ci95"}: accuracy of first answers (with `ci95_seeds`, None
    where the seeds are too few), repair rate, and `two_turn` (t1, t2, delta, i2c, c2i, fix_rate; None where there were
    no second answers).
    """

    seeds: list[int]
    first: dict[str, Any]
    repair: dict[str, Any]
    two_turn: dict[str, dict[str, Any]] | None


@dataclass(frozen=True)
class ArmResult:
    """Numbers of one arm over its seeds. `gain` is `paired` after against before; `difference` and `delta_difference`
    (of delta = t2 - t1) are `against` the first arm, after training; `warnings`: steps on which each monitor fired;
    `spent`: sums over the seeds by phase.
    """

    arm: str
    seeds: list[int]
    runs: list[str]
    generated_tokens: list[int]
    steps: list[int]
    seconds: list[float]
    warnings: dict[str, int]
    spent: dict[str, Spending]
    before: Scores
    after: Scores
    gain: dict[str, Any]
    difference: dict[str, Any] | None
    delta_difference: dict[str, Any] | None


@dataclass(frozen=True)
class SweepResult:
    """`before`: the start that all runs of a seed share, None where they do not; `problems`: how many test problems all
    runs share; `notes`: what a reader has to know beside the numbers.
    """

    arms: list[ArmResult]
    before: Scores | None
    problems: int
    budget: int
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def tabulate(outcomes: Sequence[RunOutcome], arms: Sequence[str], budget: int) -> SweepResult:
    """The result of the runs that finished; `arms` gives the order, arms without a finished run are noted.

    Raises RunError when the runs have no evaluated problem in common.
    """
    problems = _common_problems(outcomes)
    by_arm = {arm: sorted((o for o in outcomes if o.arm == arm), key=lambda o: o.seed) for arm in arms}
    present = [arm for arm in arms if by_arm[arm]]
    first = by_arm[arms[0]]
    results = [_arm_result(by_arm[arm], first if arm != arms[0] else [], problems) for arm in present]
    before = _shared_start([run for arm in present for run in by_arm[arm]], problems)
    notes = [*_notes(by_arm, budget), *([] if before else [UNEQUAL_STARTS])]
    return SweepResult(results, before, len(problems), budget, notes)


def _arm_result(runs: Sequence[RunOutcome], first: Sequence[RunOutcome], problems: Sequence[str]) -> ArmResult:
    seeds = [run.seed for run in runs]
    before = side_by_side([run.before for run in runs], problems)
    after = side_by_side([run.after for run in runs], problems)
    return ArmResult(
        arm=runs[0].arm,
        seeds=seeds,
        runs=[run.run for run in runs],
        generated_tokens=[run.generated_tokens for run in runs],
        steps=[run.steps for run in runs],
        seconds=[run.seconds for run in runs],
        warnings=dict(sum((Counter(run.warnings) for run in runs), Counter())),
        spent=added(run.spent for run in runs),
        before=scores(before, seeds),
        after=scores(after, seeds),
        gain=paired(before.first_NK, after.first_NK),
        difference=against(first, runs, problems, first_answers),
        delta_difference=against(first, runs, problems, second_less_first, scale=2.0),
    )


def scores(answers: Answers, seeds: Sequence[int]) -> Scores:
    """What one evaluation says, its seeds side by side."""
    summary = summarize(answers.first_NK)
    by_seed = np.stack([of_problems(seed_NK) for seed_NK in np.split(answers.first_NK, len(seeds), axis=1)], axis=1)
    return Scores(
        seeds=list(seeds),
        first={"value": summary["avg"], "ci95": summary["ci95"], "ci95_seeds": over_seeds(by_seed, low=0.0)},
        repair=repair_rate(answers.first_NK, answers.repaired_NK),
        two_turn=two_turn(answers.first_NK, answers.second_NK) if answers.has_pairs else None,
    )


def _shared_start(runs: Sequence[RunOutcome], problems: Sequence[str]) -> Scores | None:
    """The evaluation before training: one of each seed, if all runs of a seed have the same."""
    by_seed: dict[int, Answers] = {}
    for run in runs:
        start = side_by_side([run.before], problems)
        if not start.same(by_seed.setdefault(run.seed, start)):
            return None
    seeds = sorted(by_seed)
    return scores(side_by_side([by_seed[seed] for seed in seeds], problems), seeds)


def _common_problems(outcomes: Sequence[RunOutcome]) -> list[str]:
    evaluations = [answers for o in outcomes for answers in (o.before, o.after)]
    shared = set.intersection(*(set(a.problems) if a else set() for a in evaluations)) if evaluations else set()
    if not shared:
        fix = "Give the recipe task.test (or task.validation) problems, the same for all arms."
        raise RunError("The runs have no evaluated problem in common", "scrpo ablate", fix)
    return sorted(shared)


def _notes(by_arm: dict[str, list[RunOutcome]], budget: int) -> list[str]:
    notes = [f"{arm}: no run finished." for arm, runs in by_arm.items() if not runs]
    for run in (run for runs in by_arm.values() for run in runs):
        share = run.generated_tokens / budget
        if abs(share - 1) > BUDGET_SLACK:
            why = "it ran out of steps: raise optim.steps" if share < 1 else "one step is much of it: raise the budget"
            notes.append(f"{run.arm} seed {run.seed} used {share:.0%} of the token budget; {why}.")
    if len(by_arm) > 1 and max(len(runs) for runs in by_arm.values()) < ENOUGH_SEEDS:
        notes.append(FEW_SEEDS)
    return notes
