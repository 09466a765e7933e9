"""Shaped rewards by hand (methods.md 4.1 and DAPO, Eq. 13)."""

import numpy as np
import pytest

from scrpo_cli.methods.dapo import DapoConfig
from scrpo_cli.methods.parts.rewards import RewardConfig, improvement, length_penalty, with_length_penalty

NAN = np.nan


@pytest.mark.parametrize(
    ("length", "penalty"), [(1, 0), (16384, 0), (18432, -0.5), (20480, -1), (20481, -1), (40000, -1)]
)
def test_dapos_length_term_with_a_cap_of_16384_plus_4096(length, penalty):
    assert length_penalty(np.array([length]), 16384 + 4096, 4096) == pytest.approx([penalty])


def test_dapos_default_share_is_the_papers_cache():
    cfg = DapoConfig().reward
    assert cfg.length_penalty * 20480 == pytest.approx(4096)
    lengths = np.array([16384, 18432, 20480])
    assert with_length_penalty(np.ones(3), lengths, cfg, 20480) == pytest.approx([1, 0.5, 0])
    assert with_length_penalty(np.zeros(3), lengths, cfg, 20480) == pytest.approx([-1, -1.5, -2])


def test_without_a_share_length_costs_nothing():
    rewards = with_length_penalty(np.array([1, 0, NAN]), np.array([5, 10, 10]), RewardConfig(), 10)
    assert rewards[:2].tolist() == [1, 0]
    assert np.isnan(rewards[2])


def test_a_failed_grade_stays_unknown_whatever_its_length():
    assert np.isnan(with_length_penalty(np.array([NAN]), np.array([10]), RewardConfig(length_penalty=0.5), 10))[0]


def test_the_reward_of_a_later_turn():
    before, after = np.array([0.0, 1, 1, 0]), np.array([1.0, 1, 0, 0])
    assert improvement(after, before, 10).tolist() == [11, 1, -10, 0]
    assert improvement(after, before, 10, "flip").tolist() == [11, 1, 0, 0]
    assert improvement(after, before, 0).tolist() == after.tolist()
    assert np.isnan(improvement(after, np.full(4, NAN), 10)).all()
    assert np.isnan(improvement(np.full(4, NAN), before, 10)).all()
    assert np.isnan(improvement(after, np.full(4, NAN), 10, "flip")).all()
