"""What is reported about a model's answers: accuracy, pass@k, majority vote, self-correction, paired comparison.

Shapes: N problems, K samples. Outcomes are 0/1 floats; NaN marks an answer that does not count (its grader failed, or a
problem has fewer samples than others). Results are plain dicts for JSON, without NaN: what is not defined is None.
docs/metrics.md holds the definitions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.stats import Estimate, difference_estimate, mean_estimate, p_value, ratio_estimate

UNDECIDED = "the data cannot tell these apart"


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
    accuracy = mean_estimate(np.nanmean(correct_NK[kept_N], axis=1))
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


def majority_at_k(correct_NK: np.ndarray, answers_NK: Sequence[Sequence[str | None]], k: int) -> np.ndarray:
    """Accuracy of the most frequent final answer among k samples for each problem with that many, averaged over its
    disjoint runs of k samples. An answer that could not be extracted has no vote; a tie counts as the mean of the tied
    answers.
    """
    votes = []
    for correct_K, answers_K in zip(correct_NK, answers_NK, strict=True):
        ballots = [(a, c) for a, c in zip(answers_K, correct_K, strict=True) if not np.isnan(c)]
        runs = [_vote(ballots[start : start + k]) for start in range(0, len(ballots) - k + 1, k)]
        votes += [np.mean(runs)] if runs else []
    return np.array(votes)


def padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, K) from rows of uneven length; NaN where a problem has fewer samples than others."""
    outcomes_NK = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for i, row in enumerate(rows):
        outcomes_NK[i, : len(row)] = row
    return outcomes_NK


def two_turn(first_NK: np.ndarray, second_NK: np.ndarray) -> dict[str, dict[str, Any]]:
    """Self-correction after SCoRe (arXiv 2409.12917, section 3), each number as {"value", "ci95"}.

    t1, t2, delta = t2 - t1, i2c and c2i are shares of ALL answers (delta = i2c - c2i); fix_rate is the conditional one,
    repaired / wrong, and None when no first answer was wrong. A pair counts when both of its answers do.
    """
    first_NK, second_NK = _outcomes(first_NK), _outcomes(second_NK)
    counted_NK = ~np.isnan(first_NK + second_NK)
    kept_N = _require(counted_NK.any(axis=1))

    def mean(values_NK: np.ndarray, estimate: Callable[[np.ndarray], Estimate] = mean_estimate) -> dict[str, Any]:
        values_N = np.where(counted_NK, values_NK, 0).sum(axis=1)[kept_N] / counted_NK.sum(axis=1)[kept_N]
        return estimate(values_N).as_dict()

    return {
        "t1": mean(first_NK),
        "t2": mean(second_NK),
        "delta": mean(second_NK - first_NK, difference_estimate),
        "i2c": mean((1 - first_NK) * second_NK),
        "c2i": mean(first_NK * (1 - second_NK)),
        "fix_rate": repair_rate(first_NK, second_NK),
    }


def repair_rate(first_NK: np.ndarray, repaired_NK: np.ndarray) -> dict[str, Any]:
    """Share of the wrong first answers whose correction is right: {"value", "ci95", "wrong"}.

    `repaired_NK` is looked at where the first answer was wrong; NaN means that no correction counts there, and a value
    between 0 and 1 is the mean over several corrections. Both None when there is no such answer.
    """
    first_NK, repaired_NK = _outcomes(first_NK), np.asarray(repaired_NK, dtype=float)
    tried_NK = (first_NK == 0) & ~np.isnan(repaired_NK)
    wrong = int(tried_NK.sum())
    if not wrong:
        return {"value": None, "ci95": None, "wrong": 0}
    repaired_N = np.where(tried_NK, repaired_NK, 0).sum(axis=1)
    return {**ratio_estimate(repaired_N, tried_NK.sum(axis=1)).as_dict(), "wrong": wrong}


def paired(a_NK: np.ndarray, b_NK: np.ndarray) -> dict[str, Any]:
    """b - a on the same problems, row by row (K may differ): difference, ci95, p, n, and a verdict in words.

    Problems are the unit: each gives the difference of its two means. Raises ValueError when the rows do not match.
    """
    a_NK, b_NK = _outcomes(a_NK), _outcomes(b_NK)
    if len(a_NK) != len(b_NK):
        raise ValueError(f"paired needs the same problems: {len(a_NK)} against {len(b_NK)}")
    both_N = _require(~(np.isnan(a_NK).all(axis=1) | np.isnan(b_NK).all(axis=1)))
    differences_N = np.nanmean(b_NK[both_N], axis=1) - np.nanmean(a_NK[both_N], axis=1)
    estimate = difference_estimate(differences_N)
    return {
        "difference": estimate.value,
        "ci95": list(estimate.ci95),
        "p": p_value(differences_N),
        "n": len(differences_N),
        "verdict": verdict(estimate),
    }


def share(values_NK: np.ndarray) -> dict[str, Any]:
    """{"value", "ci95"} of the mean over problems of each problem's mean; NaN values do not count."""
    kept_N = ~np.isnan(values_NK).all(axis=1)
    return mean_estimate(np.nanmean(values_NK[kept_N], axis=1)).as_dict()


def verdict(difference: Estimate) -> str:
    """The interval in words."""
    low, high = difference.ci95
    if low <= 0 <= high:
        return UNDECIDED
    return "higher" if low > 0 else "lower"


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


def _vote(ballots: Sequence[tuple[str | None, float]]) -> float:
    correct_by_answer = defaultdict(list)
    for answer, correct in ballots:
        if answer is not None:
            correct_by_answer[answer].append(correct)
    if not correct_by_answer:
        return 0.0
    most = max(map(len, correct_by_answer.values()))
    return float(np.mean([np.mean(c) for c in correct_by_answer.values() if len(c) == most]))
