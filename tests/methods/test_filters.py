"""The variance filter, the draw of errors, expiry and eviction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from methods.builders import attempt, entry, first_group

from scrpo_cli.methods.base import outcome_rewards
from scrpo_cli.methods.parts.pool import (
    FilterConfig,
    PoolConfig,
    admit,
    decisions,
    evicted,
    expired,
    group_decision,
    reasons,
    spread,
)
from scrpo_cli.methods.scrpo import ScrpoConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import Group, SampleRequest, Verdict


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
    group = first_group(rewards(right))
    pool = PoolConfig(per_prompt=per_prompt)
    decisions = admit(group, outcome_rewards(group), FilterConfig(), pool, seed=1, step=step, index=0)
    assert set(decisions) == {a.id for a in group.attempts if not a.reward}
    assert sum(d == "kept" for d in decisions.values()) == min(per_prompt, 8 - right)
    again = admit(group, outcome_rewards(group), FilterConfig(), pool, seed=1, step=step, index=0)
    assert decisions == again


def test_the_draw_among_wrong_answers_is_uniform():
    group = first_group(rewards(4))
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
        attempt(0, name="broken", verdict=Verdict.GRADER_ERROR),
        attempt(0, name="mute", verdict=Verdict.UNPARSABLE),
    ]
    group = Group(SampleRequest(attempts[0].problem, [], 6), attempts)
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


# -- the reward that the filter looks at ----------------------------------------------------------------------------


def lengths_differ() -> Group:
    """All wrong, half of them twice as long."""
    attempts = [attempt(0, text="x" * n, name=f"a{n}{i}") for n in (5, 10) for i in range(2)]
    return Group(SampleRequest(attempts[0].problem, [], 4), attempts)


def test_total_counts_length_where_correctness_sees_no_disagreement():
    reward = {"length_penalty": 0.5}
    found = {
        which: set(
            decisions([lengths_differ()], ScrpoConfig(filter={"reward": which}, reward=reward), 10, 0, 1).values()
        )
        for which in ("correctness", "total")
    }
    # total: 5 of 10 tokens cost nothing, 10 cost 1: rewards 0, 0, -1, -1 have variance 0.25
    assert found == {"correctness": {"too_hard"}, "total": {"kept", "not_drawn"}}


def test_a_band_is_held_against_the_mean_reward():
    band = FilterConfig(mode="pass_rate_band", band=(0.25, 0.5))
    assert group_decision(np.array([0.9, 0.0]), band) == "kept"
    assert group_decision(np.array([1.0, 0.9]), band) == "too_easy"
    assert group_decision(np.array([1.0, np.nan, 0.0]), band) == "kept"


# -- groups without any right answer --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("all_wrong", "kept"),
    [("by_mode", {"mixed"}), ("admit", {"hopeless", "mixed"}), ("only", {"hopeless"})],
)
def test_errors_of_groups_without_a_right_answer_are_admitted_beside_the_others_or_alone(all_wrong, kept):
    groups = [first_group(rewards(k), name) for name, k in (("hopeless", 0), ("mixed", 3), ("easy", 7))]
    cfg = ScrpoConfig(filter={"var_min": 0.2, "all_wrong": all_wrong})
    decided = decisions(groups, cfg, 8, 0, 1)
    assert {a.rstrip("0123456789") for a, decision in decided.items() if decision == "kept"} == kept
    said = reasons(set(decided.values()), cfg)
    if all_wrong == "only":
        assert said["some_right"] == "an answer of the group is right (method.filter.all_wrong = only)"
        assert set(decided.values()) == {"kept", "not_drawn", "some_right"}
    else:
        assert "some_right" not in said
        assert "var_min = 0.2" in said["too_easy"]


def test_all_wrong_looks_at_right_and_wrong_whatever_the_reward_is():
    """A length penalty makes rewards differ, and a right answer that is too long earns 0."""
    reward, only = {"length_penalty": 0.5}, {"all_wrong": "only", "reward": "total"}
    assert "kept" in decisions([lengths_differ()], ScrpoConfig(filter=only, reward=reward), 10, 0, 1).values()
    long_but_right = first_group([1, 0, 0, 0], text="x" * 10)
    found = decisions([long_but_right], ScrpoConfig(filter=only, reward=reward), 10, 0, 1)
    assert set(found.values()) == {"some_right"}


def test_cut_off_answers_of_a_group_that_is_all_wrong_stay_out():
    group = first_group([0, 0], cut=True)
    assert set(decisions([group], ScrpoConfig(filter={"all_wrong": "only"}), 8, 0, 1).values()) == {"truncated"}


def test_admitting_beside_a_filter_that_keeps_every_error_is_refused():
    with pytest.raises(ValueError, match="admit has no effect where"):
        FilterConfig(mode="none", all_wrong="admit")


# -- the draw -------------------------------------------------------------------------------------------------------

KEYS = st.lists(st.sampled_from("abcde"), max_size=40)


@given(KEYS, st.integers(0, 45), st.integers(0, 99))
def test_distinct_keys_are_drawn_as_evenly_as_their_numbers_allow(keys, count, seed):
    drawn = spread(keys, count, generator(seed, 1, "reflect"))
    assert len(drawn) == len(set(drawn)) == min(count, len(keys))
    taken = {key: sum(keys[i] == key for i in drawn) for key in keys}
    for key, n in taken.items():
        exhausted = n == keys.count(key)
        assert exhausted or n >= max(taken.values()) - 1
    assert drawn == spread(keys, count, generator(seed, 1, "reflect"))


def test_every_error_and_every_key_has_its_chance():
    keys = ["a"] * 3 + ["b"]
    first = [spread(keys, 1, generator(seed, 1, "reflect"))[0] for seed in range(600)]
    assert 250 < first.count(3) < 350  # a key of two, not an error of four
    assert min(first.count(i) for i in range(3)) > 60


def test_one_key_for_all_is_a_uniform_draw():
    drawn = [spread([None] * 4, 1, generator(seed, 1, "reflect"))[0] for seed in range(400)]
    assert min(drawn.count(i) for i in range(4)) > 60  # 100 expected
