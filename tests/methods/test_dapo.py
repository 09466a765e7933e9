"""DAPO and its relatives as configurations of one file: credit, dynamic sampling, overlong punishment and filtering."""

from types import SimpleNamespace

import numpy as np
import pytest
from methods.builders import attempt, context, first_group
from methods.turns_builders import TurnPrompts

from scrpo_cli.methods.cispo import CispoConfig
from scrpo_cli.methods.dapo import DapoConfig
from scrpo_cli.methods.dr_grpo import DrGrpoConfig
from scrpo_cli.methods.grpo import Grpo, GrpoConfig
from scrpo_cli.methods.gspo import GspoConfig
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.methods.rloo import RlooConfig
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.prompts import TaskPrompts
from scrpo_cli.types import Group, SampleRequest, Verdict


def method(cfg, per_step: int = 4, max_tokens: int = 1000) -> Grpo:
    return Grpo(cfg, context(TurnPrompts(per_step), max_tokens=max_tokens))


CHAT = SimpleNamespace(tokenizer=None, prefill="")


def advantages(cfg, *groups, max_tokens: int = 1000) -> list[float]:
    none = [np.zeros(len(a.completion.ids)) for g in groups for a in g.attempts]  # the policy is the reference
    rows = method(cfg, max_tokens=max_tokens).credit(groups, none).rows
    return [float(r.advantage_T[0]) if r.mask_T.any() else None for r in rows]


# -- the credit of one right answer in four -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (GrpoConfig(), [1.7321, -0.5774, -0.5774, -0.5774]),
        (DapoConfig(), [1.7321, -0.5774, -0.5774, -0.5774]),
        (GspoConfig(), [1.7321, -0.5774, -0.5774, -0.5774]),
        (CispoConfig(), [1.7321, -0.5774, -0.5774, -0.5774]),
        (DrGrpoConfig(), [0.75, -0.25, -0.25, -0.25]),
        (RlooConfig(), [1, -1 / 3, -1 / 3, -1 / 3]),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_advantages_of_every_method(cfg, expected):
    assert advantages(cfg, first_group([1, 0, 0, 0])) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (GrpoConfig(), ("masked_tokens", "ppo", 0.2, 0.2, 0.001)),
        (DapoConfig(), ("masked_tokens", "ppo", 0.2, 0.28, 0.0)),
        (DrGrpoConfig(), ("constant", "ppo", 0.2, 0.2, 0.0)),
        (RlooConfig(), ("sequence_sum", "none", 0.2, 0.2, 0.001)),
        (GspoConfig(), ("sequence_mean", "gspo", 3e-4, 4e-4, 0.0)),
        (CispoConfig(), ("masked_tokens", "cispo", 1.0, 0.28, 0.0)),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_the_pieces_that_each_method_is_made_of(cfg, expected):
    assert (cfg.loss.normalizer, cfg.clip.kind, cfg.clip.low, cfg.clip.high, cfg.kl.beta) == expected


def test_rloo_is_a_sum_over_each_sequence_and_a_mean_over_sequences():
    group = Group(SampleRequest(first_group([1]).request.problem, [], 2), [*long_and_short()])
    credits = method(RlooConfig()).credit([group], [np.zeros(8), np.zeros(2)])
    weights = token_weights(credits.rows, credits.normalizer, 1000)
    assert [w.tolist() for w in weights] == [[0.5] * 8, [0.5] * 2]
    assert method(RlooConfig()).uses_log_ratios  # its KL is inside the reward


def long_and_short():
    return attempt(1, text="a" * 8, name="l"), attempt(0, text="a" * 2, name="s")


# -- soft overlong punishment and overlong filtering --------------------------------------------------------------


def test_the_punishment_of_length_enters_the_reward_before_the_advantage():
    """Eq. 13 with a cap of 100 tokens and a cache of 20: lengths 80, 90, 100 lose 0, 0.5 and 1."""
    group = Group(
        first_group([1]).request,
        [attempt(r, text="a" * n, name=str(n + r)) for r, n in ((1, 80), (1, 90), (1, 100), (0, 10))],
    )
    raw = DapoConfig(loss={"advantage": "raw", "normalizer": "masked_tokens"})
    assert advantages(raw, group, max_tokens=100) == pytest.approx([1, 0.5, 0, -1])
    mean = (1 + 0.5 + 0 - 1) / 4
    assert advantages(DapoConfig(loss={"advantage": "group_mean"}), group, max_tokens=100) == pytest.approx(
        [1 - mean, 0.5 - mean, -mean, -1 - mean]
    )


def test_a_group_whose_rewards_differ_by_length_alone_has_no_signal():
    """0 < #correct < G looks at right and wrong, never at the shaped reward."""
    group = Group(first_group([1]).request, [attempt(1, text="a" * n, name=str(n)) for n in (10, 100)])
    credits = method(DapoConfig(), max_tokens=100).credit([group])
    assert credits.skipped_groups == 1
    assert not any(r.mask_T.any() for r in credits.rows)


