import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import repair_rate, summarize, two_turn
from scrpo_cli.evaluation.stats import (
    crossed_estimate,
    crossed_share_estimate,
    difference_estimate,
    mean_estimate,
    ratio_estimate,
)

SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def test_difference_interval_by_hand():
    # 0.25 0.5 0.75: mean 0.5, sd 0.25, se 0.25 / sqrt(3), t(0.975, 2) = 4.3027, and no difference above 1
    estimate = difference_estimate(np.array([0.25, 0.5, 0.75]) / 10)
    margin = 4.302653 * 0.01443376
    assert estimate.value == pytest.approx(0.05)
    assert estimate.ci95 == pytest.approx((0.05 - margin, 0.05 + margin), abs=1e-6)
    assert difference_estimate(np.array([0.25, 0.5, 0.75])).ci95[1] == 1.0


def test_share_without_skewness_is_students_t():
    # 29 shares evenly around 0.5: mean 0.5, sd 0.2433, t(0.975, 28) = 2.0484
    values_N = np.linspace(0.1, 0.9, 29)
    margin = 2.048407 * values_N.std(ddof=1) / np.sqrt(29)
    assert mean_estimate(values_N).ci95 == pytest.approx((0.5 - margin, 0.5 + margin), abs=1e-6)


def test_skewness_by_hand():
    # nine problems at 0.1 and one at 0.5: mean 0.14, sd (1/n) 0.12, skewness (0.36^3 - 9 x 0.04^3) / 10 / 0.12^3 = 8/3;
    # t(0.975, 9) / 3 = 0.754052. g(T) = 0.754052 at T = 9/8 ((1 + 8/3 (0.754052 - 0.044444))^(1/3) - 1) = 0.47790,
    # g(T) = -0.754052 at T = 9/8 ((1 - 8/3 (0.754052 + 0.044444))^(1/3) - 1) = -2.29655
    low, high = mean_estimate(np.array([0.1] * 9 + [0.5])).ci95
    assert low == pytest.approx(0.14 - 0.12 * 0.47790, abs=1e-5)
    assert high == pytest.approx(0.14 + 0.12 * 2.29655, abs=1e-5)  # Student's t: 0.230


def test_one_sample_a_problem_is_wilson():
    # 8 of 10: the textbook Wilson interval
    estimate = mean_estimate(np.array([1.0] * 8 + [0.0] * 2))
    assert estimate.value == 0.8
    assert estimate.ci95 == pytest.approx((0.4902, 0.9433), abs=1e-4)


@given(st.integers(5, 700), st.data())
def test_all_or_nothing_problems_have_the_interval_of_wilson(n, data):
    right = data.draw(st.integers(1, n - 1))
    wilson = scipy_stats.binomtest(right, n).proportion_ci(0.95, "wilson")
    for samples in (1, 4):  # copies of an answer say nothing more
        found = ratio_estimate(samples * (np.arange(n) < right), np.full(n, samples)).ci95
        assert found == pytest.approx((wilson.low, wilson.high), abs=4e-4)


def unseen_share(n):
    """Largest share of problems of which none of n drawn ones would be, with a chance of 2.5%."""
    return 1 - 0.025 ** (1 / n)


@given(st.floats(0, 1), st.integers(2, 100), st.floats(0, 0.03), st.randoms(use_true_random=False))
def test_a_problem_that_was_not_drawn_may_be_solved_always_or_never(rate, n, noise, random):
    """However well the problems that were drawn agree, and at whatever rate."""
    values_N = np.clip([rate + noise * random.uniform(-1, 1) for _ in range(n)], 0, 1)
    low, high = mean_estimate(values_N).ci95
    assert low <= (1 - unseen_share(n)) * values_N.mean() + 1e-12
    assert high >= values_N.mean() + unseen_share(n) * (1 - values_N.mean()) - 1e-12


@given(st.integers(5, 200), st.integers(1, 64))
def test_no_jump_between_none_right_and_the_first_right_answers(n, samples):
    """Right answers of one problem after another: ends never fall, and no answer makes the interval much wider."""
    before = (0.0, 0.0)
    width = unseen_share(n)
    for right in range(min(3 * samples, 70)):
        answers_NK = (np.arange(n * samples) < right).reshape(n, samples)
        low, high = mean_estimate(answers_NK.mean(axis=1)).ci95
        assert low >= before[0] - 1e-9
        assert high >= before[1] - 1e-9
        assert high - low <= 1.5 * width
        before, width = (low, high), high - low


def test_one_right_answer_of_1920_does_not_exclude_what_none_of_them_allows():
    none, one = (mean_estimate(np.array([right / 64] + [0.0] * 29)).ci95 for right in (0, 1))
    assert none == pytest.approx((0.0, 0.1157), abs=1e-4)
    assert one == pytest.approx((0.0, 0.1162), abs=1e-4)


def nearly_none(right):
    answers_NK = np.zeros((30, 64))
    answers_NK[0, :right] = 1
    return answers_NK


SHARES_THAT_ARE_REPORTED = {
    "accuracy": lambda rare_NK: summarize(rare_NK)["ci95"],
    "pass@1": lambda rare_NK: summarize(rare_NK)["pass_at_ci95"][1],
    "pass@4": lambda rare_NK: summarize(rare_NK)["pass_at_ci95"][4],
    "maj@4": lambda rare_NK: summarize(rare_NK, answers_NK=votes(rare_NK))["maj_at_ci95"][4],
    "truncated": lambda rare_NK: summarize(np.zeros((30, 64)), rare_NK)["truncated_ci95"],
    "i2c": lambda rare_NK: two_turn(np.zeros((30, 64)), rare_NK)["i2c"]["ci95"],
    "c2i": lambda rare_NK: two_turn(np.ones((30, 64)), 1 - rare_NK)["c2i"]["ci95"],
    "fix rate": lambda rare_NK: repair_rate(np.zeros((30, 64)), rare_NK)["ci95"],
    "over seeds": lambda rare_NK: crossed_share_estimate(rare_NK.reshape(30, 4, 16).mean(axis=2)).ci95,
}


