"""Intervals that may be looked at after every run.

Whoever looks at an ordinary 95% interval after each run, and stops once it leaves a value, is wrong far more often than
in 5% of cases. A confidence sequence holds the true mean at all times together with the probability that it states, so
that it may be looked at whenever there is something new, and decide when to stop.

For x_1, x_2, ... ~ Normal(mean, sigma^2), both unknown, and a supposed mean m let t = sqrt(n) (average - m) / s. The
likelihood, mixed over (mean - m) / sigma ~ Normal(0, g) with the right Haar prior for sigma, against that of m is

    E_n(m) = k^(-1/2) [(n - 1 + t^2) / (n - 1 + t^2 / k)]^(n / 2),    k = 1 + n g

which is a test martingale where m is the mean, and so passes 1 / alpha at any n with probability alpha at most (Ville
1939; Wang and Ramdas 2024, arXiv 2310.03722). The sequence is every m with E_n(m) < 1 / alpha, and that is
average +- s sqrt((n - 1) u / n) with u = (r - 1) / (1 - r / k), r = (k / alpha^2)^(1 / n). It is endless while r >= k:
at alpha = 0.05 three values say nothing.

Training runs are not always normal: where one in ten takes off, five that did not look like a certainty. So s is never
taken to be smaller than a `least` spread that is stated beforehand, which only makes the sequence wider;
docs/validation/sequential.md has how often it errs with and without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scrpo_cli.evaluation.stats import ALPHA

EFFECTS = 2.0
"""g, the variance of supposed effects [I]: of 1, 2, 4 and 8 it is within 9% of the shortest for 5 to 40 values."""
MOST = 1000
"""Values that `values_needed` looks ahead."""
SIMULATED = 4000


def half_width(n: int, spread: float, alpha: float = ALPHA) -> float:
    """How far the sequence reaches to either side of the average of n values with this standard deviation."""
    if n < 2:
        return math.inf
    k = 1 + n * EFFECTS
    r = (k / alpha**2) ** (1 / n)
    return spread * math.sqrt((n - 1) / n * (r - 1) / (1 - r / k)) if r < k else math.inf


def interval(values: Sequence[float], least: float = 0.0, alpha: float = ALPHA) -> tuple[float, float]:
    """(low, high) of the mean after these values; both may be infinite."""
    x_S = np.asarray(values, dtype=float)
    reach = half_width(len(x_S), spread_of(values, least), alpha)
    return float(x_S.mean()) - reach, float(x_S.mean()) + reach


def spread_of(values: Sequence[float], least: float = 0.0) -> float:
    """Their standard deviation, or what it is at least taken to be."""
    return max(least, float(np.std(values, ddof=1))) if len(values) > 1 else least


def values_needed(distance: float, spread: float, alpha: float = ALPHA) -> int | None:
    """After how many values the sequence leaves a value at this distance from their average; None: more than MOST."""
    return next((n for n in range(2, MOST + 1) if half_width(n, spread, alpha) < abs(distance)), None)


@dataclass(frozen=True)
class Outlook:
    """Of many studies, the share that after 1 to S values has told on which side of a value the mean is (`right_S`) or
    has told the other side (`wrong_S`).
    """

    right_S: np.ndarray
    wrong_S: np.ndarray

    @property
    def mean_values(self) -> float:
        """After how many values they stop, at S at the latest."""
        return float(1 + (1 - (self.right_S + self.wrong_S)[:-1]).sum())

    def needed(self, power: float) -> int | None:
        """Values by which this share is right; None where S are too few."""
        enough_S = self.right_S >= power
        return int(enough_S.argmax()) + 1 if enough_S.any() else None


def outlook(values_BS: np.ndarray, value: float, first: int, least: float, alpha: float = ALPHA) -> Outlook:
    """What becomes of B studies that look at a `value` below their mean after each of S values, from `first` on."""
    n_S = np.arange(1, values_BS.shape[1] + 1)
    x_BS = values_BS - value
    mean_BS = x_BS.cumsum(axis=1) / n_S
    squares_BS = (x_BS**2).cumsum(axis=1) - n_S * mean_BS**2
    spread_BS = np.maximum(least, np.sqrt(np.maximum(squares_BS, 0) / np.maximum(n_S - 1, 1)))
    reach_S = np.array([half_width(n, 1.0, alpha) if n >= first else math.inf for n in n_S])
    tells_BS = np.abs(mean_BS) / reach_S > spread_BS
    first_told_BS = tells_BS & (tells_BS.cumsum(axis=1) == 1)
    right_S, wrong_S = ((first_told_BS & side_BS).mean(axis=0).cumsum() for side_BS in (mean_BS > 0, mean_BS < 0))
    return Outlook(right_S, wrong_S)


def normal_outlook(distance: float, spread: float, first: int, most: int, alpha: float = ALPHA) -> Outlook:
    """By simulation, where values are normal with a spread that was stated, and a mean so far from the value."""
    drawn_BS = np.random.default_rng(0).normal(abs(distance), spread, (SIMULATED, most))
    return outlook(drawn_BS, 0.0, first, spread, alpha)
