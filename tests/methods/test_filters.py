"""The variance filter, the draw of errors, expiry and eviction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from methods.builders import attempt, entry, trial

from scrpo_cli.methods.base import outcome_rewards
from scrpo_cli.methods.filters import admit, evicted, expired, group_decision
from scrpo_cli.recipe.methods import FilterConfig, PoolConfig
from scrpo_cli.types import Ask, Group, Verdict


def rewards(right: int, of: int = 8) -> np.ndarray:
    return np.array([1.0] * right + [0.0] * (of - right))


@pytest.mark.parametrize(
    ("right", "variance"), [(0, 0), (1, 0.1094), (2, 0.1875), (3, 0.2344), (4, 0.25), (7, 0.1094), (8, 0)]
)
def test_the_published_variances_of_groups_of_eight(right, variance):
    assert np.var(rewards(right)) == pytest.approx(variance, abs=1e-4)
    at, above = FilterConfig(var_min=min(0.25, np.var(rewards(right)))), FilterConfig(var_min=0.2499)
    assert group_decision(rewards(right), at) == "kept"  # the threshold is inclusive
    assert (group_decision(rewards(right), above) == "kept") == (right == 4)


def test_the_default_threshold_is_dapos_rule_at_eight_and_stricter_at_sixteen():
    default = FilterConfig()
    assert [group_decision(rewards(k), default) == "kept" for k in range(9)] == [False] + [True] * 7 + [False]
    kept = [k for k in range(17) if group_decision(rewards(k, 16), default) == "kept"]
    assert kept == list(range(2, 15))


def test_decisions_say_which_side_was_missed():
    assert group_decision(rewards(0), FilterConfig()) == "too_hard"
    assert group_decision(rewards(8), FilterConfig()) == "too_easy"


def test_other_modes():
    band = FilterConfig(mode="pass_rate_band", band=(0.25, 0.5))
    assert [group_decision(rewards(k), band) == "kept" for k in range(9)] == [k in (2, 3, 4) for k in range(9)]
    nonzero = FilterConfig(mode="nonzero")
    assert [group_decision(rewards(k), nonzero) == "kept" for k in range(9)] == [0 < k < 8 for k in range(9)]
    assert all(group_decision(rewards(k), FilterConfig(mode="none")) == "kept" for k in range(9))


@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 5))
def test_as_many_errors_are_kept_as_asked_for_and_every_error_has_a_decision(right, per_prompt, step):
    group = trial(rewards(right))
    pool = PoolConfig(per_prompt=per_prompt)
    decisions = admit(group, outcome_rewards(group), FilterConfig(), pool, seed=1, step=step, index=0)
    assert set(decisions) == {a.id for a in group.attempts if not a.reward}
    assert sum(d == "kept" for d in decisions.values()) == min(per_prompt, 8 - right)
    again = admit(group, outcome_rewards(group), FilterConfig(), pool, seed=1, step=step, index=0)
    assert decisions == again


def test_the_draw_among_wrong_answers_is_uniform():
    group = trial(rewards(4))
    kept = [
        next(a for a, d in admit(group, rewards(4), FilterConfig(), PoolConfig(), 0, s, 0).items() if d == "kept")
        for s in range(400)
    ]
    counts = [kept.count(a.id) for a in group.attempts if not a.reward]
    assert min(counts) > 60  # 100 expected


def test_truncated_errors_and_grader_failures_are_not_reasoning_errors():
    attempts = [
        attempt(1, name="right"),
        attempt(0, name="cut", cut=True),
        attempt(0, name="wrong"),
        attempt(0, name="slow", verdict=Verdict.TIMEOUT),
        attempt(0, name="broken", verdict=Verdict.ERROR),
        attempt(0, name="mute", verdict=Verdict.UNPARSABLE),
    ]
    group = Group(Ask(attempts[0].problem, [], 6), attempts)
    every = PoolConfig(per_prompt="all")
    decisions = admit(group, outcome_rewards(group), FilterConfig(), every, 0, 0, 0)
    assert decisions == {"cut": "truncated", "wrong": "kept", "mute": "kept"}
    included = PoolConfig(per_prompt="all", include_truncated=True)
    assert admit(group, outcome_rewards(group), FilterConfig(), included, 0, 0, 0)["cut"] == "kept"


def test_expiry_counts_steps_since_the_entry_was_added():
    pool = [entry("a", 1), entry("b", 5)]
    assert expired(pool, 10, 5) == ["bad-a-1"]
    assert expired(pool, 10, None) == []


def test_eviction_makes_room_for_newcomers():
    pool = [entry(str(i), i) for i in range(5)]
    assert evicted(pool, 3, 6, "fifo", 0, 1) == ["bad-0-0", "bad-1-1"]
    assert evicted(pool, 1, 6, "fifo", 0, 1) == []
    drawn = evicted(pool, 3, 6, "random", 0, 1)
    assert len(set(drawn)) == 2
    assert drawn == evicted(pool, 3, 6, "random", 0, 1)
    assert len(evicted(pool, 20, 6, "fifo", 0, 1)) == 5
