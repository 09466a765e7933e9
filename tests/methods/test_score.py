"""SCoRe: rewards and baselines by hand (methods.md 4.1), what each stage teaches, and how stages follow each other."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from methods.builders import context, problem
from methods.turns_builders import Recorded, TurnPrompts, answer, conversations, of_turn
from tests_tokenizer import TOKENIZER

from scrpo_cli.errors import RunError
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.methods.score import Score, ScoreConfig
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.prompts import TaskPrompts
from scrpo_cli.tasks.tiny import TinyTask
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Group

FOUR = [(0, 1), (1, 1), (1, 0), (0, 0)]  # (r1, r2) of methods.md 4.1
NAN = float("nan")


def score(stage: int = 1, steps: int = 90, tokens: int | None = None, library=None, group_size=2, **cfg) -> Score:
    method = Score(
        ScoreConfig(**cfg),
        context(TurnPrompts(), library or Recorded(), group_size=group_size, steps=steps, token_budget=tokens),
    )
    method.state["stage"] = stage
    return method


def advantages(credits, groups, turn: int) -> list[float]:
    """One number a row of a turn; every token of a completion earns the same."""
    rows = of_turn(groups, credits.rows, turn)
    assert all((r.advantage_T == r.advantage_T[0]).all() for r in rows)
    return [float(r.advantage_T[0]) for r in rows]


def betas(credits, groups, turn: int) -> list[float]:
    return [float(r.kl_T[0]) for r in of_turn(groups, credits.rows, turn)]


# -- Stage II -------------------------------------------------------------------------------------------------------


def test_stage_two_pays_each_turn_its_own_reward_less_the_mean_of_the_others():
    groups = conversations(FOUR)
    credits = score(stage=2).credit(groups)
    assert advantages(credits, groups, 1) == pytest.approx([-0.6667, 0.6667, 0.6667, -0.6667], abs=1e-4)
    assert advantages(credits, groups, 2) == pytest.approx([14, 0.6667, -14, -0.6667], abs=1e-4)
    assert betas(credits, groups, 1) == betas(credits, groups, 2) == pytest.approx([0.01] * 4)


def test_the_shaped_reward_is_r2_plus_alpha_times_the_progress():
    groups = conversations(FOUR)
    assert advantages(score(stage=2, baseline="none").credit(groups), groups, 2) == [11, 1, -10, 0]
    flip = score(stage=2, baseline="none", bonus="flip")
    assert advantages(flip.credit(groups), groups, 2) == [11, 1, 0, 0]
    plain = score(stage=2, baseline="none", alpha=0)
    assert advantages(plain.credit(groups), groups, 2) == [1, 1, 0, 0]
    assert advantages(plain.credit(groups), groups, 1) == [0, 1, 1, 0]


def test_with_discount_zero_the_second_reward_never_reaches_the_first_turn():
    before = conversations(FOUR)
    after = conversations([(r1, 1 - r2) for r1, r2 in FOUR])
    method = score(stage=2)
    assert advantages(method.credit(before), before, 1) == advantages(method.credit(after), after, 1)
    assert advantages(method.credit(before), before, 2) != advantages(method.credit(after), after, 2)


def test_the_first_reward_reaches_its_own_turn_and_the_second_only_through_the_bonus():
    before = conversations(FOUR)
    after = conversations([(1 - r1, r2) for r1, r2 in FOUR])
    shaped, plain = score(stage=2), score(stage=2, alpha=0)
    assert advantages(shaped.credit(before), before, 1) != advantages(shaped.credit(after), after, 1)
    assert advantages(shaped.credit(before), before, 2) != advantages(shaped.credit(after), after, 2)
    assert advantages(plain.credit(before), before, 2) == advantages(plain.credit(after), after, 2)


def test_a_wrong_first_answer_is_never_paid_for():
    """Summing r1 + r2 + bonus onto both turns would pay 11 for wrong then right, 2 for right twice (methods.md 2.8)."""
    groups = conversations([(0, 1), (1, 1)])
    first = advantages(score(stage=2).credit(groups), groups, 1)
    assert first[0] < 0 < first[1]


# -- Stage I --------------------------------------------------------------------------------------------------------


def test_stage_one_pays_the_second_turn_alone_and_holds_the_first_by_kl():
    groups = conversations(FOUR)
    credits = score().credit(groups)
    assert advantages(credits, groups, 1) == [0] * 4
    assert betas(credits, groups, 1) == pytest.approx([0.1] * 4)
    assert advantages(credits, groups, 2) == pytest.approx([0.6667, 0.6667, -0.6667, -0.6667], abs=1e-4)
    assert betas(credits, groups, 2) == pytest.approx([0.01] * 4)
    assert all(r.mask_T.all() for r in credits.rows)
    assert {r.part for r in credits.rows} == {"turn1", "turn2"}


def test_stage_one_does_not_look_at_the_first_reward():
    before, after = conversations(FOUR), conversations([(1 - r1, r2) for r1, r2 in FOUR])
    failed = conversations([(NAN, r2) for _, r2 in FOUR])
    one, two, three = (score().credit(g) for g in (before, after, failed))
    for a, b, c in zip(one.rows, two.rows, three.rows):
        assert np.array_equal(a.advantage_T, b.advantage_T)
        assert np.array_equal(a.advantage_T, c.advantage_T)
        assert np.array_equal(a.kl_T, b.kl_T)


def test_of_three_turns_stage_one_b_teaches_the_third_and_holds_the_first_two():
    groups = conversations([(0, 0, 1), (1, 1, 0)])
    a = score(stage=1, turns=3)
    assert a.turns == 2
    assert [a.beta(t) for t in (1, 2)] == [0.1, 0.01]
    b = score(stage=2, turns=3)
    credits = b.credit(groups)
    assert b.turns == 3
    assert [advantages(credits, groups, t) for t in (1, 2, 3)] == [[0, 0], [0, 0], [1, -1]]
    assert [betas(credits, groups, t)[0] for t in (1, 2, 3)] == pytest.approx([0.1, 0.1, 0.01])


def test_of_three_turns_stage_two_pays_progress_over_the_attempt_before():
    groups = conversations([(0, 1, 1), (1, 0, 1)])
    credits = score(stage=3, turns=3, baseline="none").credit(groups)
    assert [advantages(credits, groups, t) for t in (1, 2, 3)] == [[0, 1], [11, -10], [1, 11]]


# -- baselines, reduction, grader failures --------------------------------------------------------------------------


def test_a_baseline_is_the_mean_of_the_same_problem_and_turn():
    groups = [*conversations([(0, 1), (0, 0)], "p"), *conversations([(1, 1), (1, 1)], "q")]
    credits = score(stage=2, alpha=0).credit(groups)
    assert advantages(credits, groups, 1) == [0, 0, 0, 0]
    assert advantages(credits, groups, 2) == [1, -1, 0, 0]


def test_a_single_sample_falls_back_to_the_mean_of_the_batch():
    groups = [*conversations([(0, 1)], "p"), *conversations([(1, 0)], "q"), *conversations([(1, 1)], "r")]
    credits = score(stage=2, alpha=0).credit(groups)
    assert advantages(credits, groups, 1) == [-1, 0.5, 0.5]
    assert advantages(credits, groups, 2) == [0.5, -1, 0.5]
    alone = conversations([(1, 1)])
    assert advantages(score(stage=2, alpha=0).credit(alone), alone, 1) == [1]  # nothing to compare with


def test_batch_baseline():
    groups = [*conversations([(1, 0), (1, 1)], "p"), *conversations([(0, 0), (0, 0)], "q")]
    credits = score(stage=2, alpha=0, baseline="batch").credit(groups)
    assert advantages(credits, groups, 1) == pytest.approx([2 / 3, 2 / 3, -2 / 3, -2 / 3])
    assert advantages(credits, groups, 2) == pytest.approx([-1 / 3, 1, -1 / 3, -1 / 3])


def test_an_answer_that_the_grader_failed_on_teaches_nothing_and_is_nobodys_baseline():
    groups = conversations([*FOUR, (0, NAN), (NAN, 1)])
    credits = score(stage=2).credit(groups)
    first, second = (of_turn(groups, credits.rows, t) for t in (1, 2))
    assert advantages(credits, groups, 2)[:4] == pytest.approx([14, 0.6667, -14, -0.6667], abs=1e-4)
    assert not second[4].mask_T.any()  # r2 is unknown
    assert not second[5].mask_T.any()  # so is the progress over an unknown r1
    assert not first[5].mask_T.any()
    assert advantages(credits, groups, 1)[:5] == pytest.approx([-0.5, 0.75, 0.75, -0.5, -0.5])


def test_a_sample_whose_siblings_were_not_graded_falls_back_to_the_batch():
    groups = [*conversations([(1, 1), (NAN, 1)], "p"), *conversations([(0, 1), (0, 1)], "q")]
    assert advantages(score(stage=2).credit(groups), groups, 1)[0] == 1 - 0
    groups = [*conversations([(1, 1), (NAN, 1)], "p"), *conversations([(1, 1), (1, 1)], "q")]
    assert advantages(score(stage=2).credit(groups), groups, 1)[0] == 1 - 1


def weights(credits):
    return [credits.scale * w for w in token_weights(credits.rows, credits.normalizer, max_tokens=100)]


def test_sequence_reduction_sums_over_a_conversation_and_averages_over_conversations():
    groups = [*conversations([(0, 1), (1, 0)], text="abcdef"), *conversations([(0, 1), (1, 0)], "q", text="ab")]
    assert [w.tolist() for w in weights(score().credit(groups))] == [
        pytest.approx([1 / 4] * len(a.completion.ids)) for g in groups for a in g.attempts
    ]


def test_token_reduction_is_the_mean_over_trained_tokens():
    groups = [*conversations([(0, 1), (1, 0)], text="abcdef"), *conversations([(0, 1), (1, 0)], "q", text="ab")]
    found = weights(score(reduction="token").credit(groups))
    tokens = sum(len(a.completion.ids) for g in groups for a in g.attempts)
    assert sum(w.sum() for w in found) == pytest.approx(1)
    assert all((w == pytest.approx(1 / tokens)) for w in found)


def test_without_kl_a_turn_without_signal_costs_nothing_and_is_counted():
    groups = [*conversations([(0, 1), (1, 0)]), *conversations([(1, 1), (1, 1)], "q")]
    credits = score(stage=2, kl={"beta1": 0.0}).credit(groups)
    trained = [bool(r.mask_T.any()) for r in credits.rows]
    assert trained == [True] * 4 + [False] * 4
    assert credits.skipped_groups == 2  # q's first and its second turn


def test_k1_takes_each_turns_own_log_ratio_from_its_own_reward():
    groups = conversations([(0, 1), (1, 0)], text="ab")
    ratios = [np.full(2, v) for v in (0.3, 0.1, 1.0, 0.0)]  # first answers, then second ones
    credits = score(stage=2, alpha=0, kl={"estimator": "k1", "beta1": 0.5}).credit(groups, ratios)
    rows, stats = credits.rows, credits.metrics
    got = [float(r.advantage_T[0]) for r in rows]
    excess = 0.5 * 2 * np.array([0.3 - 0.1, 0.1 - 0.3, 1.0 - 0.0, 0.0 - 1.0])
    assert got == pytest.approx(np.array([-1, 1, 1, -1]) - excess)
    assert not any(r.kl_T.any() for r in rows)
    assert stats["train/kl_turn1_sequence"] == pytest.approx((0.6 + 0.2) / 2)
    assert stats["train/kl_turn2_sequence"] == pytest.approx((2.0 + 0.0) / 2)


# -- what is asked --------------------------------------------------------------------------------------------------


def test_a_step_asks_first_answers_and_then_goes_on_with_each_of_them():
    method = score()
    plan = method.plan(1, [])
    assert [(a.samples, a.turn) for a in plan.requests] == [(2, 1), (2, 1)]
    groups = conversations([(0,), (1,)])
    requests = method.next_round(1, groups, 1)
    assert [a.previous.id for a in requests] == ["p.0.1", "p.1.1"]
    assert all((a.kind, a.turn, a.samples) == (AttemptKind.CHECK, 2, 1) for a in requests)
    assert [m["role"] for m in requests[0].messages] == ["user", "assistant", "user"]
    assert method.next_round(1, conversations(FOUR), 2) == []


def test_the_second_prompt_says_the_same_to_a_right_and_to_a_wrong_answer():
    wrong, right = score().next_round(1, conversations([(0,), (1,)]), 1)
    assert wrong.messages == right.messages


def test_turns_of_a_stage():
    two, three = conversations([(0, 1), (1, 1)]), conversations([(0, 1, 1), (1, 1, 0)])
    assert score(stage=1, turns=3).next_round(1, two, 2) == []
    requests = score(stage=2, turns=3).next_round(1, two, 2)
    assert [(a.turn, a.previous.id) for a in requests] == [(3, "p.0.2"), (3, "p.1.2")]
    assert len(requests[0].messages) == 5
    assert score(stage=3, turns=3).next_round(1, three, 3) == []


DROPS_THINKING = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + (m.content.split('</think>')[-1] if m.role == 'assistant' "
    "else m.content) + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def real_prompts(template: str = TOKENIZER.chat_template) -> TaskPrompts:
    """The tiny task's prompts over a real chat template."""
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = template
    recipe = Recipe.model_validate({"method": {"name": "score"}, "optim": {"prompts_per_step": 1}})
    task = TinyTask(recipe.task)
    return TaskPrompts(recipe, task, Chat(tokenizer), task.problems(recipe.task.train))


