"""One arm against another, paired by seed and problem.

The interval over problems speaks about the runs that were made. Whether another seed would say the same is asked
separately, by Student's t over the differences of the single seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scrpo_cli.ablation.outcomes import Answers, RunOutcome, side_by_side
from scrpo_cli.evaluation.metrics import UNDECIDED, paired
from scrpo_cli.evaluation.stats import difference_estimate

Values = Callable[[Answers], np.ndarray]
"""What arms are compared by: a number in [0, 1] for each answer (N, K), NaN where it does not count."""


def first_answers(answers: Answers) -> np.ndarray:
    """The outcome of each first answer."""
    return answers.first_NK


def second_less_first(answers: Answers) -> np.ndarray:
    """(1 + second - first) / 2 of each pair: a difference of its means is half a difference in delta = t2 - t1."""
    return (1 + answers.second_NK - answers.first_NK) / 2


def against(
    first: Sequence[RunOutcome],
    runs: Sequence[RunOutcome],
    problems: Sequence[str],
    values: Values,
    scale: float = 1.0,
) -> dict[str, Any] | None:
    """runs - first after training, times `scale`, on the seeds that both have, problem by problem: `paired`, and
    `by_seed` with the interval `ci95_seeds` over them. None when there is no such seed.
    """
    theirs, ours = _by_seed(first, values), _by_seed(runs, values)
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None

    def compare(chosen: Sequence[int]) -> dict[str, Any]:
        a_NK, b_NK = (values(side_by_side([arm[seed] for seed in chosen], problems)) for arm in (theirs, ours))
        return paired(a_NK, b_NK)

    result, by_seed = compare(seeds), [compare([seed])["difference"] for seed in seeds]
    across = difference_estimate(np.array(by_seed))
    return result | {
        "difference": scale * result["difference"],
        "ci95": _scaled(scale, result["ci95"]),
        "seeds": seeds,
        "by_seed": _scaled(scale, by_seed),
        "ci95_seeds": _scaled(scale, across.ci95),
        "verdict": _verdict(result["verdict"], across.ci95, seeds),
    }


def _by_seed(runs: Sequence[RunOutcome], values: Values) -> dict[int, Answers]:
    """The answers after training of the runs that have something to compare."""
    after = {run.seed: run.after for run in runs if run.after is not None}
    return {seed: answers for seed, answers in after.items() if not np.isnan(values(answers)).all()}


def _scaled(scale: float, numbers: Sequence[float]) -> list[float]:
    return [scale * number for number in numbers]


def _verdict(these_runs: str, ci95_seeds: Sequence[float], seeds: Sequence[int]) -> str:
    """What may be said: nothing, something about these runs, or something about the arms."""
    low, high = ci95_seeds
    if these_runs != UNDECIDED and low <= 0 <= high:
        return f"{these_runs} in these runs; {in_words(seeds)} cannot say it of the setting"
    return these_runs


def in_words(seeds: Sequence[int]) -> str:
    """`3 seeds`."""
    return "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
