import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.stats import mean_estimate, p_value, ratio_estimate

SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def test_mean_interval_by_hand():
    # means 0.25 0.5 0.75: mean 0.5, sd 0.25, se 0.25 / sqrt(3), t(0.975, 2) = 4.3027
    estimate = mean_estimate(np.array([0.25, 0.5, 0.75]), low=-9, high=9)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.ci95 == pytest.approx((0.5 - 4.302653 * 0.1443376, 0.5 + 4.302653 * 0.1443376), abs=1e-6)


def test_interval_stays_inside_its_range():
    assert mean_estimate(np.array([0.25, 0.5, 0.75])).ci95 == (0.0, 1.0)


def test_one_sample_a_problem_is_an_exact_binomial():
    # 8 of 10: the textbook Clopper-Pearson interval
    estimate = mean_estimate(np.array([1.0] * 8 + [0.0] * 2))
    assert estimate.value == 0.8
    assert estimate.ci95 == pytest.approx((0.4439, 0.9748), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_no_variance_is_not_certainty(value):
    low, high = mean_estimate(np.full(50, value)).ci95
    assert low <= value <= high
    assert high - low > 0.05


def test_no_variance_meets_the_binomial_at_its_ends():
    # the general bound and Clopper-Pearson agree where both apply: 20 successes in 20
    exact = mean_estimate(np.ones(20)).ci95
    bound = mean_estimate(np.ones(20), low=0.0, high=2.0).ci95
    assert bound[0] == pytest.approx(exact[0])


def test_one_problem_says_almost_nothing():
    low, high = mean_estimate(np.array([0.5])).ci95
    assert low < 0.05
    assert high > 0.95


def test_ratio_by_hand():
    # repaired (1, 1, 0) of wrong (1, 2, 1): r = 2/4; residuals 0.5, 0, -0.5; se = sqrt(3/2 * 0.5) / 4
    estimate = ratio_estimate(np.array([1, 1, 0]), np.array([1, 2, 1]), low=-9, high=9)
    margin = 4.302653 * np.sqrt(0.75) / 4
    assert estimate.value == 0.5
    assert estimate.ci95 == pytest.approx((0.5 - margin, 0.5 + margin), abs=1e-6)


def test_problems_without_denominator_do_not_narrow_the_ratio():
    numerator_N, denominator_N = np.array([1, 1, 0]), np.array([1, 2, 1])
    padded = ratio_estimate(np.append(numerator_N, [0] * 9), np.append(denominator_N, [0] * 9))
    assert padded == ratio_estimate(numerator_N, denominator_N)


def test_equal_denominators_make_the_ratio_a_mean():
    values_N = np.array([0.25, 0.5, 0.75, 1.0])
    assert ratio_estimate(4 * values_N, np.full(4, 4)).ci95 == pytest.approx(mean_estimate(values_N).ci95)


@pytest.mark.parametrize("denominator", [[], [0, 0]])
def test_nothing_to_average_is_a_clear_error(denominator):
    with pytest.raises(UserError, match="no problem has a graded answer"):
        ratio_estimate(np.zeros(len(denominator)), np.array(denominator))


def test_p_value_is_the_paired_t_test():
    a_N, b_N = np.array([0.0, 0.5, 0.5, 0.25]), np.array([0.5, 1.0, 0.75, 0.25])
    assert p_value(b_N - a_N) == pytest.approx(scipy_stats.ttest_rel(b_N, a_N).pvalue)


def test_p_value_without_variance_is_the_sign_flip_test():
    assert p_value(np.ones(6)) == pytest.approx(2 * 0.5**6)  # two of the 64 sign patterns are as extreme
    assert p_value(np.zeros(6)) == 1.0
    assert p_value(np.array([1.0])) == 1.0


@given(arrays(float, st.integers(1, 30), elements=SHARES), arrays(float, 30, elements=SHARES))
def test_p_and_interval_agree(a_N, b_30):
    differences_N = b_30[: len(a_N)] - a_N
    low, high = mean_estimate(differences_N, low=-1.0).ci95
    p = p_value(differences_N)
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (not low <= 0 <= high)


@given(arrays(float, st.integers(1, 40), elements=SHARES))
def test_interval_holds_its_value(values_N):
    estimate = mean_estimate(values_N)
    assert 0 <= estimate.ci95[0] <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.ci95[1] <= 1
    assert estimate.ci95[0] < estimate.ci95[1]


def coverage(simulations: int, n: int, samples: int, seed: int) -> float:
    """Share of intervals that hold the true mean of a population of problems whose success rates are Beta(1, 1)."""
    rng = np.random.default_rng(seed)
    rates_SN = rng.beta(1, 1, (simulations, n))
    means_SN = rng.binomial(samples, rates_SN) / samples
    intervals = np.array([mean_estimate(means_N).ci95 for means_N in means_SN])
    return float(((intervals[:, 0] <= 0.5) & (intervals[:, 1] >= 0.5)).mean())


@pytest.mark.parametrize("samples", [1, 4])
def test_coverage(samples):
    # 400 simulations of true coverage 0.95: four standard errors are 0.044
    assert 0.906 <= coverage(400, n=30, samples=samples, seed=samples) <= 0.994


@pytest.mark.slow
@pytest.mark.parametrize(("n", "samples"), [(30, 1), (30, 4), (30, 16), (200, 4)])
def test_coverage_large(n, samples):
    assert 0.94 <= coverage(10_000, n, samples, seed=n + samples) <= 0.98


def test_ratio_coverage():
    """Repair rate 0.3 per problem on average, unequal numbers of wrong answers."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        rates_N = rng.beta(1.5, 3.5, 60)
        wrong_N = rng.integers(0, 5, 60)
        low, high = ratio_estimate(rng.binomial(wrong_N, rates_N), wrong_N).ci95
        hits += low <= 0.3 <= high
    assert 0.906 <= hits / 400 <= 0.994
