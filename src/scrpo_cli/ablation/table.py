"""The numbers of a sweep: each arm before and after, and each arm against the first, with intervals.

The unit of every `ci95` is the problem (docs/evaluation.md), with the seeds of an arm as further samples of each: it
speaks about the runs that were made. Whether other seeds would say the same is asked by `ci95_seeds`, over problems
and seeds; docs/validation/intervals.md has the simulation behind `ENOUGH_SEEDS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from scrpo_cli.ablation.curves import Reached, when_reached
from scrpo_cli.ablation.grid import check_arms
from scrpo_cli.ablation.outcomes import RunOutcome, Spending, added, read_outcome
from scrpo_cli.ablation.sweep import Sweep, done_runs
from scrpo_cli.ablation.tuning import Trial, trials_behind
from scrpo_cli.errors import RunError
from scrpo_cli.evaluation.metrics import repair_rate, summarize, turn_values, two_turn
from scrpo_cli.evaluation.outcomes import Key, Outcomes, problem_means, shared_problems, side_by_side
from scrpo_cli.evaluation.paired import HIGHER, LOWER, compare
from scrpo_cli.evaluation.stats import Estimate, crossed_estimate, crossed_share_estimate
from scrpo_cli.pool.db import Database

ENOUGH_SEEDS = 3
"""With two, the interval over seeds holds the truth in 89 to 98% of cases, and is useless or wrong in most."""
BUDGET_SLACK = 0.02  # a run that generated less or more of its budget than this is pointed out
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
    """Numbers of one arm over its seeds. `gain` is `compare` of after with before; `difference` and `delta_difference`
    (of delta = t2 - t1) are `against` the first arm, after training; `warnings`: steps on which each monitor fired;
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
    runs share; `notes`: what a reader has to know beside the numbers; `tuning`: of a race, what was tried for its arms.
    """

    arms: list[ArmResult]
    before: Scores | None
    problems: int
    budget: int
    notes: list[str]
    tuning: list[Trial] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_result(db: Database, sweeps: Sequence[Sweep]) -> tuple[SweepResult | None, list[RunOutcome]]:
    """The runs that are done, the arms of several sweeps as those of one; None as result where there is no run.

    Raises UserError when the arms of the sweeps cannot be compared.
    """
    arms = [arm for sweep in sweeps for arm in sweep.arms]
    check_arms(arms)
    outcomes = [read_outcome(db, run) for sweep in sweeps for run in done_runs(db, sweep)]
    if not outcomes:
        return None, outcomes
    result = tabulate(outcomes, [arm.name for arm in arms], sweeps[0].budget)
    return replace(result, tuning=trials_behind(db, sweeps)), outcomes


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
    notes += [note for arm in present for run in by_arm[arm] for note in _left_out(run, problems)]
    return SweepResult(results, before, len(problems), budget, notes)


def _left_out(run: RunOutcome, problems: Sequence[Key]) -> list[str]:
    """That the grader failed on some of a run's first answers."""
    found = []
    for when, outcomes in (("before", run.before), ("after", run.after)):
        first_NK = side_by_side([outcomes], problems).first_NK if outcomes else np.zeros(0)
        if missing := int(np.isnan(first_NK).sum()):
            numbers = f"{missing} of {first_NK.size} first answers {when} training"
            found.append(f"{run.arm} seed {run.seed}: {numbers} could not be graded and are left out of the averages.")
    return found


def _arm_result(runs: Sequence[RunOutcome], first: Sequence[RunOutcome], problems: Sequence[Key]) -> ArmResult:
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
        difference=against(first, runs, problems, lambda outcomes: outcomes.first_NK),
        delta_difference=against(first, runs, problems, _deltas, scale=2.0),
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


def against(
    first: Sequence[RunOutcome],
    runs: Sequence[RunOutcome],
    problems: Sequence[Key],
    values: Callable[[Outcomes], np.ndarray],
    scale: float = 1.0,
) -> dict[str, Any] | None:
    """runs - first after training, on the seeds that both have, problem by problem: `compare` of what `values` gives
    for each answer (differences lie within `scale` of 0), `by_seed`, and `ci95_seeds` over problems and seeds (None
    with too few of them). None when there is no such seed.
    """
    sides = [{run.seed: run.after for run in arm if run.after and _known(values(run.after))} for arm in (first, runs)]
    seeds = sorted(set.intersection(*map(set, sides)))
    if not seeds:
        return None

    def side(arm: Mapping[int, Outcomes], chosen: Sequence[int]) -> np.ndarray:
        return values(side_by_side([arm[seed] for seed in chosen], problems))

    result = compare(side(sides[0], seeds), side(sides[1], seeds), scale)
    if result is None:
        return None
    by_seed = [[problem_means(side(arm, [seed])) for seed in seeds] for arm in sides]
    differences_NS = np.stack(by_seed[1], axis=1) - np.stack(by_seed[0], axis=1)
    ci95_seeds = over_seeds(differences_NS, partial(crossed_estimate, low=-scale, high=scale))
    return result | {
        "seeds": seeds,
        "by_seed": np.nanmean(differences_NS, axis=0).tolist(),
        "ci95_seeds": ci95_seeds,
        "verdict": _verdict(result["verdict"], ci95_seeds, len(seeds)),
    }


def first_of(by_seed: Mapping[int, Outcomes], problems: Sequence[Key]) -> np.ndarray:
    return side_by_side([*by_seed.values()], problems).first_NK


def over_seeds(values_NS: np.ndarray, crossed: Callable[[np.ndarray], Estimate]) -> list[float] | None:
    """The interval over other problems and seeds, of the problems that every seed counts; None with fewer than
    ENOUGH_SEEDS.
    """
    values_NS = values_NS[~np.isnan(values_NS).any(axis=1)]
    enough = len(values_NS) > 0 and values_NS.shape[1] >= ENOUGH_SEEDS
    return list(crossed(values_NS).ci95) if enough else None


def _deltas(outcomes: Outcomes) -> np.ndarray:
    return turn_values(outcomes.first_NK, outcomes.second_NK)["delta"]


def _known(values_NK: np.ndarray) -> bool:
    return not np.isnan(values_NK).all()


def _verdict(these_runs: str, ci95_seeds: Sequence[float] | None, seeds: int) -> str:
    """What may be said: nothing, something about these runs, or something about the arms."""
    if these_runs in (HIGHER, LOWER) and (ci95_seeds is None or ci95_seeds[0] <= 0 <= ci95_seeds[1]):
        return f"{these_runs} in these runs; {seeds} seed{'s' * (seeds > 1)} cannot say it of the setting"
    return these_runs


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


def _notes(by_arm: dict[str, list[RunOutcome]], budget: int) -> list[str]:
    notes = [f"{arm}: no run finished." for arm, runs in by_arm.items() if not runs]
    for run in (run for runs in by_arm.values() for run in runs):
        share = run.generated_tokens / budget
        if abs(share - 1) > BUDGET_SLACK:
            why = "it ran out of steps: raise optim.steps" if share < 1 else "one group is much of it: raise the budget"
            notes.append(f"{run.arm} seed {run.seed} used {share:.0%} of the token budget; {why}.")
    if len(by_arm) > 1 and max(len(runs) for runs in by_arm.values()) < ENOUGH_SEEDS:
        notes.append(FEW_SEEDS)
    return notes