def sampled(prompts: TaskPrompts, text: str) -> Attempt:
    """A first answer of which every character was sampled as a token of its own."""
    request = prompts.first(prompts.problems(1)[0], 1)
    ids = [*(TOKENIZER.encode(c)[0] for c in text), TOKENIZER.eos_token_id]
    completion = Completion(prompts.ids(request), ids, [-1.0] * len(ids), text, FinishReason.STOP)
    return replace(answer(0, name="a", request=request), completion=completion)


def next_ids(prompts: TaskPrompts, first: Attempt, turns: int = 2) -> list[int]:
    method = Score(ScoreConfig(turns=turns), context(prompts, Recorded(), group_size=1))
    method.state["stage"] = turns
    (request,) = method.next_round(1, [Group(prompts.first(first.problem, 1), [first])], 1)
    return list(prompts.ids(request))


def test_the_second_prompt_extends_the_sampled_ids_where_the_template_keeps_turns():
    prompts = real_prompts()
    first = sampled(prompts, "wrong")
    so_far = [*first.completion.prompt_ids, *first.completion.ids]
    assert next_ids(prompts, first)[: len(so_far)] == so_far
    assert TOKENIZER.encode("wrong") != first.completion.ids[:-1]  # rendered anew, other ids would be trained on
    assert prompts.recipe.task.check_prompt in TOKENIZER.decode(next_ids(prompts, first)[len(so_far) :])