def test_a_truncated_answer_is_filtered_from_the_loss_and_stays_in_the_baseline():
    cut, whole = attempt(0, name="cut", cut=True), attempt(1, name="whole")
    other = attempt(0, name="other")
    group = Group(first_group([1]).request, [cut, whole, other])
    found = advantages(DapoConfig(), group)
    assert found[0] is None
    assert found[1:] == pytest.approx([np.sqrt(2), -1 / np.sqrt(2)], rel=1e-3)
    assert advantages(DrGrpoConfig(), group)[0] == pytest.approx(-1 / 3)  # there it is an ordinary wrong answer


# -- dynamic sampling -----------------------------------------------------------------------------------------------

NO_SIGNAL, SIGNAL = [1, 1, 1, 1], [1, 0, 0, 0]


def rounds(cfg, outcomes: list[list[list[int]]], per_step: int = 4):
    """How many further groups each round asks for; `outcomes[k]` are the groups that round k brings."""
    found, groups, dapo = [], [first_group(r, f"0-{i}") for i, r in enumerate(outcomes[0])], method(cfg, per_step)
    for round, brought in enumerate([*outcomes[1:], []], start=1):
        requests = dapo.next_round(5, groups, round)
        found.append(len(requests))
        groups += [first_group(r, f"{round}-{i}", round=round) for i, r in enumerate(brought[: len(requests)])]
        if not requests:
            break
    return found


def test_groups_without_signal_are_replaced_until_the_batch_is_full():
    first = [SIGNAL, NO_SIGNAL, [0, 0, 0, 0], SIGNAL]
    assert rounds(DapoConfig(), [first, [SIGNAL, NO_SIGNAL], [SIGNAL]]) == [2, 1, 0]
    assert rounds(DapoConfig(), [[SIGNAL] * 4]) == [0]


def test_a_step_that_the_budget_cut_is_filled_up_to_what_it_was_cut_to():
    assert rounds(DapoConfig(), [[SIGNAL, NO_SIGNAL], [NO_SIGNAL], [SIGNAL]]) == [1, 1, 0]


def test_resampling_ends_at_its_cap():
    hopeless = [[NO_SIGNAL] * 4] * 9
    assert rounds(DapoConfig(), hopeless) == [4, 4, 4, 0]
    assert rounds(DapoConfig(resample=1), hopeless) == [4, 0]
    assert rounds(DapoConfig(resample=0), hopeless) == [0]
    assert rounds(GrpoConfig(), hopeless) == [0]
    assert rounds(GspoConfig(resample=2), hopeless) == [4, 4, 0]


def test_a_group_that_could_not_be_graded_is_replaced_too():
    groups = [first_group(SIGNAL), first_group([0, 0, 0, 0], verdict=Verdict.GRADER_ERROR)]
    assert len(method(DapoConfig(), per_step=2).next_round(5, groups, 1)) == 1


def test_further_problems_are_draws_of_their_own_and_depend_on_step_and_round_alone():
    dapo, hopeless = method(DapoConfig()), [first_group(NO_SIGNAL)] * 4
    one, again = dapo.next_round(5, hopeless, 1), method(DapoConfig()).next_round(5, hopeless, 1)
    ids = [a.problem.id for a in one]
    assert ids == [a.problem.id for a in again] == [f"5-1-{i}" for i in range(4)]
    assert [a.problem.id for a in dapo.next_round(5, hopeless, 2)] == [f"5-2-{i}" for i in range(4)]
    assert all(a.samples == 4 and a.turn == 1 for a in one)


def test_the_real_stream_of_further_problems():
    """Deterministic, distinct inside a round, and no shift of the steps' own problems."""

    def stream(seed: int = 0):
        recipe = Recipe.model_validate({"seed": seed, "optim": {"prompts_per_step": 6}})
        return TaskPrompts(recipe, SimpleNamespace(error_kinds=()), CHAT, [f"p{i}" for i in range(40)])

    prompts = stream()
    before = [prompts.problems(s) for s in (1, 2)]
    extra = [prompts.problems(1, k) for k in (1, 2)]
    assert [stream().problems(1, k) for k in (1, 2)] == extra
    assert [prompts.problems(s) for s in (1, 2)] == before
    assert extra[0] != extra[1] != before[0]
    assert extra != [stream(1).problems(1, k) for k in (1, 2)]
    assert all(len(set(prompts.problems(s, 1))) == 6 for s in range(50))


def test_the_credit_covers_replaced_groups_and_their_replacements():
    groups = [first_group(NO_SIGNAL), first_group(SIGNAL), first_group(SIGNAL)]
    credits = method(DapoConfig()).credit(groups)
    assert [bool(r.mask_T.any()) for r in credits.rows] == [False] * 4 + [True] * 8
    assert credits.skipped_groups == 1
