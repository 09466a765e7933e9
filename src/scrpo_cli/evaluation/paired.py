"""The one paired comparison, used wherever two things were tried on the same problems: two runs, before and after
training, two turns, two arms of a sweep, a gate and none. Difference, interval, exact test and a verdict in words.

The problem is the unit: if the runs were equally good at it, which of its two results came from which run would be a
coin flip. The test counts how many of all such flips give a difference as large (Fisher's randomisation test). With one
answer a problem it is McNemar's exact test.

Shapes: N problems, K samples; NaN marks answers that do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from scrpo_cli.evaluation.outcomes import problem_means
from scrpo_cli.evaluation.stats import ALPHA, Estimate, difference_estimate

UNDECIDED = "the data cannot tell these apart"
HIGHER, LOWER = "higher", "lower"
FLIPS = 20_000  # where the flips are too many to count
EXACT_WORK = 2e8  # additions
_FINEST = 10_000  # largest common denominator of shares that are counted exactly


class Test(NamedTuple):
    """A two-sided p and the name of the test that it comes from."""

    p: float
    name: str


def compare(a_NK: np.ndarray, b_NK: np.ndarray, scale: float = 1.0) -> dict[str, Any] | None:
    """b - a of the mean over problems of each problem's mean, row by row (K may differ); differences lie within `scale`
    of 0. {a, b, difference, ci95, p, test, n, verdict}, or None where no problem counts on both sides.
    """
    if len(a_NK) != len(b_NK):
        raise ValueError(f"a paired comparison needs the same problems: {len(a_NK)} and {len(b_NK)}")
    a_N, b_N = problem_means(a_NK), problem_means(b_NK)
    both_N = ~np.isnan(a_N + b_N)
    if not both_N.any():
        return None
    a_N, b_N = a_N[both_N], b_N[both_N]
    value, (low, high) = difference_estimate((b_N - a_N) / scale)
    estimate = Estimate(scale * value, (scale * low, scale * high))
    return _report(float(a_N.mean()), float(b_N.mean()), estimate, flip_signs(b_N - a_N), int(both_N.sum()))


def compare_ratios(
    a_top_N: np.ndarray, a_bottom_N: np.ndarray, b_top_N: np.ndarray, b_bottom_N: np.ndarray
) -> dict[str, Any] | None:
    """b - a of two ratios of sums; None where one of them has no denominator. Each problem counts by how far it moves
    the difference (the delta method, as in `ratio_estimate`), and is swapped between the runs as a whole.
    """
    if not (a_bottom_N.sum() and b_bottom_N.sum()):
        return None
    used_N = (a_bottom_N + b_bottom_N) > 0
    tops, bottoms = np.stack([a_top_N, b_top_N])[:, used_N], np.stack([a_bottom_N, b_bottom_N])[:, used_N]
    a, b = tops.sum(axis=1) / bottoms.sum(axis=1)
    moved = (tops - np.array([[a], [b]]) * bottoms) / bottoms.mean(axis=1, keepdims=True)
    estimate = difference_estimate(b - a + moved[1] - moved[0])
    return _report(float(a), float(b), estimate, swap_ratios(tops, bottoms), int(used_N.sum()))


def flip_signs(differences_N: np.ndarray) -> Test:
    """How often flipped signs give a mean as far from 0. Counted exactly where the differences have a small common
    denominator (means of outcomes do): the sum of the flipped whole numbers is built up problem by problem.
    """
    sizes_N = np.abs(differences_N)
    unit = math.lcm(*(Fraction(size).limit_denominator(_FINEST).denominator for size in np.unique(sizes_N).tolist()))
    if unit > _FINEST:
        return _drawn_flips(differences_N)
    whole_N = np.rint(sizes_N * unit).astype(int)
    total = int(whole_N.sum())
    if np.abs(whole_N - sizes_N * unit).max() > 1e-6 or len(whole_N) * total > EXACT_WORK:
        return _drawn_flips(differences_N)
    chance = np.zeros(total + 1)  # of each sum of those that keep their sign
    chance[0] = 1.0
    for size in whole_N[whole_N > 0]:
        chance[size:], chance[:size] = (chance[size:] + chance[: total + 1 - size]) / 2, chance[:size] / 2
    seen = abs(round(float((differences_N * unit).sum())))
    extreme = np.abs(2 * np.arange(total + 1) - total) >= seen
    name = "McNemar, exact" if set(whole_N.tolist()) in ({unit}, {0, unit}) else "sign flips, exact"
    return Test(min(1.0, float(chance[extreme].sum())), name)


def swap_ratios(tops_2N: np.ndarray, bottoms_2N: np.ndarray) -> Test:
    """The same for the difference of two ratios, over FLIPS random swaps of whole problems."""
    seen = tops_2N[1].sum() / bottoms_2N[1].sum() - tops_2N[0].sum() / bottoms_2N[0].sum()

    def sums(values_2N: np.ndarray, swapped: np.ndarray) -> np.ndarray:
        moved = swapped @ (values_2N[1] - values_2N[0])
        return np.stack([values_2N[0].sum() + moved, values_2N[1].sum() - moved])

    def extreme(swapped: np.ndarray) -> int:
        bottoms = sums(bottoms_2N, swapped)
        a, b = sums(tops_2N, swapped) / np.where(bottoms > 0, bottoms, 1.0)
        return int((np.abs(b - a) >= abs(seen) - 1e-12).sum())

    return _drawn(extreme, tops_2N.shape[1])


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for so many comparisons (Holm 1979, Scand. J. Stat. 6:65): the chance of one false finding or more."""
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()


def in_words(estimate: Estimate, p: float) -> str:
    """`higher` or `lower` where interval and test both say so; what they say where they do not agree."""
    low, high = estimate.ci95
    inside = low <= 0 <= high
    if inside == (p >= ALPHA):
        return UNDECIDED if inside else HIGHER if low > 0 else LOWER
    why = "the test alone leaves 0 out" if inside else "the interval alone leaves 0 out"
    return f"{UNDECIDED}: {why}, and both have to"


def _report(a: float, b: float, estimate: Estimate, test: Test, n: int) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "difference": estimate.value,
        "ci95": list(estimate.ci95),
        "p": test.p,
        "test": test.name,
        "n": n,
        "verdict": in_words(estimate, test.p),
    }


def _drawn_flips(differences_N: np.ndarray) -> Test:
    seen = abs(differences_N.sum()) - 1e-12
    return _drawn(lambda coins: int((np.abs((2.0 * coins - 1) @ differences_N) >= seen).sum()), len(differences_N))


def _drawn(extreme: Callable[[np.ndarray], int], n: int) -> Test:
    """Over FLIPS draws of n coins, in parts that fit into memory. What was seen counts as one of them (Phipson & Smyth
    2010, Stat. Appl. Genet. Mol. Biol. 9:39), so p is never 0.
    """
    rng, part = np.random.default_rng(0), 1000
    count = sum(extreme((rng.random((part, n)) < 0.5).astype(float)) for _ in range(FLIPS // part))
    return Test((1 + count) / (1 + FLIPS), f"{FLIPS:,} random flips")
