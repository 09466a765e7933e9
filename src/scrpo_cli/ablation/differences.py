"""One arm against another, paired by seed and problem.

The interval over problems speaks about the runs that were made. Whether other seeds would say the same is asked by an
interval over problems and seeds; docs/metrics.md has the simulation behind `ENOUGH_SEEDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scrpo_cli.ablation.outcomes import Answers, RunOutcome, side_by_side
from scrpo_cli.evaluation.metrics import UNDECIDED, paired
from scrpo_cli.evaluation.stats import crossed_estimate

ENOUGH_SEEDS = 3
"""With two, the interval over seeds holds the truth in 89 to 98% of cases, and is useless or wrong in most."""

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
    """runs - first after training, times `scale`, on the seeds that both have, problem by problem: `paired`, `by_seed`,
    and `ci95_seeds` over problems and seeds (None with too few of them). None when there is no such seed.
    """
    theirs, ours = _by_seed(first, values), _by_seed(runs, values)
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None

    def side(arm: Mapping[int, Answers], chosen: Sequence[int]) -> np.ndarray:
        return values(side_by_side([arm[seed] for seed in chosen], problems))

    result = paired(side(theirs, seeds), side(ours, seeds))
    differences = [of_problems(side(ours, [seed])) - of_problems(side(theirs, [seed])) for seed in seeds]
    ci95_seeds = over_seeds(np.stack(differences, axis=1))
    return result | {
        "difference": scale * result["difference"],
        "ci95": _scaled(scale, result["ci95"]),
        "seeds": seeds,
        "by_seed": _scaled(scale, [float(np.nanmean(difference_N)) for difference_N in differences]),
        "ci95_seeds": None if ci95_seeds is None else _scaled(scale, ci95_seeds),
        "verdict": _verdict(result["verdict"], ci95_seeds, seeds),
    }


def over_seeds(values_NS: np.ndarray, low: float = -1.0) -> list[float] | None:
    """The interval of `crossed_estimate`, of the problems that every seed counts; None with fewer than ENOUGH_SEEDS."""
    values_NS = values_NS[~np.isnan(values_NS).any(axis=1)]
    enough = len(values_NS) > 0 and values_NS.shape[1] >= ENOUGH_SEEDS
    return list(crossed_estimate(values_NS, low).ci95) if enough else None


def of_problems(values_NK: np.ndarray) -> np.ndarray:
    """(N,) means over the samples that count; NaN where none does."""
    counted_NK = ~np.isnan(values_NK)
    sums_N = np.where(counted_NK, values_NK, 0.0).sum(axis=1)
    return np.where(counted_NK.any(axis=1), sums_N / np.maximum(1, counted_NK.sum(axis=1)), np.nan)


def _by_seed(runs: Sequence[RunOutcome], values: Values) -> dict[int, Answers]:
    """The answers after training of the runs that have something to compare."""
    after = {run.seed: run.after for run in runs if run.after is not None}
    return {seed: answers for seed, answers in after.items() if not np.isnan(values(answers)).all()}


def _scaled(scale: float, numbers: Sequence[float]) -> list[float]:
    return [scale * number for number in numbers]


def _verdict(these_runs: str, ci95_seeds: Sequence[float] | None, seeds: Sequence[int]) -> str:
    """What may be said: nothing, something about these runs, or something about the arms."""
    if these_runs != UNDECIDED and (ci95_seeds is None or ci95_seeds[0] <= 0 <= ci95_seeds[1]):
        return f"{these_runs} in these runs; {in_words(seeds)} cannot say it of the setting"
    return these_runs


def in_words(seeds: Sequence[int]) -> str:
    """`3 seeds`."""
    return "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
