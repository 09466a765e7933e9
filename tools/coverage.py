"""How often 95% intervals hold the truth, by simulation; the tables of docs/validation/intervals.md.

    python tools/coverage.py                  # what scrpo reports: shares, pass@k, ratios, differences, seeds
    python tools/coverage.py --candidates     # every formula that was considered, on shares

A population gives each problem a success rate; a draw has N problems of it with K answers each. Coverage is the share
of draws whose interval holds the population's number; over 4,000 draws its standard error is 0.3 points.
Shapes: D draws, N problems, B bootstrap resamples.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import betaln

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


def generator(*key: object) -> Rng:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def share_of_hits(estimates: Iterator, truth: float) -> float:
    found = np.array([estimate.ci95 for estimate in estimates])
    return float(((found[:, 0] <= truth + 1e-9) & (truth - 1e-9 <= found[:, 1])).mean())


# --- what is reported ----------------------------------------------------------------------------------------------


def share_coverage(population: Population, n: int, samples: int, draws: int = DRAWS) -> float:
    rng = generator(population, n, samples)
    means_DN = rng.binomial(samples, population.rates(rng, (draws, n))) / samples
    return share_of_hits(map(mean_estimate, means_DN), population.passes(1))


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
}
"""Two runs on the same problems: success rates of the first, share of problems that have another one under the second,
and the Beta distribution of those."""


def difference_coverage(name: str, n: int, samples: int, draws: int = DRAWS) -> float:
    population, moved, (a, b) = DIFFERENCES[name]
    rng = generator("difference", name, n, samples)
    before_DN = population.rates(rng, (draws, n))
    after_DN = np.where(rng.random((draws, n)) < moved, rng.beta(a, b, (draws, n)), before_DN)
    gains_DN = (rng.binomial(samples, after_DN) - rng.binomial(samples, before_DN)) / samples
    return share_of_hits(map(difference_estimate, gains_DN), moved * (a / (a + b) - population.passes(1)))


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


Covers = Callable[[np.ndarray, float], np.ndarray]
"""(values_DN in [0, 1], truth) -> which draws hold the truth."""


def between(low_D: np.ndarray, high_D: np.ndarray, values_DN: np.ndarray, truth: float) -> np.ndarray:
    """With the exact bound where nothing varies, which every candidate needs."""
    flat_D, mean_D = np.ptp(values_DN, axis=1) == 0, values_DN.mean(axis=1)
    q = 1 - 0.025 ** (1 / values_DN.shape[1])
    low_D, high_D = np.where(flat_D, mean_D * (1 - q), low_D), np.where(flat_D, mean_D + q * (1 - mean_D), high_D)
    return (low_D <= truth) & (truth <= high_D)


def moments(values_DN: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, its clustered standard error (never 0) and Student's t."""
    n = values_DN.shape[1]
    error_D = values_DN.std(axis=1, ddof=1) / np.sqrt(n)
    return values_DN.mean(axis=1), np.maximum(error_D, 1e-12), float(stats.t.ppf(0.975, n - 1))


def student(values_DN: np.ndarray, truth: float) -> np.ndarray:
    mean_D, error_D, t = moments(values_DN)
    return between(mean_D - t * error_D, mean_D + t * error_D, values_DN, truth)


def wilson(values_DN: np.ndarray, truth: float) -> np.ndarray:
    mean_D, error_D, t = moments(values_DN)
    n_D = np.maximum(mean_D * (1 - mean_D), 1e-12) / error_D**2
    center_D, scale_D = mean_D + t**2 / (2 * n_D), 1 + t**2 / n_D
    margin_D = t * np.sqrt(mean_D * (1 - mean_D) / n_D + t**2 / (4 * n_D**2))
    return between((center_D - margin_D) / scale_D, (center_D + margin_D) / scale_D, values_DN, truth)


def transformed(forth: Callable, back: Callable, slope: Callable) -> Covers:
    def covers(values_DN: np.ndarray, truth: float) -> np.ndarray:
        mean_D, error_D, t = moments(values_DN)
        inside_D = np.clip(mean_D, 1e-9, 1 - 1e-9)
        margin_D = t * error_D * slope(inside_D)
        return between(back(forth(inside_D) - margin_D), back(forth(inside_D) + margin_D), values_DN, truth)

    return covers


def hall(values_DN: np.ndarray, truth: float) -> np.ndarray:
    mean_D, error_D, t = moments(values_DN)
    n = values_DN.shape[1]
    spread_D = error_D * np.sqrt(n - 1)
    skew_D = ((values_DN - mean_D[:, None]) ** 3).mean(axis=1) / spread_D**3
    T = (mean_D - truth) / spread_D
    g = T + skew_D * T**2 / 3 + skew_D**2 * T**3 / 27 + skew_D / (6 * n)
    hit_D = np.abs(g) <= t / np.sqrt(n - 1)
    flat_D = np.ptp(values_DN, axis=1) == 0
    return np.where(flat_D, between(mean_D, mean_D, values_DN, truth), hit_D)


def resampled(kind: str, resamples: int = 999) -> Covers:
    """By problem: percentiles of the Bayesian bootstrap, BCa, or the studentised bootstrap."""

    def covers(values_DN: np.ndarray, truth: float) -> np.ndarray:
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
            return between(mean_D - high_D * error_D, mean_D - low_D * error_D, values_DN, truth)
        ends = np.tile([[0.025, 0.975]], (len(mean_D), 1))
        if kind == "bca":
            below_D = (
                (means_DB < mean_D[:, None] - 1e-12).mean(axis=1) + (means_DB <= mean_D[:, None] + 1e-12).mean(axis=1)
            ) / 2
            z_D = stats.norm.ppf(np.clip(below_D, 1e-3, 1 - 1e-3))[:, None]
            skew_D = ((values_DN - mean_D[:, None]) ** 3).mean(axis=1) / (error_D * np.sqrt(n - 1)) ** 3
            shifted = z_D + stats.norm.ppf(ends)
            ends = stats.norm.cdf(z_D + shifted / (1 - skew_D[:, None] / (6 * np.sqrt(n)) * shifted))
        sorted_DB = np.sort(means_DB, axis=1)
        at = np.clip((ends * resamples).astype(int), 0, resamples - 1)
        low_D, high_D = np.take_along_axis(sorted_DB, at, axis=1).T
        return between(low_D, high_D, values_DN, truth)

    return covers


