import numpy as np
import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.power import Variation, assumed, chance, measured, plan, problems_needed, smallest
from scrpo_cli.evaluation.stats import difference_estimate


def test_problems_by_hand():
    # Miller 2024, section 5: (1.95996 + 0.84162)^2 = 7.8489, times (1/9 + 2/6 / 10) / 0.03^2
    variation = Variation(between=1 / 12, within=1 / 6, moved=1 / 9)
    assert problems_needed(variation, 10, 0.03, paired=True) == int(np.ceil(7.84888 * (1 / 9 + 2 / 60) / 0.0009))
    assert problems_needed(variation, 10, 0.03, paired=False) == int(np.ceil(7.84888 * (1 / 6 + 2 / 60) / 0.0009))


def test_all_or_nothing_problems_gain_nothing_from_samples():
    all_or_nothing = assumed(0.4, consistency=1.0, correlation=0.5)
    assert all_or_nothing.within == 0
    assert smallest(all_or_nothing, 30, 1, True) == smallest(all_or_nothing, 30, 64, True)
    alike = assumed(0.4, consistency=0.0, correlation=0.5)
    assert smallest(alike, 30, 64, True) == pytest.approx(smallest(alike, 30, 1, True) / 8)


def test_thirty_problems_cannot_show_two_points():
    variation = assumed(0.5, consistency=0.7, correlation=0.9)
    assert smallest(variation, 30, 64, paired=True) > 0.09
    assert chance(variation, 30, 64, 0.02, paired=True) < 0.12


def test_the_smallest_difference_has_the_power_that_it_is_named_for():
    variation = assumed(0.5, consistency=0.6, correlation=0.9)
    for problems in (30, 500):
        assert chance(variation, problems, 4, smallest(variation, problems, 4, True), True) == pytest.approx(
            0.8, abs=0.01
        )
    assert chance(variation, 30, 4, 0.0, True) == pytest.approx(0.05)
    needed = problems_needed(variation, 4, 0.02, True)
    assert chance(variation, needed, 4, 0.02, True) == pytest.approx(0.8, abs=0.002)


def runs(rng, shape, samples, gain=0.06, share=0.3):
    """Two runs on the same problems: a share of the success rates, Beta(0.8, 0.8), moves by Beta(4, 4) - 1/2 + gain."""
    a = rng.beta(0.8, 0.8, shape) * 0.3 + 0.3
    b = np.where(rng.random(shape) < share, a + (rng.beta(4, 4, shape) - 0.5) / 2 + gain / share, a)
    a, b = np.clip(a, 0, 1)[..., None], np.clip(b, 0, 1)[..., None]
    return (rng.binomial(1, np.broadcast_to(rate, (*shape, samples))).astype(float) for rate in (a, b))


@pytest.mark.parametrize("samples", [2, 8])
def test_power_in_simulation(samples):
    """How often the interval of 2,000 evaluations leaves 0 out, against the formula with variances measured on 40,000
    problems; the same problems and different ones.
    """
    rng = np.random.default_rng(samples)
    a, b = runs(rng, (40_000,), samples)
    variation, effect, n = measured(a, b), float(b.mean() - a.mean()), 80
    a, b = (run.mean(axis=-1) for run in runs(rng, (2000, n), samples))
    for paired, before in ((True, a), (False, np.roll(a, 1, axis=0))):
        lows = np.array([difference_estimate(differences_N).ci95[0] for differences_N in b - before])
        assert (lows > 0).mean() == pytest.approx(chance(variation, n, samples, effect, paired), abs=0.03)


def test_variances_are_measured_free_of_sampling_noise():
    rng = np.random.default_rng(0)
    rates = rng.beta(2, 3, 20_000)  # variance 0.04, E[p (1 - p)] = 0.2
    a, b = (rng.binomial(1, np.tile(rates[:, None], (1, 3))).astype(float) for _ in range(2))
    found = measured(a, b)
    assert (found.between, found.within, found.moved) == pytest.approx((0.04, 0.2, 0.0), abs=0.005)
    assert measured(a, correlation=0.5).moved == pytest.approx(0.04, abs=0.005)


def test_one_answer_a_problem_cannot_be_measured():
    with pytest.raises(UserError, match="One answer a problem"):
        measured(np.ones((30, 1)))


def test_the_plan_says_what_no_number_of_samples_can_show():
    found = plan(assumed(0.5, 0.7, 0.9), 30, 1, 0.02)
    assert found["paired"]["smallest_any_samples"] > found["effect"]
    assert found["paired"]["smallest"] > found["paired"]["smallest_any_samples"]
    assert found["unpaired"]["problems_needed"] > found["paired"]["problems_needed"] > 1000
