"""Confidence sequences: the formula against numerical integration, and how often they err while they are looked at."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from scrpo_cli.evaluation.sequential import (
    EFFECTS,
    half_width,
    interval,
    normal_outlook,
    outlook,
    spread_of,
    values_needed,
)

STUDIES, MOST = 4000, 40
ERROR = 3 * math.sqrt(0.05 * 0.95 / STUDIES)
"""Three standard errors of a simulated share of 5%."""


def evidence(t, n):
    """E_n as it is defined: the density of t, mixed over the size of the effect, against the one without an effect."""

    def mixed(delta):
        return stats.nct.pdf(t, n - 1, math.sqrt(n) * delta) * stats.norm.pdf(delta, scale=math.sqrt(EFFECTS))

    value, _ = integrate.quad(mixed, -12, 12, points=[0, t / math.sqrt(n)], limit=400)
    return value / stats.t.pdf(t, n - 1)


@pytest.mark.parametrize("n", [4, 5, 8, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_interval_ends_where_the_evidence_is_one_over_alpha(n, alpha):
    reach = half_width(n, 1.0, alpha)
    if math.isinf(reach):
        assert evidence(1e3, n) < 1 / alpha, "no t is evidence enough"
    else:
        assert evidence(math.sqrt(n) * reach, n) == pytest.approx(1 / alpha, rel=1e-3)


def takes_off(rng, share, noise=0.05):
    """(B, S) runs of which some take off and the others do not, less their mean."""
    return (rng.random((STUDIES, MOST)) < share) - share + rng.normal(0, noise, (STUDIES, MOST))


def errs(values_BS, first=2, least=0.0):
    """How often studies that look after every value find the mean of 0 on one side of 0."""
    told = outlook(values_BS, 0.0, first, least)
    return told.right_S[-1] + told.wrong_S[-1]


def test_looking_after_every_value_errs_in_five_per_cent_at_most():
    rng = np.random.default_rng(1)
    normal_BS = rng.normal(0, 3, (STUDIES, MOST))
    assert errs(normal_BS) <= 0.05 + ERROR
    assert errs(rng.standard_t(5, (STUDIES, MOST))) <= 0.05 + ERROR
    fixed_BS = np.array([[abs(stats.t.ppf(0.025, n - 1)) if n > 1 else 1e9 for n in range(1, MOST + 1)]])
    n_S = np.arange(1, MOST + 1)
    mean_BS = normal_BS.cumsum(axis=1) / n_S
    spread_BS = np.array([[row[:n].std(ddof=1) if n > 1 else 0 for n in n_S] for row in normal_BS[:500]])
    peeking = (np.abs(mean_BS[:500]) > fixed_BS * spread_BS / np.sqrt(n_S))[:, 2:].any(axis=1).mean()
    assert peeking > 0.2, "what an ordinary interval does there"


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_a_stated_spread_protects_where_few_runs_take_off(share):
    values_BS = takes_off(np.random.default_rng(2), share)
    spread = math.sqrt(share * (1 - share) + 0.05**2)
    assert errs(values_BS, first=5, least=spread) <= 0.05
    if share <= 0.2:
        assert errs(values_BS, first=5) > 0.15, "what a study risks that believes a few seeds"


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.floats(0, 1), st.floats(0.001, 0.2))
def test_a_larger_stated_spread_and_surer_answers_only_widen(values, least, alpha):
    low, high = interval(values, 0.0, alpha)
    wider = interval(values, least, alpha)
    surer = interval(values, 0.0, alpha / 2)
    assert wider[0] <= low <= high <= wider[1]
    assert surer[0] <= low <= high <= surer[1]
    assert spread_of(values, least) >= least


@pytest.mark.parametrize("values", [[], [0.3]])
def test_one_value_says_nothing(values):
    assert spread_of(values, 0.2) == 0.2
    if values:
        assert interval(values) == (-math.inf, math.inf)


def test_the_outlook_is_what_single_studies_do():
    rng = np.random.default_rng(3)
    values_BS = rng.normal(0.5, 0.6, (300, 15))
    told = outlook(values_BS, 0.0, 4, 0.4)
    right, wrong, ends = np.zeros(15), np.zeros(15), []
    for row in values_BS:
        end = 15
        for n in range(4, 16):
            low, high = interval(row[:n], 0.4)
            if low > 0 or high < 0:
                (right if low > 0 else wrong)[n - 1 :] += 1
                end = n
                break
        ends.append(end)
    assert told.right_S == pytest.approx(right / 300)
    assert told.wrong_S == pytest.approx(wrong / 300)
    assert told.mean_values == pytest.approx(np.mean(ends))
    assert told.needed(0.5) == int((right / 300 >= 0.5).argmax()) + 1
    assert told.needed(1.1) is None


def test_more_seeds_and_larger_effects_are_surer():
    small, large = normal_outlook(3, 4, 5, 60), normal_outlook(5, 4, 5, 60)
    assert small.right_S[-1] < large.right_S[-1]
    assert large.needed(0.8) < small.needed(0.8)
    assert values_needed(5, 4) < values_needed(3, 4)
    assert values_needed(0.0, 1) is None