def test_a_third_prompt_extends_the_second_turn():
    prompts = real_prompts()
    first = sampled(prompts, "wrong")
    request = prompts.check(prompts.first(first.problem, 1), first)
    ids = [TOKENIZER.encode("7")[0], TOKENIZER.eos_token_id]
    second = replace(
        answer(0, name="b", request=request),
        completion=Completion(prompts.ids(request), ids, [-1.0] * 2, "7", FinishReason.STOP),
    )
    third = Score(ScoreConfig(turns=3), context(prompts, Recorded(), group_size=1))
    third.state["stage"] = 3
    (request,) = third.next_round(1, [Group(prompts.first(first.problem, 1), [first]), Group(request, [second])], 2)
    so_far = [*second.completion.prompt_ids, *ids]
    assert prompts.ids(request)[: len(so_far)] == so_far


def test_a_template_that_drops_thinking_gets_a_sequence_of_its_own():
    prompts = real_prompts(DROPS_THINKING)
    first = sampled(prompts, "<think>long</think>2")
    second = next_ids(prompts, first)
    so_far = [*first.completion.prompt_ids, *first.completion.ids]
    assert second[: len(so_far)] != so_far
    assert "long" not in TOKENIZER.decode(second)
    assert "2" in TOKENIZER.decode(second)


