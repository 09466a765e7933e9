"""What is reported about a model's answers: accuracy, pass@k, majority vote, self-correction, the average of a suite.

Shapes: N problems, K samples, as in `Outcomes`. Results are plain dicts for JSON, without NaN: what is not defined is
None. docs/evaluation.md holds the definitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.outcomes import problem_means
from scrpo_cli.evaluation.paired import compare, compare_ratios
from scrpo_cli.evaluation.stats import Estimate, difference_estimate, mean_estimate, ratio_estimate
from scrpo_cli.evaluation.voting import majority_at_k


def summarize(
    correct_NK: np.ndarray,
    truncated_NK: np.ndarray | None = None,
    answers_NK: Sequence[Sequence[str | None]] | None = None,
) -> dict[str, Any]:
    """avg@k with its interval, unbiased pass@k, majority vote (when the extracted answers are given), share truncated.

    `n` problems with at least one graded answer, `samples` of the problem that has most, `excluded` answers that do
    not count. Raises UserError when nothing is left.
    """
    correct_NK = _outcomes(correct_NK)
    graded_NK = ~np.isnan(correct_NK)
    kept_N = graded_NK.any(axis=1)
    accuracy = mean_estimate(problem_means(correct_NK[kept_N]))
    samples = int(graded_NK.sum(axis=1).max())
    by_k = {k: mean_estimate(pass_at_k(correct_NK, k)) for k in _ladder(samples)}
    votes = {k: mean_estimate(majority_at_k(correct_NK, answers_NK, k)) for k in _ladder(samples)} if answers_NK else {}
    truncated = None if truncated_NK is None else _flagged(truncated_NK, graded_NK)
    return {
        "n": int(kept_N.sum()),
        "samples": samples,
        "avg": accuracy.value,
        "ci95": list(accuracy.ci95),
        "pass_at": {k: estimate.value for k, estimate in by_k.items()},
        "pass_at_ci95": {k: list(estimate.ci95) for k, estimate in by_k.items()},
        "maj_at": {k: estimate.value for k, estimate in votes.items()},
        "maj_at_ci95": {k: list(estimate.ci95) for k, estimate in votes.items()},
        "truncated": truncated.value if truncated else None,
        "truncated_ci95": list(truncated.ci95) if truncated else None,
        "excluded": int((~graded_NK[kept_N]).sum() + (~kept_N).sum() * correct_NK.shape[1]),
    }


def pass_at_k(correct_NK: np.ndarray, k: int) -> np.ndarray:
    """1 - C(n-c, k) / C(n, k) for each problem with n >= k graded answers, c of them right: the chance that k of its
    answers, drawn without replacement, hold a right one. Unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1).
    """
    n_N = (~np.isnan(correct_NK)).sum(axis=1)
    n_N, c_N = n_N[n_N >= k], np.nansum(correct_NK, axis=1)[n_N >= k]
    draws_k = np.arange(k)
    miss_NK = np.clip((n_N - c_N)[:, None] - draws_k, 0, None) / (n_N[:, None] - draws_k)
    return 1 - miss_NK.prod(axis=1)


def turn_values(first_NK: np.ndarray, second_NK: np.ndarray) -> dict[str, np.ndarray]:
    """What a pair of answers adds to each number of `two_turn` that is a mean; NaN where one of the two does not count.

    delta = t2 - t1 = i2c - c2i (SCoRe, arXiv 2409.12917, section 3).
    """
    counted_NK = ~np.isnan(first_NK + second_NK)
    first_NK, second_NK = (np.where(counted_NK, answers_NK, np.nan) for answers_NK in (first_NK, second_NK))
    return {
        "t1": first_NK,
        "t2": second_NK,
        "delta": second_NK - first_NK,
        "i2c": (1 - first_NK) * second_NK,
        "c2i": first_NK * (1 - second_NK),
    }


def two_turn(first_NK: np.ndarray, second_NK: np.ndarray) -> dict[str, dict[str, Any]]:
    """Self-correction after SCoRe, each number as {"value", "ci95"}.

    t1, t2, delta, i2c and c2i are shares of ALL answers (`turn_values`); fix_rate is the conditional one, repaired /
    wrong, and None when no first answer was wrong. A pair counts when both of its answers do.
    """
    first_NK, second_NK = _outcomes(first_NK), _outcomes(second_NK)
    found = {}
    for name, values_NK in turn_values(first_NK, second_NK).items():
        means_N = problem_means(values_NK)
        means_N = means_N[_require(~np.isnan(means_N))]
        found[name] = (difference_estimate if name == "delta" else mean_estimate)(means_N).as_dict()
    return {**found, "fix_rate": repair_rate(first_NK, second_NK)}


def by_turn(outcomes_TNK: Sequence[np.ndarray]) -> dict[str, Any]:
    """Sequential self-correction over more than two turns (SCoRe, section 6.2 and Fig. 8): `accuracy` of each turn,
    `delta`, `i2c` and `c2i` of each turn against the one before, and `last_first`: last compared with first. All are
    over the answers of which every turn was graded, so that the steps add up.
    """
    counted_NK = ~np.isnan(np.sum(outcomes_TNK, axis=0))
    outcomes_TNK = [np.where(counted_NK, outcomes_NK, np.nan) for outcomes_NK in outcomes_TNK]
    steps = [two_turn(before, after) for before, after in pairwise(outcomes_TNK)]
    return {
        "accuracy": [steps[0]["t1"], *(step["t2"] for step in steps)],
        **{name: [step[name] for step in steps] for name in ("delta", "i2c", "c2i")},
        "last_first": compare(outcomes_TNK[0], outcomes_TNK[-1]),
    }


def repair_rate(first_NK: np.ndarray, repaired_NK: np.ndarray) -> dict[str, Any]:
    """Share of the wrong first answers whose correction is right: {"value", "ci95", "wrong"}.

    `repaired_NK` is looked at where the first answer was wrong; NaN means that no correction counts there, and a value
    between 0 and 1 is the mean over several corrections. Both None when there is no such answer.
    """
    repaired_N, wrong_N = repairs(_outcomes(first_NK), np.asarray(repaired_NK, dtype=float))
    if not wrong_N.any():
        return {"value": None, "ci95": None, "wrong": 0}
    return {**ratio_estimate(repaired_N, wrong_N).as_dict(), "wrong": int(wrong_N.sum())}


def repairs(first_NK: np.ndarray, repaired_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) repaired answers, and wrong ones whose correction counts."""
    tried_NK = (first_NK == 0) & ~np.isnan(repaired_NK)
    return np.where(tried_NK, repaired_NK, 0.0).sum(axis=1), tried_NK.sum(axis=1).astype(float)


