"""How often 95% intervals hold the truth, by simulation; the tables of docs/validation/intervals.md.

    python tools/coverage.py                  # what scrpo reports: shares, pass@k, ratios, differences, seeds
    python tools/coverage.py --candidates     # every formula that was considered, on shares and on differences

A population gives each problem a success rate; a draw has N problems of it with K answers each. Coverage is the share
of draws whose interval holds the population's number; over 4,000 draws its standard error is 0.3 points.
Shapes: D draws, N problems, B bootstrap resamples.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import betaln, expit

from scrpo_cli.evaluation.stats import crossed_estimate, difference_estimate, mean_estimate, ratio_estimate

PROBLEMS, SAMPLES, DRAWS, CHUNK = (20, 30, 40, 100, 500), (1, 4, 16, 64), 4000, 500
Rng = np.random.Generator


class Population(NamedTuple):
    """Success rates of problems: a mixture of Beta distributions (weight, a, b)."""

    parts: tuple[tuple[float, float, float], ...]

    def rates(self, rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
        weights, a, b = map(np.array, zip(*self.parts))
        part = rng.choice(len(weights), p=weights, size=shape)
        return rng.beta(a[part], b[part])

    def passes(self, k: int) -> float:
        """The truth of pass@k; of the mean for k = 1."""
        return sum(w * (1 - np.exp(betaln(a, b + k) - betaln(a, b))) for w, a, b in self.parts)


NEVER, ALWAYS = (1e-3, 1e3), (1e3, 1e-3)
POPULATIONS = {
    "uniform on 0 to 1": Population(((1, 1, 1),)),
    "U-shaped, Beta(0.5, 0.5)": Population(((1, 0.5, 0.5),)),
    "alike, Beta(5, 5)": Population(((1, 5, 5),)),
    "all the same, 0.3": Population(((1, 3e6, 7e6),)),
    "20%, Beta(2, 8)": Population(((1, 2, 8),)),
    "20%, Beta(0.2, 0.8)": Population(((1, 0.2, 0.8),)),
    "60% never, 10% always, rest uniform": Population(((0.6, *NEVER), (0.3, 1, 1), (0.1, *ALWAYS))),
    "four in five near 95%, rest near 10%": Population(((0.8, 19, 1), (0.2, 1, 9))),
    "10%, Beta(0.4, 3.6)": Population(((1, 0.4, 3.6),)),
    "one in ten always, rest never": Population(((0.9, *NEVER), (0.1, *ALWAYS))),
    "5%, Beta(0.5, 9.5)": Population(((1, 0.5, 9.5),)),
    "5%, Beta(0.1, 1.9)": Population(((1, 0.1, 1.9),)),
    "95%, Beta(1.9, 0.1)": Population(((1, 1.9, 0.1),)),
    "1%, Beta(0.05, 4.95)": Population(((1, 0.05, 4.95),)),
}


def some(share: float, rate: float = 0.0, of: tuple[float, float] = ALWAYS) -> Population:
    """A share of the problems solved always (or as Beta(`of`)), the rest at one rate."""
    return Population(((share, *of), (1 - share, *(NEVER if rate == 0 else (1e6 * rate, 1e6 * (1 - rate))))))


FEW_PROBLEMS, FEW = (
    (20, 30, 100),
    {
        **{f"{f}% always, rest never": some(f / 100) for f in (1, 3, 5, 10)},
        **{f"{f}% always, rest 0.1%": some(f / 100, 0.001) for f in (1, 3, 5, 10)},
        **{f"{f}% always, rest 1%": some(f / 100, 0.01) for f in (1, 3, 5, 10)},
        "3% uniform, rest never": some(0.03, of=(1, 1)),
        "3% near 90%, rest 0.1%": some(0.03, 0.001, (9, 1)),
        "3% always, rest guessed at 25%": some(0.03, 0.25),
        "one half always, one half never": some(0.5),
        "3% never, rest 99.9%": some(0.03, 0.999, NEVER),
        "3% never, rest 99%": some(0.03, 0.99, NEVER),
        "10% never, rest 99%": some(0.1, 0.99, NEVER),
    },
)
"""Few problems that carry the number: a sample often has none of them."""


def generator(*key: object) -> Rng:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def share_of_hits(estimates: Iterator, truth: float) -> float:
    found = np.array([estimate.ci95 for estimate in estimates])
    return float(((found[:, 0] <= truth + 1e-9) & (truth - 1e-9 <= found[:, 1])).mean())


# --- what is reported ----------------------------------------------------------------------------------------------


def evaluations(population: Population, n: int, samples: int, draws: int) -> np.ndarray:
    """(D, N) shares of right answers."""
    rng = generator(population, n, samples)
    return rng.binomial(samples, population.rates(rng, (draws, n))) / samples


def share_coverage(population: Population, n: int, samples: int, draws: int = DRAWS) -> float:
    return share_of_hits(map(mean_estimate, evaluations(population, n, samples, draws)), population.passes(1))


def pass_coverage(population: Population, n: int, samples: int, draws: int = DRAWS) -> float:
    """pass@4, or @2 of four samples."""
    rng, k = generator("pass", population, n, samples), 2 if samples < 8 else 4
    wrong_DN = samples - rng.binomial(samples, population.rates(rng, (draws, n)))
    miss_DN = np.prod([np.clip(wrong_DN - j, 0, None) / (samples - j) for j in range(k)], axis=0)
    return share_of_hits(map(mean_estimate, 1 - miss_DN), population.passes(k))


class Pairs(NamedTuple):
    """Counts right at the first answer and right, mended and broken at the second, of `samples`; and the truths."""

    first_DN: np.ndarray
    mended_DN: np.ndarray
    broken_DN: np.ndarray
    truth: dict[str, float]


def two_turns(n: int, samples: int, draws: int) -> Pairs:
    """First answers U-shaped; 13% of the wrong are mended and 5% of the right broken, on few problems most."""
    rng = generator("two turns", n, samples)
    shape = (draws, n)
    right_DN = rng.binomial(samples, rng.beta(0.5, 0.5, shape))
    mended_DN = rng.binomial(samples - right_DN, rng.beta(0.3, 2, shape))
    broken_DN = rng.binomial(right_DN, rng.beta(0.1, 2, shape))
    mend, broke = 0.3 / 2.3, 0.1 / 2.1
    truth = {"delta": (mend - broke) / 2, "i->c": mend / 2, "c->i": broke / 2, "fix rate": mend}
    return Pairs(right_DN, mended_DN, broken_DN, truth)


def two_turn_coverage(name: str, n: int, samples: int, draws: int = DRAWS) -> float:
    pairs = two_turns(n, samples, draws)
    if name == "fix rate":
        wrong_DN = samples - pairs.first_DN
        some_D = wrong_DN.sum(axis=1) > 0
        estimates = map(ratio_estimate, pairs.mended_DN[some_D], wrong_DN[some_D])
    elif name == "delta":
        estimates = map(difference_estimate, (pairs.mended_DN - pairs.broken_DN) / samples)
    else:
        estimates = map(mean_estimate, (pairs.mended_DN if name == "i->c" else pairs.broken_DN) / samples)
    return share_of_hits(estimates, pairs.truth[name])


DIFFERENCES = {
    "no difference, U-shaped": (POPULATIONS["U-shaped, Beta(0.5, 0.5)"], 0.0, (1, 1)),
    "no difference, 5%, Beta(0.1, 1.9)": (POPULATIONS["5%, Beta(0.1, 1.9)"], 0.0, (1, 1)),
    "a fifth of the problems drawn anew": (POPULATIONS["uniform on 0 to 1"], 0.2, (2, 1)),
    "all problems drawn anew, U-shaped": (POPULATIONS["U-shaped, Beta(0.5, 0.5)"], 1.0, (0.7, 0.5)),
    "one problem in ten becomes uniform, rest 5%": (POPULATIONS["5%, Beta(0.1, 1.9)"], 0.1, (1, 1)),
    "three problems in a hundred become always, rest 0.1%": (some(0.0, 0.001), 0.03, ALWAYS),
}
"""Two runs on the same problems: success rates of the first, share of problems that have another one under the second,
and the Beta distribution of those."""


def two_runs(name: str, n: int, samples: int, draws: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(D, N) shares of the first and the second run, and the true difference."""
    population, moved, (a, b) = DIFFERENCES[name]
    rng = generator("difference", name, n, samples)
    before_DN = population.rates(rng, (draws, n))
    after_DN = np.where(rng.random((draws, n)) < moved, rng.beta(a, b, (draws, n)), before_DN)
    second_DN, first_DN = (rng.binomial(samples, rates_DN) / samples for rates_DN in (after_DN, before_DN))
    return first_DN, second_DN, moved * (a / (a + b) - population.passes(1))


