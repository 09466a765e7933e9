"""The numbers of a sweep: each arm before and after, and each arm against a reference, with intervals.

The unit of every `ci95` is the problem (docs/evaluation.md), with the seeds of an arm as further samples of each: it
speaks about the runs that were made. Whether other seeds would say the same is asked by `ci95_seeds`, over problems
and seeds; docs/validation/intervals.md has the simulation behind `ENOUGH_SEEDS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from scrpo_cli.ablation.comparisons import (
    ENOUGH_SEEDS,
    Pair,
    Question,
    against,
    corrected,
    deltas_of,
    first_answers_of,
    over_seeds,
)
from scrpo_cli.ablation.curves import Reached, when_reached
from scrpo_cli.ablation.grid import TOKENS, check_arms
from scrpo_cli.ablation.outcomes import RunOutcome, Spending, added, read_outcomes
from scrpo_cli.ablation.study import Judged, Study, judged
from scrpo_cli.ablation.sweep import Sweep, done_runs
from scrpo_cli.ablation.tuning import Trial, trials_behind
from scrpo_cli.errors import RunError
from scrpo_cli.evaluation.metrics import repair_rate, summarize, two_turn
from scrpo_cli.evaluation.outcomes import Key, Outcomes, problem_means, shared_problems, side_by_side
from scrpo_cli.evaluation.paired import compare
from scrpo_cli.evaluation.stats import crossed_share_estimate
from scrpo_cli.pool.db import Database

BUDGET_SLACK = 0.02  # a run that generated less or more of its budget than this is pointed out
UNEQUAL_STARTS = (
    "The runs of a seed do not start from the same answers, so no row stands for all of them before training."
)

NO_EFFECT = "the same answers from the same steps in every run, so what tells their recipes apart had no effect."
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
    """Numbers of one arm over its seeds. `gain` is `compare` of after with before; `difference` and `delta_difference`
    (of delta = t2 - t1) are `against` the reference, after training; `warnings`: steps on which each monitor fired;
    `spent`: sums over the seeds by phase; `reached`: when it reached which accuracy on validation problems.
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
    gain: dict[str, Any] | None
    difference: dict[str, Any] | None
    delta_difference: dict[str, Any] | None
    reached: list[Reached]


@dataclass(frozen=True)
class SweepResult:
    """`before`: the start that all runs of a seed share, None where they do not; `problems`: how many test problems all
    runs share; `notes`: what a reader has to know beside the numbers; `reference`: the arm that the others are
    compared with; `pairs`: what is compared besides; `tuning`: of a race, what was tried for its arms; `claims`: of a
    study, what is known of each; `unit`: of the budget.
    """

    arms: list[ArmResult]
    before: Scores | None
    problems: int
    budget: int
    notes: list[str]
    reference: str
    pairs: list[Pair]
    tuning: list[Trial] = field(default_factory=list)
    claims: list[Judged] = field(default_factory=list)
    unit: str = TOKENS.unit

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_result(
    db: Database, sweeps: Sequence[Sweep], question: Question | None = None
) -> tuple[SweepResult | None, list[RunOutcome]]:
    """The runs that are done, the arms of several sweeps as those of one; None as result where there is no run.

    Raises UserError when the arms of the sweeps cannot be compared.
    """
    arms = [arm for sweep in sweeps for arm in sweep.arms]
    match = sweeps[0].match
    check_arms(arms, match)
    outcomes = read_outcomes(db, [run for sweep in sweeps for run in done_runs(db, sweep)])
    if not outcomes:
        return None, outcomes
    study = sweeps[0].study if len(sweeps) == 1 else None
    result = tabulate(outcomes, [arm.name for arm in arms], sweeps[0].budget, question, study, match.unit)
    return replace(result, tuning=trials_behind(db, sweeps)), outcomes


def tabulate(
    outcomes: Sequence[RunOutcome],
    arms: Sequence[str],
    budget: int,
    question: Question | None = None,
    study: Study | None = None,
    unit: str = TOKENS.unit,
) -> SweepResult:
    """The result of the runs that finished; `arms` gives the order, arms without a finished run are noted. A study
    compares with the arm that its first claim is over, unless the question says otherwise.

    Raises RunError when the runs have no evaluated problem in common, UserError for a question about other arms.
    """
    problems = _common_problems(outcomes)
    by_arm = {arm: sorted((o for o in outcomes if o.arm == arm), key=lambda o: o.seed) for arm in arms}
    present = [arm for arm in arms if by_arm[arm]]
    question = question or Question()
    if study and not question.against:
        question = replace(question, against=study.claims[0].over)
    reference, pairs = question.reference(arms), _compared(by_arm, problems, question)
    of_arms = {pair.arm: pair for pair in pairs if pair.against == reference}
    results = [_arm_result(by_arm[arm], of_arms.get(arm), problems) for arm in present]
    before = _shared_start([run for arm in present for run in by_arm[arm]], problems)
    notes = [*_notes(by_arm, budget if unit == TOKENS.unit else None), *([] if before else [UNEQUAL_STARTS])]
    notes += [note for arm in present for run in by_arm[arm] for note in _left_out(run, problems)]
    within = [pair for pair in pairs if pair.against != reference]
    claims = judged(study, outcomes, problems) if study else []
    return SweepResult(results, before, len(problems), budget, notes, reference, within, claims=claims, unit=unit)


