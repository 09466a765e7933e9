"""How large a difference so many problems and samples can show, and how many it takes. Pure functions;
docs/validation/power.md has tables.

A problem's success rate under a run is what its answers are samples of. With between = Var(rate over problems),
within = E[rate (1 - rate)] and moved = Var(difference of the two runs' rates over problems), the difference of two runs
of N problems x K samples has the variance (moved + 2 within / K) / N on the same problems, and
2 (between + within / K) / N on different ones (Miller 2024, arXiv 2411.00640, section 5).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.outcomes import problem_means
from scrpo_cli.evaluation.stats import ALPHA
from scrpo_cli.numbers import Z

POWER = 0.8


@dataclass(frozen=True)
class Variation:
    """Variances of one answer (between, within) and of the change from run to run (moved), on the scale of 0 to 1."""

    between: float
    within: float
    moved: float

    def of_difference(self, samples: int, paired: bool) -> float:
        """Variance that one problem adds to the difference of two runs."""
        return (self.moved if paired else 2 * self.between) + 2 * self.within / samples

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def assumed(accuracy: float, consistency: float, correlation: float) -> Variation:
    """From an accuracy, the share of the variance of one answer that is the problem's (0: all problems alike, 1: each
    always or never solved), and the correlation of the two runs' success rates.
    """
    whole = accuracy * (1 - accuracy)
    return Variation(consistency * whole, (1 - consistency) * whole, 2 * consistency * whole * (1 - correlation))


def measured(a_NK: np.ndarray, b_NK: np.ndarray | None = None, correlation: float = 1.0) -> Variation:
    """From outcomes (N, K); `moved` from those of a second run on the same problems, row by row, else from a
    correlation of the two runs' success rates.

    The variance of a problem's mean holds the sampling noise within / K, which is taken off; nothing falls below 0.
    UserError with one answer a problem, which cannot tell the two apart.
    """
    runs = [a_NK] if b_NK is None else [a_NK, b_NK]
    several_N = np.all([(~np.isnan(run_NK)).sum(axis=1) > 1 for run_NK in runs], axis=0)
    if several_N.sum() < 2:
        fix = "Name runs with --samples 2 or more, or assume a --consistency."
        raise UserError(
            "One answer a problem does not say how much of the variance is the problem's.", "--from-run", fix
        )
    counts = [(~np.isnan(run_NK[several_N])).sum(axis=1) for run_NK in runs]
    means = [problem_means(run_NK[several_N]) for run_NK in runs]
    within = [mean_N * (1 - mean_N) * k_N / (k_N - 1) for mean_N, k_N in zip(means, counts, strict=True)]
    noise = [float((within_N / k_N).mean()) for within_N, k_N in zip(within, counts, strict=True)]
    between = np.mean([max(0.0, mean_N.var(ddof=1) - n) for mean_N, n in zip(means, noise, strict=True)])
    moved = 2 * between * (1 - correlation)
    if b_NK is not None:
        moved = max(0.0, (means[1] - means[0]).var(ddof=1) - sum(noise))
    return Variation(float(between), float(np.mean(within)), float(moved))


def smallest(variation: Variation, problems: int, samples: int, paired: bool, power: float = POWER) -> float:
    """The smallest difference that is seen (95% interval without 0) with this power."""
    error = math.sqrt(variation.of_difference(samples, paired) / problems)
    degrees = problems - 1
    return error * float(stdtrit(degrees, 1 - ALPHA / 2) + stdtrit(degrees, power))


def chance(variation: Variation, problems: int, samples: int, effect: float, paired: bool) -> float:
    """The power: how often a true difference `effect` is seen, on either side."""
    variance = variation.of_difference(samples, paired) / problems
    if variance == 0:
        return float(effect != 0)
    from scipy.stats import nct  # slow to import, and few need it

    bound = float(stdtrit(problems - 1, 1 - ALPHA / 2))
    seen = nct(problems - 1, abs(effect) / math.sqrt(variance))
    return float(seen.sf(bound) + seen.cdf(-bound))


def problems_needed(variation: Variation, samples: int, effect: float, paired: bool, power: float = POWER) -> int:
    """(z_{0.975} + z_{power})^2 x variance / effect^2 (Miller 2024, eq. 9); at least 2."""
    z = Z + float(ndtri(power))
    return max(2, math.ceil(z**2 * variation.of_difference(samples, paired) / effect**2))


def plan(variation: Variation, problems: int, samples: int, effect: float | None) -> dict[str, Any]:
    """Everything that `scrpo power` says, for runs on the same problems and on different ones."""
    found: dict[str, Any] = {
        "problems": problems,
        "samples": samples,
        "variation": variation.as_dict(),
        "effect": effect,
    }
    for name, paired in (("paired", True), ("unpaired", False)):
        found[name] = {
            "smallest": smallest(variation, problems, samples, paired),
            "smallest_any_samples": smallest(variation, problems, 1_000_000, paired),
        }
        if effect is not None:
            found[name] |= {
                "power": chance(variation, problems, samples, effect, paired),
                "problems_needed": problems_needed(variation, samples, effect, paired),
            }
    return found