def difference_coverage(name: str, n: int, samples: int, draws: int = DRAWS) -> float:
    first_DN, second_DN, truth = two_runs(name, n, samples, draws)
    return share_of_hits(map(difference_estimate, second_DN - first_DN), truth)


def seeds_coverage(n: int, samples: int, seeds: int, spread: float, draws: int = DRAWS) -> tuple[float, float]:
    """(over problems and seeds, over problems alone) of a difference of two arms: logits 0.3 + 2 problem + spread seed
    + 0.5 both; the truth is 0.
    """
    rng = generator("seeds", n, samples, seeds, spread)

    def arm() -> np.ndarray:
        noise = spread * rng.normal(size=(draws, 1, seeds)) + 0.5 * rng.normal(size=(draws, n, seeds))
        return rng.binomial(samples, 1 / (1 + np.exp(-0.3 - 2 * problem_DN - noise))) / samples

    problem_DN = rng.normal(size=(draws, n, 1))
    values = arm() - arm()
    alone = map(difference_estimate, values.mean(axis=2))
    return share_of_hits(map(crossed_estimate, values), 0.0), share_of_hits(alone, 0.0)


# --- what was considered -------------------------------------------------------------------------------------------


Ends = tuple[np.ndarray, np.ndarray]
Formula = Callable[[np.ndarray, int], Ends]
"""(values_DN in [0, 1], samples a problem) -> lower and upper ends."""