def votes(rare_NK):
    return [["right" if right else str(k) for k, right in enumerate(row)] for row in rare_NK]


@pytest.mark.parametrize("interval", SHARES_THAT_ARE_REPORTED.values(), ids=SHARES_THAT_ARE_REPORTED)
def test_no_share_jumps_after_its_first_success(interval):
    none, one, two = (interval(nearly_none(right)) for right in (0, 1, 2))
    assert none[0] == 0 <= one[0] <= two[0] < 0.001
    assert 0.11 < none[1] <= one[1] <= two[1] < 0.16


@given(arrays(float, st.integers(2, 40), elements=SHARES), st.randoms(use_true_random=False))
def test_the_order_of_the_problems_does_not_matter(values_N, random):
    shuffled_N = np.array(random.sample(values_N.tolist(), len(values_N)))
    assert mean_estimate(shuffled_N).ci95 == pytest.approx(mean_estimate(values_N).ci95, abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=40))
def test_a_ratio_holds_its_value_and_has_a_mirror_image(pairs):
    denominator_N = np.array([wrong for wrong, _ in pairs])
    numerator_N = np.array([min(wrong, repaired) for wrong, repaired in pairs])
    value, (low, high) = ratio_estimate(numerator_N, denominator_N)
    mirror = ratio_estimate(denominator_N - numerator_N, denominator_N)
    assert 0 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1
    assert mirror.ci95 == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_no_variance_is_not_certainty(value):
    low, high = mean_estimate(np.full(50, value)).ci95
    assert low <= value <= high
    assert high - low > 0.05


def test_no_variance_is_the_exact_binomial():
    assert mean_estimate(np.ones(20)).ci95 == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert ratio_estimate(np.zeros(2), np.array([3, 1])).ci95 == pytest.approx((0.0, unseen_share(2)))
    assert difference_estimate(np.ones(20)).ci95[0] == pytest.approx(1 - 2 * unseen_share(20))


def test_one_problem_says_almost_nothing():
    low, high = mean_estimate(np.array([0.5])).ci95
    assert low < 0.05
    assert high > 0.95


def test_ratio_by_hand():
    # repaired 1, 2, 0, 1 of 2, 3, 1, 2 wrong: 1/2; residuals 0, 1/2, -1/2, 0 over a mean of 2: spread sqrt(1/32), no
    # skewness; t(0.975, 3) / sqrt(3) = 1.83739. Wilson's with 8^2 / 18 = 32/9 problems is wider
    estimate = ratio_estimate(np.array([1, 2, 0, 1]), np.array([2, 3, 1, 2]))
    margin = 1.837387 * np.sqrt(1 / 32)
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


@given(arrays(float, st.integers(1, 40), elements=SHARES))
def test_interval_holds_its_value(values_N):
    estimate = mean_estimate(values_N)
    assert 0 <= estimate.ci95[0] <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.ci95[1] <= 1
    assert estimate.ci95[0] < estimate.ci95[1]


@given(arrays(float, st.integers(1, 40), elements=SHARES))
def test_a_share_and_its_complement_mirror_each_other(values_N):
    low, high = mean_estimate(values_N).ci95
    assert mean_estimate(1 - values_N).ci95 == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_seeds_that_agree_leave_the_interval_over_problems():
    values_N = np.array([-0.5, 0.0, 0.25, 0.5, 0.5, 0.25])
    crossed = crossed_estimate(np.tile(values_N[:, None], 3))
    assert crossed.ci95 == pytest.approx(difference_estimate(values_N).ci95)


def test_two_ways_by_hand():
    # problems 0.0 and 0.2 in the mean, seeds 0.0, 0.1, 0.2: variances of the mean 0.02 / 2 and 0.01 / 3, no rest;
    # degrees of freedom (0.01 + 1/300)^2 / (0.01^2 / 1 + (1/300)^2 / 2) = 1.684, cut at N - 1 = 1: t = 12.7062
    values_NS = np.array([[-0.1, 0.0, 0.1], [0.1, 0.2, 0.3]]) / 10
    margin = 12.7062 * np.sqrt(0.0001 + 1 / 30000)
    assert crossed_estimate(values_NS).ci95 == pytest.approx((0.01 - margin, 0.01 + margin), abs=1e-5)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_two_ways_are_never_narrower_than_problems(seeds):
    rng = np.random.default_rng(seeds)
    for _ in range(50):
        values_NS = np.clip(rng.normal(0, 0.2, (30, 1)) + rng.normal(0, 0.2, (30, seeds)), -1, 1)
        low, high = crossed_estimate(values_NS).ci95
        alone = difference_estimate(values_NS.mean(axis=1)).ci95
        assert low <= alone[0] + 1e-12
        assert alone[1] - 1e-12 <= high


@given(arrays(float, st.tuples(st.integers(1, 20), st.integers(2, 4)), elements=SHARES))
def test_a_share_over_seeds_is_never_narrower_than_over_its_problems(values_NS):
    value, (low, high) = crossed_share_estimate(values_NS)
    alone = mean_estimate(values_NS.mean(axis=1)).ci95
    assert 0 <= low <= alone[0] <= value + 1e-12
    assert value - 1e-12 <= alone[1] <= high <= 1
