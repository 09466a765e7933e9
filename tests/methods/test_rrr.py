"""Reflect, Retry, Reward: what is asked after a failure, and which tokens of a retry earn what."""

import numpy as np
import pytest
from methods.builders import attempt, context, correction, first_group
from methods.turns_builders import TurnPrompts

from scrpo_cli.methods.rrr import Rrr, RrrConfig
from scrpo_cli.types import AttemptKind, Group, Verdict

GOOD = "Analysis: x Corrected Solution: 1"
REFLECTION = len("Analysis: x Corrected Solution:")


def rrr(**cfg) -> Rrr:
    return Rrr(RrrConfig(**cfg), context(TurnPrompts(), group_size=4))


def test_a_step_attempts_first_and_reflects_on_every_failure():
    method = rrr(attempts=3)
    plan = method.plan(1, [])
    assert (plan.phase, [a.samples for a in plan.requests]) == ("retry", [3, 3])
    requests = method.next_round(1, [first_group([1, 0, 1], "p"), first_group([0, 0, 1], "q")], 1)
    assert [a.parent.attempt_id for a in requests] == ["p1", "q0", "q1"]
    assert all(a.kind is AttemptKind.CORRECTION and a.samples == 4 for a in requests)
    assert requests[0].parent.response == "abcd"


def test_there_is_one_round_of_reflections():
    assert rrr().next_round(1, [first_group([0]), correction([0, 0], [GOOD] * 2)], 2) == []


def test_only_failures_of_reasoning_are_reflected_on():
    answers = [
        attempt(0, name="wrong"),
        attempt(0, name="cut", cut=True),
        attempt(0, name="ungraded", verdict=Verdict.GRADER_ERROR),
        attempt(0, name="late", verdict=Verdict.TIMEOUT),
        attempt(0, name="no-answer", verdict=Verdict.UNPARSABLE),
        attempt(1, name="right"),
    ]
    requests = rrr().next_round(1, [Group(first_group([1]).request, answers)], 1)
    assert [a.parent.attempt_id for a in requests] == ["wrong", "no-answer"]


def test_first_answers_are_never_trained_and_of_retries_the_reflection_alone():
    groups = [first_group([0, 1]), correction([1, 0, 0, 0], [GOOD] * 4)]
    credits = rrr().credit(groups)
    first, retries = credits.rows[:2], credits.rows[2:]
    assert not any(r.mask_T.any() for r in first)
    assert all(np.flatnonzero(r.mask_T).tolist() == list(range(REFLECTION)) for r in retries)
    got = [float(r.advantage_T[0]) for r in retries]
    assert got == pytest.approx([1.7321, -0.5774, -0.5774, -0.5774], rel=1e-3)  # failures are pushed down
    assert [len(r.mask_T) for r in credits.rows] == [4, 4, *[len(GOOD)] * 4]


def test_every_error_has_a_baseline_of_its_own():
    groups = [first_group([0, 0]), correction([1, 1], [GOOD] * 2), correction([0, 1], [GOOD] * 2)]
    credits = rrr().credit(groups)
    assert credits.skipped_groups == 1
    assert [float(r.advantage_T[0]) for r in credits.rows[2:]] == pytest.approx([0, 0, -1, 1], rel=1e-3)


def test_a_step_without_failures_teaches_nothing():
    credits = rrr().credit([first_group([1, 1])])
    assert not any(r.mask_T.any() for r in credits.rows)
    assert len(credits.rows) == 2


def test_the_switches_of_the_loss_are_scrpos():
    groups = [first_group([0]), correction([1, 0], [GOOD] * 2)]
    conditioned = rrr(loss={"failed": "zero", "tokens": "all"}).credit(groups)
    assert [int(r.mask_T.sum()) for r in conditioned.rows] == [0, len(GOOD), 0]
    weighted = rrr(loss={"stage2_weight": 0.5, "failed": "negative"}).credit(groups)
    assert (weighted.scale, weighted.normalizer) == (0.5, "masked_tokens")


def test_truncated_retries_earn_nothing_unless_they_are_kept():
    group = correction([1, 0], [GOOD] * 2)
    cut = attempt(0, text=GOOD, name="c1", cut=True, kind=AttemptKind.CORRECTION)
    group = Group(group.request, [group.attempts[0], cut])
    assert [bool(r.mask_T.any()) for r in rrr().credit([group]).rows] == [True, False]
    assert [bool(r.mask_T.any()) for r in rrr(overlong="keep").credit([group]).rows] == [True, True]


def test_with_k1_the_log_ratios_of_first_answers_are_passed_over():
    groups = [first_group([0, 1]), correction([1, 0], [GOOD] * 2)]
    ratios = [np.full(4, 100.0)] * 2 + [np.full(len(GOOD), 0.1), np.zeros(len(GOOD))]
    rows = rrr(kl={"estimator": "k1", "beta": 0.5}).credit(groups, ratios).rows
    assert not any(r.mask_T.any() for r in rows[:2])
    excess = 0.5 * 0.1 * REFLECTION
    got = [float(r.advantage_T[0]) for r in rows[2:]]
    assert got == pytest.approx([1 - excess, -1 + excess], rel=1e-3)
