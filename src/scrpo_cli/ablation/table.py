"""The table of a sweep: each arm before and after, and each arm against the first, with intervals.

The unit of every interval is the problem (docs/metrics.md); the seeds of an arm are further samples of each problem. So
an interval speaks about the runs that were made. Whether another seed would say the same is asked separately, by
Student's t over the differences of the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scrpo_cli.ablation.outcomes import Answers, RunOutcome
from scrpo_cli.errors import RunError
from scrpo_cli.evaluation.metrics import UNDECIDED, paired, repair_rate, summarize
from scrpo_cli.evaluation.stats import mean_estimate

if TYPE_CHECKING:
    from rich.console import Group

BUDGET_SLACK = 0.05  # a run that generated less or more of its budget than this is pointed out


@dataclass(frozen=True)
class ArmResult:
    """Numbers of one arm over its seeds, each {"value", "ci95"}; `difference` is `paired` against the first arm."""

    arm: str
    seeds: list[int]
    runs: list[str]
    generated_tokens: list[int]
    before: dict[str, Any]
    after: dict[str, Any]
    gain: dict[str, Any]
    repair_before: dict[str, Any]
    repair_after: dict[str, Any]
    difference: dict[str, Any] | None


@dataclass(frozen=True)
class SweepResult:
    """`problems`: how many test problems all runs share; `notes`: what a reader has to know beside the numbers."""

    arms: list[ArmResult]
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
    return SweepResult(results, len(problems), budget, _notes(by_arm, budget))


def _arm_result(runs: Sequence[RunOutcome], first: Sequence[RunOutcome], problems: Sequence[str]) -> ArmResult:
    before_NK, repaired_before_NK = _stack([run.before for run in runs], problems)
    after_NK, repaired_after_NK = _stack([run.after for run in runs], problems)
    return ArmResult(
        arm=runs[0].arm,
        seeds=[run.seed for run in runs],
        runs=[run.run for run in runs],
        generated_tokens=[run.generated_tokens for run in runs],
        before=_accuracy(before_NK),
        after=_accuracy(after_NK),
        gain=paired(before_NK, after_NK),
        repair_before=repair_rate(before_NK, repaired_before_NK),
        repair_after=repair_rate(after_NK, repaired_after_NK),
        difference=_difference(first, runs, problems),
    )


def _difference(
    first: Sequence[RunOutcome], runs: Sequence[RunOutcome], problems: Sequence[str]
) -> dict[str, Any] | None:
    """runs - first in accuracy after training, on the seeds that both have, problem by problem."""
    theirs, ours = {run.seed: run for run in first}, {run.seed: run for run in runs}
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None
    base_NK, _ = _stack([theirs[seed].after for seed in seeds], problems)
    arm_NK, _ = _stack([ours[seed].after for seed in seeds], problems)
    pairs = zip(np.split(base_NK, len(seeds), axis=1), np.split(arm_NK, len(seeds), axis=1), strict=True)
    by_seed = [paired(base, arm)["difference"] for base, arm in pairs]
    across = mean_estimate(np.array(by_seed), low=-1.0)
    result = paired(base_NK, arm_NK) | {"seeds": seeds, "by_seed": by_seed, "ci95_seeds": list(across.ci95)}
    return result | {"verdict": _verdict(result)}


def _verdict(result: dict[str, Any]) -> str:
    """What may be said: nothing, something about these runs, or something about the arms."""
    low, high = result["ci95_seeds"]
    if result["verdict"] == UNDECIDED:
        return UNDECIDED
    if low <= 0 <= high:
        return f"{result['verdict']} in these runs; {_seeds(result['seeds'])} cannot say it of the setting"
    return result["verdict"]


def _seeds(seeds: Sequence[int]) -> str:
    return "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _common_problems(outcomes: Sequence[RunOutcome]) -> list[str]:
    evaluations = [answers for o in outcomes for answers in (o.before, o.after)]
    shared = set.intersection(*(set(a.problems) if a else set() for a in evaluations)) if evaluations else set()
    if not shared:
        fix = "Give the recipe task.test (or task.validation) problems, the same for all arms."
        raise RunError("The runs have no evaluated problem in common", "scrpo ablate", fix)
    return sorted(shared)


def _stack(evaluations: Sequence[Answers | None], problems: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and repairs of `problems`, the samples of all runs side by side: (N, seeds x K), K padded by NaN."""
    width = max(answers.first_NK.shape[1] for answers in evaluations if answers)
    firsts, repairs = [], []
    for answers in evaluations:
        assert answers is not None  # _common_problems has seen to it
        row = {problem: index for index, problem in enumerate(answers.problems)}
        rows = [row[problem] for problem in problems]
        pad = ((0, 0), (0, width - answers.first_NK.shape[1]))
        firsts.append(np.pad(answers.first_NK[rows], pad, constant_values=np.nan))
        repairs.append(np.pad(answers.repaired_NK[rows], pad, constant_values=np.nan))
    return np.concatenate(firsts, axis=1), np.concatenate(repairs, axis=1)


def _accuracy(correct_NK: np.ndarray) -> dict[str, Any]:
    summary = summarize(correct_NK)
    return {"value": summary["avg"], "ci95": summary["ci95"]}


def _notes(by_arm: dict[str, list[RunOutcome]], budget: int) -> list[str]:
    notes = [f"{arm}: no run finished." for arm, runs in by_arm.items() if not runs]
    for run in (run for runs in by_arm.values() for run in runs):
        share = run.generated_tokens / budget
        if abs(share - 1) > BUDGET_SLACK:
            why = "it ran out of steps: raise optim.steps" if share < 1 else "one step is much of it: raise the budget"
            notes.append(f"{run.arm} seed {run.seed} used {share:.0%} of the token budget; {why}.")
    return notes


def render(result: SweepResult) -> Group:
    """For a terminal of 80 columns: a table of the arms in percent, then the differences in points, then the notes."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{result.problems} problems, {result.budget:,} generated tokens a run; 95% intervals over problems"
    table = Table("arm", "", "first answers", "repairs of wrong ones", title=title, title_justify="left", box=None)
    for arm in result.arms:
        table.add_row(Text(arm.arm), "before", percent(arm.before), percent(arm.repair_before))
        table.add_row(f"  {_seeds(arm.seeds)}", "after", percent(arm.after), percent(arm.repair_after))
        table.add_row("", "gain", points(arm.gain), "", end_section=True)
    first = result.arms[0].arm
    against = [f"{arm.arm} against {first}: {_in_words(arm.difference)}" for arm in result.arms if arm.difference]
    return Group(table, *map(Text, [*against, *result.notes]))


def percent(number: dict[str, Any]) -> str:
    """`55.1% [48.0, 62.2]`; a dash where there is no such number."""
    if number["value"] is None:
        return "-"
    low, high = number["ci95"]
    return f"{100 * number['value']:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def points(difference: dict[str, Any]) -> str:
    """`+7.5 points [+0.5, +14.5]`."""
    low, high = difference["ci95"]
    return f"{100 * difference['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _in_words(difference: dict[str, Any]) -> str:
    p = f"p = {difference['p']:.3f}" if difference["p"] >= 0.001 else "p < 0.001"
    return f"{points(difference)}, {p}: {difference['verdict']}"