def _left_out(run: RunOutcome, problems: Sequence[Key]) -> list[str]:
    """That the grader failed on some of a run's first answers."""
    found = []
    for when, outcomes in (("before", run.before), ("after", run.after)):
        first_NK = side_by_side([outcomes], problems).first_NK if outcomes else np.zeros(0)
        if missing := int(np.isnan(first_NK).sum()):
            numbers = f"{missing} of {first_NK.size} first answers {when} training"
            found.append(f"{run.arm} seed {run.seed}: {numbers} could not be graded and are left out of the averages.")
    return found


def _compared(by_arm: dict[str, list[RunOutcome]], problems: Sequence[Key], question: Question) -> list[Pair]:
    """Each arm with the reference, then the pairs of families. The tests on first answers are corrected together, and
    those on deltas.
    """
    reference, arms = question.reference([*by_arm]), [arm for arm, runs in by_arm.items() if runs]
    asked = [(reference, arm) for arm in arms if arm != reference]
    asked += [pair for pair in question.within(arms) if pair not in asked and pair[::-1] not in asked]
    pairs = [(by_arm[one], by_arm[other]) for one, other in asked]
    margin = question.margin
    first = corrected([against(*pair, problems, first_answers_of, margin=margin) for pair in pairs])
    deltas = corrected([against(*pair, problems, deltas_of, 2.0, margin) for pair in pairs])
    return [Pair(b, a, *found) for (a, b), *found in zip(asked, first, deltas, strict=True)]


def _arm_result(runs: Sequence[RunOutcome], compared: Pair | None, problems: Sequence[Key]) -> ArmResult:
    before = {run.seed: run.before for run in runs if run.before}
    after = {run.seed: run.after for run in runs if run.after}
    return ArmResult(
        arm=runs[0].arm,
        seeds=[run.seed for run in runs],
        runs=[run.run for run in runs],
        generated_tokens=[run.generated_tokens for run in runs],
        steps=[run.steps for run in runs],
        seconds=[run.seconds for run in runs],
        warnings=dict(sum((Counter(run.warnings) for run in runs), Counter())),
        spent=added(run.spent for run in runs),
        before=scores(before, problems),
        after=scores(after, problems),
        gain=compare(first_of(before, problems), first_of(after, problems)),
        difference=compared.difference if compared else None,
        delta_difference=compared.delta_difference if compared else None,
        reached=when_reached(runs),
    )


def scores(by_seed: Mapping[int, Outcomes], problems: Sequence[Key]) -> Scores:
    """What one evaluation says, its seeds side by side."""
    outcomes = side_by_side([*by_seed.values()], problems)
    summary = summarize(outcomes.first_NK)
    means_NS = np.stack([problem_means(side_by_side([o], problems).first_NK) for o in by_seed.values()], axis=1)
    return Scores(
        seeds=[*by_seed],
        first={
            "value": summary["avg"],
            "ci95": summary["ci95"],
            "ci95_seeds": over_seeds(means_NS, crossed_share_estimate),
        },
        repair=repair_rate(outcomes.first_NK, outcomes.repaired_NK),
        two_turn=two_turn(outcomes.first_NK, outcomes.second_NK) if outcomes.has_pairs else None,
    )


def first_of(by_seed: Mapping[int, Outcomes], problems: Sequence[Key]) -> np.ndarray:
    return side_by_side([*by_seed.values()], problems).first_NK


def _shared_start(runs: Sequence[RunOutcome], problems: Sequence[Key]) -> Scores | None:
    """The evaluation before training: one of each seed, if all runs of a seed have the same."""
    by_seed: dict[int, Outcomes] = {}
    for run in runs:
        assert run.before
        start = side_by_side([run.before], problems)
        if not start.same(by_seed.setdefault(run.seed, start)):
            return None
    return scores(dict(sorted(by_seed.items())), problems)


def _common_problems(runs: Sequence[RunOutcome]) -> list[Key]:
    evaluations = [outcomes for run in runs for outcomes in (run.before, run.after)]
    known = [outcomes for outcomes in evaluations if outcomes]
    shared = shared_problems(known) if len(known) == len(evaluations) else []
    if not shared:
        fix = "Give the recipe task.test (or task.validation) problems, the same for all arms."
        raise RunError("The runs have no evaluated problem in common", "scrpo ablate", fix)
    return shared


def _notes(by_arm: dict[str, list[RunOutcome]], tokens: int | None) -> list[str]:
    """`tokens`: what each run was to generate, if they are matched by that."""
    notes = [f"{arm}: no run finished." for arm, runs in by_arm.items() if not runs]
    for run in (run for runs in by_arm.values() for run in runs):
        share = run.generated_tokens / tokens if tokens else 1.0
        if abs(share - 1) > BUDGET_SLACK:
            why = "it ran out of steps: raise optim.steps" if share < 1 else "one group is much of it: raise the budget"
            notes.append(f"{run.arm} seed {run.seed} used {share:.0%} of the token budget; {why}.")
    notes += [f"{one} and {other}: {NO_EFFECT}" for one, other in combinations(by_arm, 2) if _same(by_arm, one, other)]
    if len(by_arm) > 1 and max(len(runs) for runs in by_arm.values()) < ENOUGH_SEEDS:
        notes.append(FEW_SEEDS)
    return notes


def _same(by_arm: dict[str, list[RunOutcome]], one: str, other: str) -> bool:
    """Whether the runs of two arms sampled alike and gave the same answers in all seeds that they have in common."""
    pairs = [(a, b) for a in by_arm[one] for b in by_arm[other] if a.seed == b.seed and a.spent]
    return bool(pairs) and all(a.spent == b.spent and a.after and b.after and a.after.same(b.after) for a, b in pairs)
