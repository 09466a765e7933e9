"""Estimates with 95% intervals, clustered by problem.

Samples of one problem are not independent (a model knows a problem or does not), so the unit of every interval here is
the problem: n problems with 64 samples each are n observations, not 64n. docs/evaluation.md has the formulas,
docs/validation/intervals.md how often the intervals hold the truth (`tools/coverage.py`).

Shapes: N problems, S seeds. No function returns NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from scrpo_cli.errors import UserError
from scrpo_cli.numbers import wilson

ALPHA = 0.05
_ROUNDING = 1e-12  # residuals below this are rounding, not variance


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    ci95: tuple[float, float]

    def as_dict(self) -> dict:
        return {"value": self.value, "ci95": list(self.ci95)}


def mean_estimate(values_N: np.ndarray) -> Estimate:
    """Mean over problems of a share: a per-problem value in [0, 1]."""
    values_N = np.asarray(values_N, dtype=float)
    return ratio_estimate(values_N, np.ones_like(values_N))


def ratio_estimate(numerator_N: np.ndarray, denominator_N: np.ndarray) -> Estimate:
    """Sum of numerators over sum of denominators, a share in [0, 1], with problems as clusters.

    The problems' residuals (the delta method: Cochran, Sampling Techniques, 3rd ed., 6.4) give Student's t with Hall's
    correction for skewness, which counts near 0 and 1. It never reaches beyond Wilson's interval for problems that are
    all right or all wrong, because no spread is wider; with one 0/1 outcome a problem that is the interval. It always
    reaches as far as problems that were not drawn can move the number (`_unseen`): answers that agree, however many,
    say nothing about those.
    """
    numerator_N, denominator_N = np.asarray(numerator_N, dtype=float), np.asarray(denominator_N, dtype=float)
    used_N = denominator_N > 0
    numerator_N, denominator_N = numerator_N[used_N], denominator_N[used_N]
    if len(numerator_N) == 0:
        raise UserError("Nothing to average: no problem has a graded answer.", fix="Check that the input is not empty.")
    total = float(denominator_N.sum())
    value = float(numerator_N.sum()) / total
    residual_N = (numerator_N - value * denominator_N) / denominator_N.mean()
    unseen = _unseen(value, len(residual_N), 0.0, 1.0)
    if _without_spread(residual_N):
        return Estimate(value, unseen)
    low, high = _skewed(value, residual_N)
    floor, ceiling = wilson(value, total**2 / float(np.square(denominator_N).sum()))
    return Estimate(value, (min(max(low, floor), unseen[0]), max(min(high, ceiling), unseen[1])))


def rate_estimate(numerator_N: np.ndarray, denominator_N: np.ndarray, most: float) -> Estimate:
    """Sum of numerators over sum of denominators, a rate in [0, most] such as right answers a token, with problems as
    clusters: Student's t on the problems' residuals, as in `ratio_estimate`.
    """
    value = float(numerator_N.sum() / denominator_N.sum())
    residual_N = (numerator_N - value * denominator_N) / denominator_N.mean()
    _, (low, high) = difference_estimate((value + residual_N) / most)
    return Estimate(value, (max(0.0, most * low), most * high))


def difference_estimate(differences_N: np.ndarray) -> Estimate:
    """Mean over problems of a difference in [-1, 1]: Student's t on the problems (Miller 2024, arXiv 2411.00640).

    Differences lean to no side by themselves, and a correction for the skewness of the sample would chase noise.
    """
    differences_N = np.asarray(differences_N, dtype=float)
    n, mean = len(differences_N), float(np.mean(differences_N))
    if _without_spread(differences_N - mean):
        return Estimate(mean, _unseen(mean, n, -1.0, 1.0))
    margin = _t(n - 1) * float(np.std(differences_N, ddof=1)) / np.sqrt(n)
    return Estimate(mean, (float(max(-1.0, mean - margin)), float(min(1.0, mean + margin))))


def crossed_estimate(values_NS: np.ndarray, low: float = -1.0, high: float = 1.0, alpha: float = ALPHA) -> Estimate:
    """Mean of a value in [low, high] of each problem under each seed, over other problems and other seeds, with its
    interval of coverage 1 - alpha.

    Two-way clustering: the variance over problems plus that over seeds minus what both hold (Cameron, Gelbach & Miller
    2011, JBES 29:238), by mean squares as in a crossed design, with the degrees of freedom of Satterthwaite (1946); at
    least the variance over problems. Needs two seeds; docs/validation/intervals.md says what two are worth.
    """
    value, spread = float(values_NS.mean()), _crossed_spread(values_NS)
    if spread is None:
        return Estimate(value, _unseen(value, len(values_NS), low, high, alpha))
    error, degrees = spread
    margin = _t(degrees, alpha) * error
    return Estimate(value, (float(max(low, value - margin)), float(min(high, value + margin))))


def crossed_p(values_NS: np.ndarray, scale: float = 1.0) -> float:
    """p that the truth behind `crossed_estimate` of values within `scale` of 0 is 0: alpha of the interval that just
    reaches it.
    """
    return min(1.0, 2 * _crossed_tail(values_NS, 0.0, scale))


def crossed_equivalence_p(values_NS: np.ndarray, margin: float, scale: float = 1.0) -> float:
    """p that the truth is at least `margin` away from 0: two one-sided tests (Schuirmann 1987, J. Pharmacokinet.
    Biopharm. 15:657). It is below 0.05 exactly where the interval of coverage 0.90 lies within the margin.
    """
    if abs(float(values_NS.mean())) >= margin:
        return 1.0
    return max(_crossed_tail(values_NS, end, scale) for end in (-margin, margin))


def _crossed_tail(values_NS: np.ndarray, at: float, scale: float) -> float:
    """One-sided p that the truth lies at `at` or beyond, seen from the mean."""
    value, spread = float(values_NS.mean()), _crossed_spread(values_NS)
    if spread is not None:
        error, degrees = spread
        return float(stdtr(degrees, -abs(value - at) / error))
    if value == at:
        return 1.0
    end = np.copysign(scale, at - value)
    return float(max(0.0, 1 - (at - value) / (end - value)) ** len(values_NS))


def _crossed_spread(values_NS: np.ndarray) -> tuple[float, float] | None:
    """Standard error of the mean and its degrees of freedom; None where the problems do not differ."""
    n, seeds = values_NS.shape
    value, of_problem_N, of_seed_S = float(values_NS.mean()), values_NS.mean(axis=1), values_NS.mean(axis=0)
    if _without_spread(of_problem_N - value):
        return None
    rest_NS = values_NS - of_problem_N[:, None] - of_seed_S + value
    problem, seed = float(of_problem_N.var(ddof=1)) / n, float(of_seed_S.var(ddof=1)) / seeds
    both = float(np.square(rest_NS).sum()) / ((n - 1) * (seeds - 1)) / (n * seeds)
    variance = max(problem, problem + seed - both)
    uncertain = problem**2 / (n - 1) + seed**2 / (seeds - 1) + both**2 / ((n - 1) * (seeds - 1))
    return float(np.sqrt(variance)), max(1.0, min(n - 1, variance**2 / uncertain))


def crossed_share_estimate(values_NS: np.ndarray) -> Estimate:
    """`crossed_estimate` of a share, nowhere narrower than the interval over its problems (`mean_estimate`)."""
    value, (low, high) = crossed_estimate(values_NS, 0.0, 1.0)
    alone = mean_estimate(values_NS.mean(axis=1)).ci95
    return Estimate(value, (min(low, alone[0]), max(high, alone[1])))


def _without_spread(residual_N: np.ndarray) -> bool:
    return len(residual_N) == 1 or bool(np.abs(residual_N).max() < _ROUNDING)


def _t(degrees: float, alpha: float = ALPHA) -> float:
    return float(stdtrit(degrees, 1 - alpha / 2))


def _skewed(value: float, residual_N: np.ndarray) -> tuple[float, float]:
    """Student's t with the cubic that takes the skewness out of it and, unlike Johnson's, can be inverted (Hall 1992,
    JRSS B 54:221): g(T) = T + skew T^2/3 + skew^2 T^3/27 + skew/(6n), T = (estimate - truth) / spread.
    """
    n, spread = len(residual_N), float(np.sqrt(np.mean(residual_N**2)))
    skew = float(np.mean(residual_N**3)) / spread**3

    def inverse(g: float) -> float:
        if abs(skew) < 1e-6:
            return g
        return 3 / skew * (float(np.cbrt(1 + skew * (g - skew / (6 * n)))) - 1)

    g = _t(n - 1) / np.sqrt(n - 1)
    return value - spread * inverse(g), value - spread * inverse(-g)


def _unseen(value: float, n: int, low: float, high: float, alpha: float = ALPHA) -> tuple[float, float]:
    """How far problems that none of n drawn ones resembles can move `value`: their share of all problems is at most q,
    the Clopper-Pearson bound of 0 in n (1934, Biometrika 26:404), and at worst they lie at an end of [low, high].
    """
    q = 1 - (alpha / 2) ** (1 / n)
    return value - q * (value - low), value + q * (high - value)