# -- the switch between stages --------------------------------------------------------------------------------------


def stages(method: Score, steps: int, outcomes=(0, 1), held_kl: float = 0.0):
    """Stage and reference of every step of a run whose answers are always the same."""
    seen = []
    for step in range(1, steps + 1):
        plan = method.plan(step, [])
        seen.append((method.stage, plan.reference))
        method.after_sampling(step, conversations([outcomes] * 2), [])
        method.after_update(step, {"train/kl_turn1_sequence": held_kl})
    return seen


def test_stage_one_ends_at_its_share_of_the_steps():
    seen = stages(score(steps=9), 9)
    assert [s for s, _ in seen] == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert [r for _, r in seen] == ["", "", "", "base", "", "", "", "", ""]


def test_stage_one_ends_at_its_share_of_the_tokens():
    method = score(steps=1000, tokens=16 * 9)  # 4 completions of 4 tokens a step
    assert [s for s, _ in stages(method, 5)] == [1, 1, 1, 2, 2]
    assert method.state["tokens"] == 16 * 5


def test_the_reference_of_stage_two_may_be_the_model_of_stage_one():
    seen = stages(score(steps=9, kl={"reference": "stage1"}), 6)
    assert [r for _, r in seen] == ["", "", "", "policy", "", ""]