def holds(ends: Ends, truth: float) -> np.ndarray:
    return (ends[0] <= truth + 1e-9) & (truth - 1e-9 <= ends[1])


def unseen(values_DN: np.ndarray, tail: float = 0.025) -> Ends:
    """What problems unlike all that were drawn can change; `tail` is the chance that none of their share is drawn."""
    mean_D, q = values_DN.mean(axis=1), 1 - tail ** (1 / values_DN.shape[1])
    return mean_D * (1 - q), mean_D + q * (1 - mean_D)


def exact(low_D: np.ndarray, high_D: np.ndarray, values_DN: np.ndarray) -> Ends:
    """Inside [0, 1], with the exact bound where nothing varies."""
    flat_D, (least_D, most_D) = np.ptp(values_DN, axis=1) == 0, unseen(values_DN)
    return np.clip(np.where(flat_D, least_D, low_D), 0, 1), np.clip(np.where(flat_D, most_D, high_D), 0, 1)


def mirrored(lower: Callable[[np.ndarray], np.ndarray], values_DN: np.ndarray) -> Ends:
    """Of a lower end, and the upper one that right and wrong exchanged give."""
    return exact(lower(values_DN), 1 - lower(1 - values_DN), values_DN)


def moments(values_DN: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, its clustered standard error (never 0) and Student's t."""
    n = values_DN.shape[1]
    error_D = values_DN.std(axis=1, ddof=1) / np.sqrt(n)
    return values_DN.mean(axis=1), np.maximum(error_D, 1e-12), float(stats.t.ppf(0.975, n - 1))


def student(values_DN: np.ndarray, samples: int) -> Ends:
    mean_D, error_D, t = moments(values_DN)
    return exact(mean_D - t * error_D, mean_D + t * error_D, values_DN)


def score(mean_D: np.ndarray, n: np.ndarray | int, z: float) -> Ends:
    """Wilson's of n problems."""
    center_D, scale_D = mean_D + z**2 / (2 * n), 1 + z**2 / n
    margin_D = z * np.sqrt(np.maximum(mean_D * (1 - mean_D), 0) / n + z**2 / (4 * n**2))
    return (center_D - margin_D) / scale_D, (center_D + margin_D) / scale_D


def effective_wilson(values_DN: np.ndarray, samples: int) -> Ends:
    mean_D, error_D, t = moments(values_DN)
    return exact(*score(mean_D, np.maximum(mean_D * (1 - mean_D), 1e-12) / error_D**2, t), values_DN)


def transformed(forth: Callable, back: Callable, slope: Callable) -> Formula:
    def ends(values_DN: np.ndarray, samples: int) -> Ends:
        mean_D, error_D, t = moments(values_DN)
        inside_D = np.clip(mean_D, 1e-9, 1 - 1e-9)
        margin_D = t * error_D * slope(inside_D)
        return exact(back(forth(inside_D) - margin_D), back(forth(inside_D) + margin_D), values_DN)

    return ends


def hall(values_DN: np.ndarray, samples: int) -> Ends:
    mean_D, error_D, t = moments(values_DN)
    n = values_DN.shape[1]
    spread_D = error_D * np.sqrt(n - 1)
    skew_D = ((values_DN - mean_D[:, None]) ** 3).mean(axis=1) / spread_D**3
    some_D = np.where(np.abs(skew_D) < 1e-6, 1e-6, skew_D)

    def inverse(g: float) -> np.ndarray:
        return 3 / some_D * (np.cbrt(1 + some_D * (g - some_D / (6 * n))) - 1)

    g = t / np.sqrt(n - 1)
    return exact(mean_D - spread_D * inverse(g), mean_D - spread_D * inverse(-g), values_DN)


def within_wilson(values_DN: np.ndarray, samples: int) -> Ends:
    low_D, high_D = hall(values_DN, samples)
    floor_D, ceiling_D = score(values_DN.mean(axis=1), values_DN.shape[1], float(stats.norm.ppf(0.975)))
    return exact(np.maximum(low_D, floor_D), np.minimum(high_D, ceiling_D), values_DN)


def with_unseen(formula: Formula, tail: float = 0.025) -> Formula:
    def ends(values_DN: np.ndarray, samples: int) -> Ends:
        (low_D, high_D), (least_D, most_D) = formula(values_DN, samples), unseen(values_DN, tail)
        return np.minimum(low_D, least_D), np.maximum(high_D, most_D)

    return ends


def with_a_problem(values_DN: np.ndarray, samples: int) -> Ends:
    """Agresti & Coull 1998 by problem: one more problem, never solved for the lower end, always for the upper."""
    more = [np.hstack([values_DN, np.full((len(values_DN), 1), end)]) for end in (0.0, 1.0)]
    return within_wilson(more[0], samples)[0], within_wilson(more[1], samples)[1]


def dirichlet(weight: float, resamples: int = 999) -> Formula:
    """The Bayesian bootstrap with a further problem of this weight at 0 (lower) and at 1 (upper end)."""

    def ends(values_DN: np.ndarray, samples: int) -> Ends:
        rng = generator("dirichlet", values_DN.shape[1])
        weights_BN = rng.dirichlet([*np.ones(values_DN.shape[1]), weight], resamples)
        means_DB = values_DN @ weights_BN[:, :-1].T
        return np.quantile(means_DB, 0.025, axis=1), np.quantile(means_DB + weights_BN[:, -1], 0.975, axis=1)

    return ends


def betting(values_DN: np.ndarray, samples: int) -> Ends:
    """The hedged capital with predictable plug-in stakes of at most half; problems in the order of the draw."""
    n = values_DN.shape[1]
    seen_N = np.arange(1, n + 1)
    guess_DN = (0.5 + values_DN.cumsum(axis=1)) / (seen_N + 1)
    variance_DN = (0.25 + ((values_DN - guess_DN) ** 2).cumsum(axis=1)) / (seen_N + 1)
    before_DN = np.hstack([np.full((len(values_DN), 1), 0.25), variance_DN[:, :-1]])
    stake_DN = np.sqrt(2 * np.log(2 / 0.05) / (n * before_DN))

    def lower(values_DN: np.ndarray) -> np.ndarray:
        low_D, high_D = np.zeros(len(values_DN)), np.ones(len(values_DN))
        for _ in range(30):
            middle_D1 = ((low_D + high_D) / 2)[:, None]
            gains_DN = np.log1p(np.minimum(stake_DN, 0.5 / middle_D1) * (values_DN - middle_D1))
            rejected_D = gains_DN.cumsum(axis=1).max(axis=1) >= np.log(2 / 0.05)
            low_D = np.where(rejected_D, middle_D1[:, 0], low_D)
            high_D = np.where(rejected_D, high_D, middle_D1[:, 0])
        return low_D

    return lower(values_DN), 1 - lower(1 - values_DN)


def beta_binomial(values_DN: np.ndarray, samples: int) -> Ends:
    """The posterior of the mean, with flat priors on it and on the correlation of a problem's answers."""
    counts_DN = np.rint(values_DN * samples).astype(int)
    times_DC = np.stack([(counts_DN == c).sum(axis=1) for c in range(samples + 1)], axis=1)
    mean_M, alike_A = expit(np.linspace(-11, 11, 201)), expit(np.linspace(-7, 7, 25))
    size_A = 1 / alike_A - 1
    chance = stats.betabinom.logpmf(
        np.arange(samples + 1),
        samples,
        mean_M[:, None, None] * size_A[:, None],
        (1 - mean_M)[:, None, None] * size_A[:, None],
    )
    prior_MA = np.log(mean_M * (1 - mean_M))[:, None] + np.log(alike_A * (1 - alike_A))
    fit_DMA = np.tensordot(times_DC, chance, axes=(1, 2)) + prior_MA
    posterior_DM = np.exp(fit_DMA - fit_DMA.max(axis=(1, 2), keepdims=True)).sum(axis=2).cumsum(axis=1)
    posterior_DM /= posterior_DM[:, -1:]
    low_D, high_D = (mean_M[(posterior_DM < tail).sum(axis=1)] for tail in (0.025, 0.975))
    return exact(low_D, high_D, values_DN)


def resampled(kind: str, resamples: int = 999) -> Formula:
    """By problem: percentiles of the Bayesian bootstrap, BCa, or the studentised bootstrap."""

    def ends(values_DN: np.ndarray, samples: int) -> Ends:
        n = values_DN.shape[1]
        rng = generator(kind, n)
        weights_NB = (
            rng.dirichlet(np.ones(n), resamples) if kind == "bayes" else rng.multinomial(n, [1 / n] * n, resamples) / n
        ).T
        mean_D, error_D, _ = moments(values_DN)
        means_DB = values_DN @ weights_NB
        if kind == "studentised":
            errors_DB = np.sqrt(np.maximum(values_DN**2 @ weights_NB - means_DB**2, 1e-12) / (n - 1))
            low_D, high_D = np.quantile((means_DB - mean_D[:, None]) / errors_DB, (0.025, 0.975), axis=1)
            return exact(mean_D - high_D * error_D, mean_D - low_D * error_D, values_DN)
        tails = np.tile([[0.025, 0.975]], (len(mean_D), 1))
        if kind == "bca":
            below_D = (
                (means_DB < mean_D[:, None] - 1e-12).mean(axis=1) + (means_DB <= mean_D[:, None] + 1e-12).mean(axis=1)
            ) / 2
            z_D = stats.norm.ppf(np.clip(below_D, 1e-3, 1 - 1e-3))[:, None]
            skew_D = ((values_DN - mean_D[:, None]) ** 3).mean(axis=1) / (error_D * np.sqrt(n - 1)) ** 3
            shifted = z_D + stats.norm.ppf(tails)
            tails = stats.norm.cdf(z_D + shifted / (1 - skew_D[:, None] / (6 * np.sqrt(n)) * shifted))
        sorted_DB = np.sort(means_DB, axis=1)
        at = np.clip((tails * resamples).astype(int), 0, resamples - 1)
        return exact(*np.take_along_axis(sorted_DB, at, axis=1).T, values_DN)

    return ends


def empirical_likelihood(values_DN: np.ndarray, samples: int) -> Ends:
    """Owen's, calibrated by F(1, n - 1): weights in proportion to 1 / (1 + tilt value), the tilt by bisection."""
    n = values_DN.shape[1]
    limit = float(stats.f.ppf(0.95, 1, n - 1))

    def lower(values_DN: np.ndarray) -> np.ndarray:
        off_DN = 1 - values_DN
        low_D, high_D = np.zeros(len(off_DN)), (1 - 1e-9) / np.maximum(off_DN.max(axis=1), 1e-12)
        for _ in range(60):
            tilt_D = (low_D + high_D) / 2
            weights_DN = 1 / (1 - tilt_D[:, None] * off_DN)
            weights_DN /= weights_DN.sum(axis=1, keepdims=True)
            near_D = -2 * np.log(n * weights_DN).sum(axis=1) <= limit
            low_D, high_D = np.where(near_D, tilt_D, low_D), np.where(near_D, high_D, tilt_D)
        return (weights_DN * values_DN).sum(axis=1)

    return mirrored(lower, values_DN)


def reported(values_DN: np.ndarray, samples: int) -> Ends:
    low_D, high_D = np.array([mean_estimate(values_N).ci95 for values_N in values_DN]).T
    return low_D, high_D


BEFORE, REPORTED = "Hall 1992 within Wilson: reported before", "Hall 1992 within Wilson + unseen problems: reported"
FORMULAS: dict[str, Formula] = {
    "Student's t (Miller 2024)": student,
    "Wilson, effective sample size (Korn & Graubard 1998; Dean & Pagano 2015)": effective_wilson,
    "t on the logit": transformed(
        lambda p: np.log(p / (1 - p)), lambda x: 1 / (1 + np.exp(-x)), lambda p: 1 / (p * (1 - p))
    ),
    "t on the arcsine of the root": transformed(
        lambda p: np.arcsin(np.sqrt(p)),
        lambda x: np.sin(np.clip(x, 0, np.pi / 2)) ** 2,
        lambda p: 1 / (2 * np.sqrt(p * (1 - p))),
    ),
    "studentised bootstrap": resampled("studentised"),
    "BCa bootstrap": resampled("bca"),
    "Bayesian bootstrap": resampled("bayes"),
    "empirical likelihood, F": empirical_likelihood,
    "beta-binomial, flat prior on the correlation": beta_binomial,
    "betting (Waudby-Smith & Ramdas 2024)": betting,
    "Bayesian bootstrap, one problem more (Gaffke 2005; Learned-Miller & Thomas 2019)": dirichlet(1.0),
    "Bayesian bootstrap, half a problem more": dirichlet(0.5),
    "Hall 1992": hall,
    BEFORE: within_wilson,
    "Hall 1992 within Wilson, one problem more (Agresti & Coull 1998)": with_a_problem,
    "Student's t + unseen problems": with_unseen(student),
    "Wilson, effective sample size + unseen problems": with_unseen(effective_wilson),
    "Hall 1992 within Wilson + unseen problems at 5%": with_unseen(within_wilson, 0.05),
    REPORTED: reported,
}


Pair = Callable[[np.ndarray, np.ndarray], Ends]
"""Values of two runs on the same problems -> ends of the second minus the first."""


def paired_student(a_DN: np.ndarray, b_DN: np.ndarray) -> Ends:
    low_D, high_D = np.array([difference_estimate(gains_N).ci95 for gains_N in b_DN - a_DN]).T
    return low_D, high_D


def paired_unseen(a_DN: np.ndarray, b_DN: np.ndarray) -> Ends:
    (low_D, high_D), (least_D, most_D) = paired_student(a_DN, b_DN), unseen((b_DN - a_DN + 1) / 2)
    return np.minimum(low_D, 2 * least_D - 1), np.maximum(high_D, 2 * most_D - 1)


def mover(a_DN: np.ndarray, b_DN: np.ndarray) -> Ends:
    """From the shares' reported intervals and their correlation (Zou & Donner 2008, Stat. Med. 27:1693)."""
    a_D, b_D = a_DN.mean(axis=1), b_DN.mean(axis=1)
    off_a_DN, off_b_DN = a_DN - a_D[:, None], b_DN - b_D[:, None]
    together_D = (off_a_DN * off_b_DN).sum(axis=1)
    alone_D = np.sqrt((off_a_DN**2).sum(axis=1) * (off_b_DN**2).sum(axis=1))
    r_D = np.where(alone_D > 1e-12, together_D / np.maximum(alone_D, 1e-12), 0)
    (low_a_D, high_a_D), (low_b_D, high_b_D) = (with_unseen(within_wilson)(values_DN, 0) for values_DN in (a_DN, b_DN))

    def margin(one_D: np.ndarray, other_D: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(0, one_D**2 - 2 * r_D * one_D * other_D + other_D**2))

    return b_D - a_D - margin(b_D - low_b_D, high_a_D - a_D), b_D - a_D + margin(high_b_D - b_D, a_D - low_a_D)


PAIRED = {"Student's t: reported": paired_student, "+ unseen problems": paired_unseen, "MOVER": mover}


# --- tables --------------------------------------------------------------------------------------------------------


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def head(cells: list[str]) -> None:
    print(row(cells), row(["---"] * len(cells)), sep="\n")


def table(title: str, rows: dict[str, Callable[[int, int], float]], samples: tuple[int, ...] = SAMPLES) -> None:
    """One line for each of `rows`, one column for each N, the K in a cell."""
    print(f"\n{title}: {', '.join(map(str, samples))} samples a problem\n")
    head(["", *(f"N = {n}" for n in PROBLEMS)])
    for name, coverage in rows.items():
        cells = (" ".join(f"{100 * coverage(n, k):.1f}" for k in samples) for n in PROBLEMS)
        print(row([name, *cells]), flush=True)


def before_and_after(title: str, populations: dict[str, Population], sizes: tuple[int, ...]) -> None:
    """Coverage, and mean width in points, of what was reported before and is now."""
    cells: dict[str, dict[str, list[str]]] = {"Coverage": {}, "Mean width": {}}
    for name, population in populations.items():
        for n in sizes:
            coverage, width = zip(*(_old_and_new(population, n, k) for k in SAMPLES))
            for what, found in (("Coverage", coverage), ("Mean width", width)):
                cells[what].setdefault(name, []).extend(
                    " ".join(f"{100 * v:.1f}" for v in side) for side in zip(*found)
                )
    for what, lines in cells.items():
        print(f"\n{title}. {what} before and now: {', '.join(map(str, SAMPLES))} samples a problem\n")
        head(["", *(f"N = {n}{when}" for n in sizes for when in (", before", ", now"))])
        for name, line in lines.items():
            print(row([name, *line]), flush=True)


def _old_and_new(population: Population, n: int, samples: int) -> tuple[list[float], list[float]]:
    values_DN, truth = evaluations(population, n, samples, DRAWS), population.passes(1)
    both = [FORMULAS[name](values_DN, samples) for name in (BEFORE, REPORTED)]
    return [float(holds(ends, truth).mean()) for ends in both], [float((high - low).mean()) for low, high in both]


def report() -> None:
    table("Shares", {name: lambda n, k, p=p: share_coverage(p, n, k) for name, p in POPULATIONS.items()})
    before_and_after("Few problems that carry the number", FEW, FEW_PROBLEMS)
    before_and_after("Shares", POPULATIONS, FEW_PROBLEMS)
    three = {name: POPULATIONS[name] for name in ("uniform on 0 to 1", "20%, Beta(0.2, 0.8)", "5%, Beta(0.1, 1.9)")}
    table(
        "pass@2, pass@4, pass@4", {m: lambda n, k, p=p: pass_coverage(p, n, k) for m, p in three.items()}, SAMPLES[1:]
    )
    names = ("i->c", "c->i", "fix rate", "delta")
    table("Two turns", {name: lambda n, k, m=name: two_turn_coverage(m, n, k) for name in names})
    table("Differences", {name: lambda n, k, m=name: difference_coverage(m, n, k) for name in DIFFERENCES})
    print("\nDifference of two arms, seeds: over problems and seeds (over problems alone)\n")
    spreads = (0.0, 0.1, 0.3, 0.6)
    head(["seeds", *(f"seeds differ by {s} logits" for s in spreads)])
    for seeds in (2, 3, 5):
        both = (seeds_coverage(200, 2, seeds, spread) for spread in spreads)
        print(row([str(seeds), *(f"{100 * two:.1f} ({100 * one:.1f})" for two, one in both)]), flush=True)


def candidates(draws: int = 1000) -> None:
    """Of every formula: how many cells it covers in 93 to 97%, less, more; the least; its mean width over BEFORE's."""
    usual = {name: p for name, p in POPULATIONS.items() if not name.startswith("1%")}
    for title, populations, sizes in (("Usual", usual, PROBLEMS[:4]), ("Few", FEW, FEW_PROBLEMS)):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMULAS}
        for population, n, samples in product(populations.values(), sizes, SAMPLES):
            values_DN, truth = evaluations(population, n, samples, draws), population.passes(1)
            ends = {name: formula(values_DN, samples) for name, formula in FORMULAS.items()}
            usual_width = float((ends[BEFORE][1] - ends[BEFORE][0]).mean())
            for name, (low_D, high_D) in ends.items():
                hits = 100 * float(holds((low_D, high_D), truth).mean())
                found[name].append((hits, float((high_D - low_D).mean()) / usual_width))
        print(f"\n{title}\n")
        head(["formula", "below 93%", "93 to 97%", "above 97%", "least", "width: median", "most"])
        for name, cells in found.items():
            hits_C, width_C = np.array(cells).T
            counts = [(hits_C < 93).sum(), ((hits_C >= 93) & (hits_C <= 97)).sum(), (hits_C > 97).sum()]
            numbers = [f"{hits_C.min():.1f}", f"{np.median(width_C):.2f}", f"{width_C.max():.2f}"]
            print(row([name, *map(str, counts), *numbers]), flush=True)


def paired_candidates(draws: int = 1000) -> None:
    """Of every formula for a difference, the least coverage over N = 20, 30, 100 and all K, and the mean width in
    points for 30 problems x 64 samples.
    """
    print("\nDifferences: least coverage, mean width for N = 30, K = 64\n")
    head(["", *PAIRED])
    for name in DIFFERENCES:
        least, width = dict.fromkeys(PAIRED, 100.0), dict.fromkeys(PAIRED, 0.0)
        for n, samples in product(FEW_PROBLEMS, SAMPLES):
            first_DN, second_DN, truth = two_runs(name, n, samples, draws)
            for formula, pair in PAIRED.items():
                low_D, high_D = pair(first_DN, second_DN)
                least[formula] = min(least[formula], 100 * float(holds((low_D, high_D), truth).mean()))
                if (n, samples) == (30, 64):
                    width[formula] = 100 * float((high_D - low_D).mean())
        print(row([name, *(f"{least[formula]:.1f}%, {width[formula]:.1f}" for formula in PAIRED)]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", action="store_true", help="compare formulas")
    if parser.parse_args().candidates:
        candidates()
        paired_candidates()
    else:
        report()