def empirical_likelihood(values_DN: np.ndarray, truth: float) -> np.ndarray:
    """Owen's, calibrated by F(1, n - 1); the multiplier by bisection."""
    n, off_DN = values_DN.shape[1], values_DN - truth
    inside_D = (off_DN.min(axis=1) < 0) & (off_DN.max(axis=1) > 0)
    low_D = np.where(inside_D, -1 / np.where(inside_D, off_DN.max(axis=1), 1), 0) * (1 - 1e-9)
    high_D = np.where(inside_D, -1 / np.where(inside_D, off_DN.min(axis=1), -1), 0) * (1 - 1e-9)
    for _ in range(60):
        middle_D = (low_D + high_D) / 2
        up_D = (off_DN / (1 + middle_D[:, None] * off_DN)).sum(axis=1) > 0
        low_D, high_D = np.where(up_D, middle_D, low_D), np.where(up_D, high_D, middle_D)
    ratio_D = 2 * np.log1p(np.clip(low_D[:, None] * off_DN, -1 + 1e-12, None)).sum(axis=1)
    hit_D = inside_D & (ratio_D <= stats.f.ppf(0.95, 1, n - 1))
    flat_D = np.ptp(values_DN, axis=1) == 0
    return np.where(flat_D, between(values_DN[:, 0], values_DN[:, 0], values_DN, truth), hit_D)


def reported(values_DN: np.ndarray, truth: float) -> np.ndarray:
    found = np.array([mean_estimate(values_N).ci95 for values_N in values_DN])
    return (found[:, 0] <= truth) & (truth <= found[:, 1])


CANDIDATES: dict[str, Covers] = {
    "Student's t (Miller 2024)": student,
    "Wilson, effective sample size (Korn & Graubard 1998; Dean & Pagano 2015)": wilson,
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
    "Hall 1992": hall,
    "Hall 1992 within Wilson: reported": reported,
}


# --- tables --------------------------------------------------------------------------------------------------------


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(title: str, rows: dict[str, Callable[[int, int], float]], samples: tuple[int, ...] = SAMPLES) -> None:
    """One line for each of `rows`, one column for each N, the K in a cell."""
    print(f"\n{title}: {', '.join(map(str, samples))} samples a problem\n")
    print(row(["", *(f"N = {n}" for n in PROBLEMS)]), row(["---"] * (len(PROBLEMS) + 1)), sep="\n")
    for name, coverage in rows.items():
        cells = (" ".join(f"{100 * coverage(n, k):.1f}" for k in samples) for n in PROBLEMS)
        print(row([name, *cells]), flush=True)


def report() -> None:
    table("Shares", {name: lambda n, k, p=p: share_coverage(p, n, k) for name, p in POPULATIONS.items()})
    some = {name: POPULATIONS[name] for name in ("uniform on 0 to 1", "20%, Beta(0.2, 0.8)", "5%, Beta(0.1, 1.9)")}
    table("pass@2, pass@4, pass@4", {m: lambda n, k, p=p: pass_coverage(p, n, k) for m, p in some.items()}, SAMPLES[1:])
    names = ("i->c", "c->i", "fix rate", "delta")
    table("Two turns", {name: lambda n, k, m=name: two_turn_coverage(m, n, k) for name in names})
    table("Differences", {name: lambda n, k, m=name: difference_coverage(m, n, k) for name in DIFFERENCES})
    print("\nDifference of two arms, seeds: over problems and seeds (over problems alone)\n")
    spreads = (0.0, 0.1, 0.3, 0.6)
    print(row(["seeds", *(f"seeds differ by {s} logits" for s in spreads)]), row(["---"] * 5), sep="\n")
    for seeds in (2, 3, 5):
        both = (seeds_coverage(200, 2, seeds, spread) for spread in spreads)
        print(row([str(seeds), *(f"{100 * two:.1f} ({100 * one:.1f})" for two, one in both)]), flush=True)


def candidates(draws: int = 2000) -> None:
    """Of every candidate, over all cells but those of 1%: how many cover 93 to 97%, less, more, and the extremes."""
    found: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    cells = [
        (p, n, k) for name, p in POPULATIONS.items() if not name.startswith("1%") for n in PROBLEMS[:4] for k in SAMPLES
    ]
    for population, n, samples in cells:
        rng = generator(population, n, samples)
        means_DN = rng.binomial(samples, population.rates(rng, (draws, n))) / samples
        for name, covers in CANDIDATES.items():
            found[name].append(100 * float(covers(means_DN, population.passes(1)).mean()))
    print(row(["", "below 93%", "93 to 97%", "above 97%", "least", "most"]), row(["---"] * 6), sep="\n")
    for name, values in found.items():
        below, above = sum(v < 93 for v in values), sum(v > 97 for v in values)
        numbers = [str(below), str(len(values) - below - above), str(above), f"{min(values):.1f}", f"{max(values):.1f}"]
        print(row([name, *numbers]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", action="store_true", help="compare formulas")
    candidates() if parser.parse_args().candidates else report()