def test_share_zero_leaves_stage_one_out():
    assert stages(score(steps=9, stage1={"share": 0}), 2) == [(2, ""), (2, "")]
    assert stages(score(steps=9, turns=3, stage1={"share": 0}), 1) == [(3, "")]


def test_share_one_never_leaves_stage_one():
    assert {s for s, _ in stages(score(steps=6, stage1={"share": 1}), 6)} == {1}


def test_three_turns_hold_at_the_model_of_the_stage_before_and_go_back_to_the_base_model():
    seen = stages(score(steps=12, turns=3, stage1={"share": 0.5}), 12)
    assert [s for s, _ in seen] == [1] * 3 + [2] * 3 + [3] * 6
    assert {i: r for i, (_, r) in enumerate(seen, start=1) if r} == {4: "policy", 7: "base"}


PLATEAU = {"until": "plateau", "share": 0.9, "window": 3, "max_kl": 1.0}


def test_a_plateau_ends_stage_one_before_its_share():
    assert [s for s, _ in stages(score(steps=100, stage1=PLATEAU), 8)] == [1] * 6 + [2] * 2


def test_no_plateau_while_the_second_answer_improves_or_the_first_turn_has_moved():
    assert {s for s, _ in stages(score(steps=100, stage1=PLATEAU), 20, held_kl=1.5)} == {1}
    rising = score(steps=100, stage1=PLATEAU)
    for step in range(1, 11):
        rising.plan(step, [])
        rising.after_sampling(step, conversations([(0, 1)] * step + [(0, 0)] * (10 - step)), [])
    assert rising.stage == 1
    assert len(rising.state["accuracy"]) == 6
    assert rising.state["accuracy"][-1] == 1.0


def test_a_plateau_is_one_of_the_last_turn():
    """The first answers improve and the second ones do not."""
    method = score(steps=100, stage1=PLATEAU)
    for step in range(1, 8):
        method.plan(step, [])
        method.after_sampling(step, conversations([(1, 1)] * step + [(0, 1)] * (10 - step)), [])
    assert method.stage == 2


# -- adaptive beta_2 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kl", "factor"), [(1.6, 1.5), (1.4, 1.0), (0.7, 1.0), (0.6, 1 / 1.5)])
def test_beta_two_follows_the_kl_of_the_held_turns(kl, factor):
    method = score(kl={"target": 1.0})
    method.after_update(1, {"train/kl_turn1_sequence": kl, "train/kl_turn2_sequence": 99.0})
    assert method.beta(1) == pytest.approx(0.1 * factor)
    assert method.beta(2) == 0.01