def compare_two_turns(
    a_first_NK: np.ndarray, a_second_NK: np.ndarray, b_first_NK: np.ndarray, b_second_NK: np.ndarray
) -> dict[str, dict[str, Any]]:
    """b - a of every number of `two_turn` but t1 that both have: t2, delta, i2c, c2i and the fix rate."""
    a, b = turn_values(a_first_NK, a_second_NK), turn_values(b_first_NK, b_second_NK)
    scale = {"delta": 2.0}
    found = {name: compare(a[name], b[name], scale.get(name, 1.0)) for name in a if name != "t1"}
    found["fix_rate"] = compare_ratios(*repairs(a_first_NK, a_second_NK), *repairs(b_first_NK, b_second_NK))
    return {name: number for name, number in found.items() if number is not None}


def share(values_NK: np.ndarray) -> dict[str, Any]:
    """{"value", "ci95"} of the mean over problems of each problem's mean; NaN values do not count."""
    means_N = problem_means(values_NK)
    return mean_estimate(means_N[~np.isnan(means_N)]).as_dict()


def suite_average(results: Mapping[str, Mapping[str, Any]], members: Sequence[str]) -> dict[str, Any]:
    """The plain mean of the members' avg@k, each benchmark counting once whatever its size.

    Interval: the benchmarks are independent, so the squared half-widths add up (MOVER, Zou and Donner 2008, Statistics
    in Medicine 27:1693): lower = mean - sqrt(sum (m_i - l_i)^2) / M, upper likewise. With symmetric intervals this is
    the sum of squared standard errors; near 0 and 1 each side keeps the shape of its benchmark's own interval.
    """
    found = [results[name] for name in members]
    mean = sum(r["avg"] for r in found) / len(found)
    below = sqrt(sum((r["avg"] - r["ci95"][0]) ** 2 for r in found)) / len(found)
    above = sqrt(sum((r["ci95"][1] - r["avg"]) ** 2 for r in found)) / len(found)
    ci95 = [max(0.0, mean - below), min(1.0, mean + above)]
    return {"avg": mean, "ci95": ci95, "benchmarks": [*members], "problems": sum(r["n"] for r in found)}


def _outcomes(outcomes_NK: np.ndarray) -> np.ndarray:
    outcomes_NK = np.asarray(outcomes_NK, dtype=float)
    if outcomes_NK.size == 0 or np.isnan(outcomes_NK).all():
        raise _empty()
    if outcomes_NK.ndim != 2:
        raise ValueError(f"outcomes are problems x samples, not {outcomes_NK.shape}")
    if ((outcomes_NK < 0) | (outcomes_NK > 1)).any():
        raise ValueError("outcomes lie between 0 and 1")
    return outcomes_NK


def _require(kept_N: np.ndarray) -> np.ndarray:
    if not kept_N.any():
        raise _empty()
    return kept_N


def _empty() -> UserError:
    return UserError(
        "No graded answer to report on.",
        "The data set is empty, or grading failed on every answer.",
        "Check the input; `scrpo grade` shows the verdict of single answers.",
    )


def _flagged(flags_NK: np.ndarray, counted_NK: np.ndarray) -> Estimate:
    """Share of the counted answers with a flag."""
    return ratio_estimate(np.where(counted_NK, flags_NK, 0.0).sum(axis=1), counted_NK.sum(axis=1))


def _ladder(samples: int) -> list[int]:
    """1, 2, 4, ... and `samples` itself."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})
