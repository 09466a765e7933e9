"""The vectors of methods.md 4.1, worked by hand, and what must hold for any group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.methods.parts.advantages import group_mean, group_norm, has_signal, leave_one_out, raw, token_weights
from scrpo_cli.types import Credit

ONE_RIGHT = np.array([1.0, 0, 0, 0])
OUTCOMES = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16).map(np.array)


def test_group_norm_with_population_std():
    assert group_norm(ONE_RIGHT, eps=0) == pytest.approx([1.7321, -0.5774, -0.5774, -0.5774], abs=1e-4)


def test_group_norm_with_sample_std():
    assert group_norm(ONE_RIGHT, ddof=1, eps=0) == pytest.approx([1.5, -0.5, -0.5, -0.5])


def test_the_default_epsilon_moves_the_vector_by_less_than_a_thousandth():
    assert group_norm(ONE_RIGHT) == pytest.approx(group_norm(ONE_RIGHT, eps=0), rel=1e-3)


def test_group_mean_is_dr_grpo():
    assert group_mean(ONE_RIGHT) == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_leave_one_out_is_rloo():
    assert leave_one_out(ONE_RIGHT) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


def test_leave_one_out_of_shaped_scores():
    assert leave_one_out(np.array([11.0, 1, -10, 0])) == pytest.approx([14, 0.6667, -14, -0.6667], abs=1e-4)
    assert leave_one_out(np.array([0.0, 1, 1, 0])) == pytest.approx([-0.6667, 0.6667, 0.6667, -0.6667], abs=1e-4)


@given(OUTCOMES)
def test_leave_one_out_is_a_scaled_group_mean(rewards_G):
    g = len(rewards_G)
    assert leave_one_out(rewards_G) == pytest.approx(group_mean(rewards_G) * g / (g - 1))


@given(OUTCOMES)
def test_advantages_of_a_group_sum_to_zero(rewards_G):
    for advantage in (group_norm, group_mean, leave_one_out):
        assert advantage(rewards_G).sum() == pytest.approx(0, abs=1e-6)


@given(OUTCOMES)
def test_a_grader_failure_leaves_the_group_as_if_it_were_not_there(rewards_G):
    with_failure = np.append(rewards_G, np.nan)
    for advantage in (group_norm, group_mean, leave_one_out, raw):
        assert advantage(with_failure)[:-1] == pytest.approx(advantage(rewards_G))
        assert np.isnan(advantage(with_failure)[-1])


@pytest.mark.parametrize(
    ("rewards", "signal"),
    [([0, 0], False), ([1, 1], False), ([1, 0], True), ([np.nan, 1], False), ([np.nan, np.nan], False), ([1], False)],
)
def test_signal_is_a_difference_of_raw_outcomes(rewards, signal):
    assert has_signal(np.array(rewards, dtype=float)) is signal


def masked(*masks):
    zeros = [np.zeros(len(m)) for m in masks]
    return [Credit(z, np.array(m, dtype=np.float32), z) for z, m in zip(zeros, masks)]


def test_token_weights_by_hand():
    credits = masked([1, 1, 0, 0], [1, 0], [0, 0, 0])
    by_hand = {
        "masked_tokens": [[1 / 3, 1 / 3, 0, 0], [1 / 3, 0], [0, 0, 0]],
        "all_tokens": [[1 / 9, 1 / 9, 0, 0], [1 / 9, 0], [0, 0, 0]],
        "constant": [[1 / 30, 1 / 30, 0, 0], [1 / 30, 0], [0, 0, 0]],
        "sequence_mean": [[1 / 6, 1 / 6, 0, 0], [1 / 3, 0], [0, 0, 0]],
    }
    for normalizer, expected in by_hand.items():
        for got, want in zip(token_weights(credits, normalizer, max_tokens=10), expected, strict=True):
            assert got == pytest.approx(want), normalizer


@given(st.lists(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=6), min_size=1, max_size=6))
def test_weights_never_exceed_the_mask_and_a_fully_masked_batch_has_none(masks):
    for normalizer in ("masked_tokens", "all_tokens", "constant", "sequence_mean"):
        weights = token_weights(masked(*masks), normalizer, max_tokens=8)
        for w, m in zip(weights, masks, strict=True):
            assert np.isfinite(w).all()
            assert ((w > 0) == (np.array(m) > 0)).all()
        if normalizer == "masked_tokens" and any(map(any, masks)):
            assert sum(w.sum() for w in weights) == pytest.approx(1)