def test_beta_two_is_fixed_without_a_target_and_in_stage_two():
    fixed, later = score(), score(stage=2, kl={"target": 1.0})
    for method in (fixed, later):
        method.after_update(1, {"train/kl_turn1_sequence": 50.0})
        assert method.state["beta2"] == 0.1
    assert later.beta(1) == later.beta(2) == 0.01


def test_with_three_turns_beta_two_starts_anew_and_follows_the_mean_of_both_held_turns():
    method = score(steps=12, turns=3, stage1={"share": 0.5}, kl={"target": 1.0})
    stages(method, 3, held_kl=9.0)
    assert method.state["beta2"] > 0.3
    method.plan(4, [])
    assert (method.stage, method.state["beta2"]) == (2, 0.1)
    method.after_update(
        4, {"train/kl_turn1_sequence": 0.0, "train/kl_turn2_sequence": 3.2, "train/kl_turn3_sequence": 9}
    )
    assert method.state["held_kl"] == pytest.approx(1.6)
    assert method.state["beta2"] == pytest.approx(0.15)


# -- offline first attempts -----------------------------------------------------------------------------------------


def base_answers(problems: int, each: int = 2):
    return [
        replace(answer(0, name=f"old{i}.{k}"), problem=problem(f"q{i}")) for i in range(problems) for k in range(each)
    ]


def test_offline_first_answers_come_in_stage_two_and_earn_nothing():
    library = Recorded({"base": base_answers(5)})
    make = lambda stage: score(stage, library=library, steps=3, offline_share=0.5, offline_run="base")  # noqa: E731
    assert all(a.turn == 1 for a in make(1).plan(1, []).requests)
    plan = make(2).plan(3, [])
    offline, fresh = plan.requests[:2], plan.requests[2:]
    assert [(a.turn, a.kind, a.samples) for a in offline] == [(2, AttemptKind.CHECK, 1)] * 2
    assert [(a.turn, a.samples) for a in fresh] == [(1, 2)]
    assert len({a.problem.id for a in offline}) == 1  # one problem's two answers: a baseline of their own
    assert all(a.previous.id.startswith("old") for a in offline)
    assert [a.previous.id for a in make(2).plan(3, []).requests[:2]] == [a.previous.id for a in offline]


def test_an_offline_first_answer_is_context_whose_grade_counts_in_the_bonus():
    first = base_answers(1)[0]
    request = TurnPrompts().check(TurnPrompts().first(first.problem, 1), first)
    second = answer(1, name="new", request=request)
    credits = score(stage=2, baseline="none").credit([Group(request, [second])])
    assert [r.advantage_T[0] for r in credits.rows] == [11]
    assert weights(credits)[0] == pytest.approx([1] * 4)  # one conversation


def test_a_run_without_enough_first_answers_is_an_error():
    library = Recorded({"base": base_answers(5, each=1)})
    with pytest.raises(RunError, match="first answers"):
        score(2, library=library, offline_share=0.5, offline_run="base").plan(3, [])


# -- state ----------------------------------------------------------------------------------------------------------


def test_the_state_is_plain_json_and_a_resumed_method_goes_on_the_same():
    cfg = {"steps": 20, "stage1": PLATEAU, "kl": {"target": 1.0}}
    whole, first, second = score(**cfg), score(**cfg), score(**cfg)
    seen = stages(whole, 12, held_kl=0.5)
    head = stages(first, 4, held_kl=0.5)
    second.state |= json.loads(json.dumps(first.state))
    tail = []
    for step in range(5, 13):
        plan = second.plan(step, [])
        tail.append((second.stage, plan.reference))
        second.after_sampling(step, conversations([(0, 1)] * 2), [])
        second.after_update(step, {"train/kl_turn1_sequence": 0.5})
    assert head + tail == seen
    assert second.state == whole.state
    assert {s for s, _ in seen} == {1, 2}
