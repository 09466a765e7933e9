"""Estimates with 95% intervals, clustered by problem.

Samples of one problem are not independent (a model knows a problem or does not), so the unit of every interval here is
the problem: n problems with 64 samples each are n observations, not 64n. See docs/metrics.md for the formulas.

Shapes: N problems. Everything is a float in [low, high]; no function returns NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from scrpo_cli.errors import UserError

ALPHA = 0.05
_ROUNDING = 1e-12  # residuals below this are rounding, not variance


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    ci95: tuple[float, float]

    def as_dict(self) -> dict:
        return {"value": self.value, "ci95": list(self.ci95)}


def mean_estimate(values_N: np.ndarray, low: float = 0.0, high: float = 1.0) -> Estimate:
    """Mean over problems of a per-problem value that lies in [low, high]."""
    values_N = np.asarray(values_N, dtype=float)
    return ratio_estimate(values_N, np.ones_like(values_N), low, high)


def ratio_estimate(numerator_N: np.ndarray, denominator_N: np.ndarray, low: float = 0.0, high: float = 1.0) -> Estimate:
    """Sum of numerators over sum of denominators, with problems as clusters.

    Interval: the delta method for a ratio (Cochran, Sampling Techniques, 3rd ed., 6.4) with Student's t at n - 1
    degrees of freedom, n counting the problems with a denominator above 0. Two cases have their own: one 0/1 outcome a
    problem is a binomial (Clopper-Pearson), and where nothing varies t would claim certainty (`_without_variance`).
    """
    numerator_N, denominator_N = np.asarray(numerator_N, dtype=float), np.asarray(denominator_N, dtype=float)
    used_N = denominator_N > 0
    numerator_N, denominator_N = numerator_N[used_N], denominator_N[used_N]
    n = len(numerator_N)
    if n == 0:
        raise UserError("Nothing to average: no problem has a graded answer.", fix="Check that the input is not empty.")
    value = float(numerator_N.sum() / denominator_N.sum())
    if (low, high) == (0.0, 1.0) and (denominator_N == 1).all() and np.isin(numerator_N, (0.0, 1.0)).all():
        return Estimate(value, _binomial(int(numerator_N.sum()), n))
    residual_N = numerator_N - value * denominator_N
    if n == 1 or np.abs(residual_N).max() < _ROUNDING:
        return Estimate(value, _without_variance(value, n, low, high))
    standard_error = np.sqrt(n / (n - 1) * np.square(residual_N).sum()) / denominator_N.sum()
    margin = stats.t.ppf(1 - ALPHA / 2, n - 1) * standard_error
    return Estimate(value, (float(max(low, value - margin)), float(min(high, value + margin))))


def p_value(differences_N: np.ndarray) -> float:
    """Two-sided p of "the mean difference is 0", from the very interval of `mean_estimate(differences_N, -1, 1)`:
    p < 0.05 exactly when that interval leaves 0 out. Student's t; without variance the bound below, solved for alpha.
    """
    differences_N = np.asarray(differences_N, dtype=float)
    n, mean = len(differences_N), float(np.mean(differences_N))
    if n == 1 or np.abs(differences_N - mean).max() < _ROUNDING:
        return min(1.0, 2 * (1 + abs(mean)) ** -n)
    return float(stats.ttest_1samp(differences_N, 0.0).pvalue)


def _binomial(successes: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(successes, n).proportion_ci(1 - ALPHA, method="exact")
    return float(interval.low), float(interval.high)


def _without_variance(value: float, n: int, low: float, high: float) -> tuple[float, float]:
    """n problems that all gave `value`: other values may exist, in a share of at most q of all problems, where q is the
    Clopper-Pearson bound of 0 successes in n; at worst they all lie at an end of [low, high].
    """
    q = 1 - (ALPHA / 2) ** (1 / n)
    return value - q * (value - low), value + q * (high - value)
