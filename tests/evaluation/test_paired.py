from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from scrpo_cli.evaluation.metrics import compare_two_turns, two_turn
from scrpo_cli.evaluation.paired import UNDECIDED, compare, flip_signs, holm, in_words, swap_ratios
from scrpo_cli.evaluation.stats import Estimate

NAN = np.nan


def flips(differences_N):
    """Every pattern of signs, counted one by one."""
    sums = [abs(np.dot(signs, differences_N)) for signs in product((1, -1), repeat=len(differences_N))]
    return np.mean(np.array(sums) >= abs(sum(differences_N)) - 1e-9)


@given(arrays(float, st.integers(1, 9), elements=st.sampled_from([-1, -0.75, -0.5, -0.25, 0, 0.25, 1 / 3, 1])))
def test_flips_are_counted_exactly(differences_N):
    assert flip_signs(differences_N).p == pytest.approx(flips(differences_N))


def test_one_sample_a_problem_is_mcnemar():
    # 12 problems only b solves, 3 only a, 40 alike: 2 P(X <= 3), X of Binomial(15, 1/2)
    test = flip_signs(np.array([1.0] * 12 + [-1.0] * 3 + [0.0] * 40))
    assert test == (pytest.approx(stats.binomtest(3, 15).pvalue), "McNemar, exact")


def test_flips_of_many_uneven_numbers_are_drawn():
    rng = np.random.default_rng(3)
    differences_N = rng.normal(0.2, 1, 12)
    test = flip_signs(differences_N)
    assert test.name == "20,000 random flips"
    assert test.p == pytest.approx(flips(differences_N), abs=0.015)  # four standard errors


def test_equal_runs():
    assert flip_signs(np.zeros(5)).p == 1.0
    same_NK = np.array([[1, 0], [1, 1], [0, 0]])
    result = compare(same_NK, same_NK)
    assert (result["difference"], result["p"], result["verdict"]) == (0.0, 1.0, UNDECIDED)


def test_swapped_problems_of_a_ratio():
    tops, bottoms = np.array([[1.0, 0, 2, 1], [2.0, 1, 2, 0]]), np.array([[2.0, 1, 3, 4], [2.0, 3, 2, 1]])

    def difference(swaps):
        a, b = zip(*[(m, n) if swap else (n, m) for n, m, swap in zip(range(4), range(4, 8), swaps)])
        t, w = tops.ravel(), bottoms.ravel()
        return t[list(b)].sum() / w[list(b)].sum() - t[list(a)].sum() / w[list(a)].sum()

    seen = difference((0, 0, 0, 0))
    exact = np.mean([abs(difference(s)) >= abs(seen) - 1e-12 for s in product((0, 1), repeat=4)])
    assert swap_ratios(tops, bottoms).p == pytest.approx(exact, abs=0.015)


def test_two_turns_are_the_differences_of_their_numbers():
    rng = np.random.default_rng(5)
    a1, a2, b1, b2 = (rng.integers(0, 2, (40, 4)).astype(float) for _ in range(4))
    a1[0, 0] = b2[3, 1] = NAN
    found, a, b = compare_two_turns(a1, a2, b1, b2), two_turn(a1, a2), two_turn(b1, b2)
    assert list(found) == ["t2", "delta", "i2c", "c2i", "fix_rate"]
    for name, number in found.items():
        assert (number["a"], number["b"]) == pytest.approx((a[name]["value"], b[name]["value"]))
        assert number["difference"] == pytest.approx(b[name]["value"] - a[name]["value"])
        low, high = number["ci95"]
        assert low < number["difference"] < high
        assert number["verdict"] == UNDECIDED  # coins on both sides


def test_delta_may_differ_by_more_than_one():
    right, wrong = np.ones((20, 1)), np.zeros((20, 1))
    delta = compare_two_turns(right, wrong, wrong, right)["delta"]
    assert (delta["difference"], delta["verdict"]) == (2.0, "higher")


def test_no_fix_rate_where_nothing_was_wrong():
    right = np.ones((4, 2))
    assert "fix_rate" not in compare_two_turns(right, right, 1 - right, right)


def test_interval_and_test_both_decide():
    assert in_words(Estimate(0.1, (0.02, 0.18)), 0.01) == "higher"
    assert in_words(Estimate(-0.1, (-0.18, -0.02)), 0.01) == "lower"
    assert in_words(Estimate(0.1, (-0.02, 0.22)), 0.1) == UNDECIDED
    assert (
        in_words(Estimate(0.1, (0.01, 0.19)), 0.06) == f"{UNDECIDED}: the interval alone leaves 0 out, and both have to"
    )
    assert in_words(Estimate(0.1, (-0.01, 0.21)), 0.04) == f"{UNDECIDED}: the test alone leaves 0 out, and both have to"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_no_problem_in_common():
    assert compare(np.array([[NAN], [1.0]]), np.array([[1.0], [NAN]])) is None


def test_false_findings_are_rare():
    """2,000 pairs of equally good runs on 40 problems: at most 5% are called different."""
    rng = np.random.default_rng(11)
    rates_N = rng.beta(0.3, 0.6, (2000, 40, 1))
    a, b = (rng.binomial(1, rates_N, (2000, 40, 4)).astype(float) for _ in range(2))
    called = [compare(x, y)["verdict"] in ("higher", "lower") for x, y in zip(a, b)]
    assert np.mean(called) <= 0.06
