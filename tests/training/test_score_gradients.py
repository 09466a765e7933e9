"""SCoRe on real tensors: a random policy, real second turns by the chat template, the real update.

What reaches which token is shown twice. By the loss of a micro-batch: its gradient in each token's log-prob. By the
LoRA weights: their gradient equals that of the paper's objective, written down here over plain transformers and split
into the terms of Eq. 3 and 4. The adapter does not start as the identity, else the KL would have no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from methods.builders import context
from methods.turns_builders import Recorded, answer
from tests_tokenizer import TOKENIZER
from training.tiny_policy import random_policy

from scrpo_cli.methods.base import Credits
from scrpo_cli.methods.score import Score
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.prompts import TaskPrompts
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.tasks.tiny import TinyTask
from scrpo_cli.training import checkpoint
from scrpo_cli.training.checkpoint import Progress
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.loss import policy_gradient_loss
from scrpo_cli.training.update import TrainRow, Updater, microbatches, weighted_rows
from scrpo_cli.types import Completion, FinishReason, Group, SampleRequest

POLICY = random_policy()
PROBLEMS, SAMPLES = 2, 3
FIRST = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
SECOND = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
BETA1, BETA2 = 0.3, 0.7


def recipe(**kl: object) -> Recipe:
    return Recipe.model_validate(
        {
            "rollout": {"max_tokens": 12},
            "optim": {"prompts_per_step": PROBLEMS, "tokens_per_microbatch": 400},
            "method": {"name": "score", "kl": {"beta1": BETA1, "beta2": BETA2, **kl}},
        }
    )


def prompts_of(cfg: Recipe) -> TaskPrompts:
    task = TinyTask(cfg.task)
    return TaskPrompts(cfg, task, Chat(TOKENIZER), task.problems(cfg.task.train))


def method_of(cfg: Recipe, stage: int) -> Score:
    method = Score(cfg.method, context(prompts_of(cfg), Recorded(), group_size=SAMPLES))
    method.state["stage"] = stage
    return method


def sampled(prompts: Sequence[Sequence[int]], step: int) -> list[Completion]:
    """Answers of random length with an end token, and the policy's own log-probs."""
    engine = TransformersEngine(POLICY)
    keys = [RowKey(0, step, "test", i) for i in range(len(prompts))]
    rows = [
        (list(p), [*c.ids[: 2 + i % 5], TOKENIZER.eos_token_id])
        for i, (p, c) in enumerate(zip(prompts, engine.generate(prompts, Sampling(1.0, 8), keys), strict=True))
    ]
    with torch.no_grad():
        logp_N, _ = completion_logprobs(POLICY.model, rows, 1.0, 64)
    old = np.split(logp_N.numpy(), np.cumsum([len(ids) for _, ids in rows])[:-1])
    return [
        Completion(p, ids, o.tolist(), TOKENIZER.decode(ids[:-1]), FinishReason.STOP)
        for (p, ids), o in zip(rows, old, strict=True)
    ]


def graded(request: SampleRequest, completions: Sequence[Completion], rewards: Sequence[float], name: str) -> Group:
    return Group(
        request,
        [
            replace(answer(r, name=f"{name}.{i}", request=request), completion=c)
            for i, (c, r) in enumerate(zip(completions, rewards, strict=True))
        ],
    )


@pytest.fixture(scope="module")
def texts() -> tuple[list[SampleRequest], list[Completion], list[list[int]], list[Completion]]:
    """First asks, first answers, second prompts and second answers."""
    prompts = prompts_of(recipe())
    requests = [prompts.first(p, SAMPLES) for p in prompts.problems(1)]
    firsts = sampled([prompts.ids(a) for a in requests for _ in range(SAMPLES)], 1)
    seconds_asked = []
    for i, first in enumerate(firsts):
        request = requests[i // SAMPLES]
        attempt = replace(answer(0, name=str(i), request=request), completion=first)
        seconds_asked.append(prompts.ids(prompts.check(request, attempt)))
    return requests, firsts, seconds_asked, sampled(seconds_asked, 2)


def groups_of(texts, first: Sequence[float], second: Sequence[float]) -> list[Group]:
    requests, firsts, _, seconds = texts
    prompts = prompts_of(recipe())
    groups, attempts = [], []
    for g, request in enumerate(requests):
        place = slice(g * SAMPLES, (g + 1) * SAMPLES)
        groups.append(graded(request, firsts[place], first[place], f"first{g}"))
        attempts += [(request, a) for a in groups[-1].attempts]
    for i, (request, a) in enumerate(attempts):
        groups.append(graded(prompts.check(request, a), [seconds[i]], [second[i]], f"second{i}"))
    return groups


def trained_rows(cfg: Recipe, method: Score, groups: Sequence[Group]) -> tuple[list[TrainRow], Credits]:
    attempts = [a for g in groups for a in g.attempts]
    updater = Updater(POLICY, cfg)
    completions = [a.completion for a in attempts]
    credits = method.credit(groups, updater.log_ratios(completions))
    rows = weighted_rows(completions, credits.rows, credits, cfg)
    return rows, credits


def token_gradients(cfg: Recipe, stage: int, texts, first=FIRST, second=SECOND) -> dict[int, np.ndarray]:
    """d loss / d log-prob of every trained token, by turn, in the order of the completions."""
    rows, _ = trained_rows(cfg, method_of(cfg, stage), groups_of(texts, first, second))
    batch, *_ = Updater(POLICY, cfg).token_batch(rows)
    logp_N = batch.logp_N.detach().requires_grad_()
    loss, _ = policy_gradient_loss(replace(batch, logp_N=logp_N), cfg.method.clip, cfg.method.kl.estimator)
    (gradient_N,) = torch.autograd.grad(loss, logp_N)
    turns = np.repeat([int(r.credit.part[-1]) for r in rows], [len(r.completion.ids) for r in rows])
    return {t: gradient_N.numpy()[turns == t] for t in (1, 2)}


def weight_gradient(cfg: Recipe, stage: int, texts, first=FIRST, second=SECOND) -> np.ndarray:
    """Of all LoRA weights, by the real update."""
    rows, credits = trained_rows(cfg, method_of(cfg, stage), groups_of(texts, first, second))
    updater = Updater(POLICY, cfg)
    POLICY.model.zero_grad()
    for micro in microbatches(rows, updater.microbatch_tokens):
        updater.backward(micro, credits)
    found = np.concatenate([p.grad.flatten().numpy() for p in POLICY.trainable()])
    POLICY.model.zero_grad()
    return found


# -- the paper's objective over plain transformers --------------------------------------------------------------------


def plain_logps(prompt: Sequence[int], ids: Sequence[int]) -> torch.Tensor:
    logits = POLICY.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def objective_gradient(texts, rewards: Sequence[Sequence[float]], betas: Sequence[float]) -> np.ndarray:
    """Of -mean over conversations of sum_i [ A_i log pi(y_i|x_i) - beta_i KL(y_i) ], KL by d^2/2 summed over tokens."""
    _, firsts, _, seconds = texts
    POLICY.model.zero_grad()
    total = torch.zeros(())
    for turn, completions in enumerate((firsts, seconds)):
        advantages = others_subtracted(rewards[turn])
        for c, advantage in zip(completions, advantages, strict=True):
            with torch.no_grad(), POLICY.model.disable_adapter():
                ref = plain_logps(c.prompt_ids, c.ids)
            logp = plain_logps(c.prompt_ids, c.ids)
            total = total - advantage * logp.sum() + betas[turn] * ((ref - logp) ** 2 / 2).sum()
    (total / len(firsts)).backward()
    found = np.concatenate([p.grad.flatten().numpy() for p in POLICY.trainable()])
    POLICY.model.zero_grad()
    return found


def others_subtracted(rewards: Sequence[float]) -> list[float]:
    out = []
    for i, r in enumerate(rewards):
        same = [x for j, x in enumerate(rewards) if j != i and j // SAMPLES == i // SAMPLES]
        out.append(r - sum(same) / len(same))
    return out


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


NOTHING = [0.0] * PROBLEMS * SAMPLES


# -- Stage I ----------------------------------------------------------------------------------------------------------


def test_in_stage_one_the_first_turn_has_a_kl_gradient_and_no_reward_gradient_and_the_second_the_reverse(texts):
    found = token_gradients(recipe(beta1=0.0), 1, texts)
    _, firsts, _, seconds = texts
    with torch.no_grad(), POLICY.reference():
        ref = torch.cat([plain_logps(c.prompt_ids, c.ids) for c in firsts]).numpy()
    logp = np.concatenate([c.logprobs for c in firsts])
    assert found[1] == pytest.approx(BETA2 * (logp - ref) / 6, abs=1e-5)  # six conversations
    assert np.abs(found[1]).min() > 0
    advantages = np.repeat(others_subtracted(SECOND), [len(c.ids) for c in seconds])
    assert found[2] == pytest.approx(-advantages / 6, abs=1e-6)


def test_in_stage_one_rewards_of_the_first_turn_change_no_gradient_at_all(texts):
    flipped = [1 - r for r in FIRST]
    assert np.array_equal(weight_gradient(recipe(), 1, texts), weight_gradient(recipe(), 1, texts, first=flipped))


def test_in_stage_one_rewards_of_the_second_turn_change_nothing_on_the_first(texts):
    one = token_gradients(recipe(), 1, texts)
    two = token_gradients(recipe(), 1, texts, second=[1 - r for r in SECOND])
    assert np.array_equal(one[1], two[1])
    assert not np.array_equal(one[2], two[2])


def test_the_gradient_of_stage_one_is_that_of_equation_three(texts):
    """KL of turn 1 alone plus reward of turn 2 alone, each worked out by itself; then with beta_1 on turn 2."""
    kl_alone = objective_gradient(texts, [NOTHING, NOTHING], [BETA2, 0.0])
    reward_alone = objective_gradient(texts, [NOTHING, SECOND], [0.0, 0.0])
    assert np.linalg.norm(kl_alone) > 1e-3
    assert np.linalg.norm(reward_alone) > 1e-3
    assert relative(weight_gradient(recipe(beta1=0.0), 1, texts), kl_alone + reward_alone) < 1e-5
    small_kl = objective_gradient(texts, [NOTHING, NOTHING], [0.0, BETA1])
    assert relative(weight_gradient(recipe(), 1, texts), kl_alone + reward_alone + small_kl) < 1e-5


def test_without_beta_two_nothing_holds_the_first_turn(texts):
    """What both public reproductions do: their Stage I has no gradient on turn-1 tokens (methods.md 2.8)."""
    with_kl, without = (weight_gradient(recipe(beta1=0.0, beta2=b), 1, texts) for b in (BETA2, 0.0))
    assert relative(without, objective_gradient(texts, [NOTHING, SECOND], [0.0, 0.0])) < 1e-5
    assert relative(without, with_kl) > 1e-2


def test_where_the_policy_is_the_reference_stage_one_has_no_kl_gradient(texts):
    """A fresh adapter: the KL pulls only once the policy has moved."""
    POLICY.set_reference("policy")
    try:
        found = token_gradients(recipe(beta1=0.0), 1, texts)
    finally:
        POLICY.set_reference("base")
    assert np.abs(found[1]).max() < 1e-5
    assert np.abs(found[2]).max() > 0.1


# -- Stage II ---------------------------------------------------------------------------------------------------------

SHAPED = [r2 + 10 * (r2 - r1) for r1, r2 in zip(FIRST, SECOND, strict=True)]


def test_the_gradient_of_stage_two_is_that_of_equation_four_with_the_bonus(texts):
    """alpha = 10 makes gradients large: the tolerance is relative."""
    expected = objective_gradient(texts, [FIRST, SHAPED], [BETA1, BETA1])
    assert relative(weight_gradient(recipe(), 2, texts), expected) < 1e-5
    unshaped = objective_gradient(texts, [FIRST, SECOND], [BETA1, BETA1])
    assert relative(unshaped, expected) > 0.1


def test_in_stage_two_rewards_of_the_second_turn_change_nothing_on_the_first(texts):
    one = token_gradients(recipe(), 2, texts)
    two = token_gradients(recipe(), 2, texts, second=[1 - r for r in SECOND])
    assert np.array_equal(one[1], two[1])
    assert not np.array_equal(one[2], two[2])


def test_in_stage_two_rewards_of_the_first_turn_change_it_and_through_the_bonus_the_second(texts):
    flipped = [1 - r for r in FIRST]
    one, two = token_gradients(recipe(), 2, texts), token_gradients(recipe(), 2, texts, first=flipped)
    assert not np.array_equal(one[1], two[1])
    assert not np.array_equal(one[2], two[2])


def test_k1_gives_the_kl_gradient_of_each_turn_through_its_reward(texts):
    """Stage I, one conversation's turn 1: -(beta_2 sum_t log pi/pi_ref, less the others') on each of its tokens."""
    found = token_gradients(recipe(beta1=0.0, estimator="k1"), 1, texts)
    _, firsts, _, _ = texts
    with torch.no_grad(), POLICY.reference():
        ref = [float(plain_logps(c.prompt_ids, c.ids).sum()) for c in firsts]
    sums = [float(np.sum(c.logprobs)) - r for c, r in zip(firsts, ref, strict=True)]
    expected = BETA2 * np.repeat(others_subtracted(sums), [len(c.ids) for c in firsts]) / 6
    assert found[1] == pytest.approx(expected, abs=1e-5)


# -- the sequences ----------------------------------------------------------------------------------------------------


def test_the_second_turn_is_conditioned_on_the_very_tokens_of_the_first(texts):
    _, firsts, asked, seconds = texts
    for first, prompt, second in zip(firsts, asked, seconds, strict=True):
        so_far = [*first.prompt_ids, *first.ids]
        assert prompt[: len(so_far)] == so_far
        assert second.prompt_ids == prompt


def test_kl_is_reported_by_turn(texts):
    cfg = recipe()
    groups = groups_of(texts, FIRST, SECOND)
    policy = random_policy()
    completions = [a.completion for g in groups for a in g.attempts]
    stats = Updater(policy, cfg).update(1, completions, method_of(cfg, 1).credit(groups))
    _, firsts, _, _ = texts
    with torch.no_grad(), POLICY.reference():
        ref = [plain_logps(c.prompt_ids, c.ids).numpy() for c in firsts]
    k2 = [float(((r - np.array(c.logprobs)) ** 2 / 2).sum()) for c, r in zip(firsts, ref, strict=True)]
    assert stats["train/kl_turn1_sequence"] == pytest.approx(np.mean(k2), rel=1e-3)
    assert stats["train/kl_turn1"] == pytest.approx(np.sum(k2) / sum(len(c.ids) for c in firsts), rel=1e-3)
    assert stats["train/kl_turn2_sequence"] > 0


# -- the swapped reference --------------------------------------------------------------------------------------------

ROWS = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13])]


def logps(policy) -> np.ndarray:
    with torch.no_grad():
        return completion_logprobs(policy.model, ROWS, 1.0, 64)[0].numpy()


def reference_logps(policy) -> np.ndarray:
    with policy.reference():
        return logps(policy)


def moved(policy) -> None:
    with torch.no_grad():
        for p in policy.trainable():
            p.add_(0.05)


def test_a_frozen_reference_is_the_policy_of_that_moment_and_leaves_the_weights_alone():
    policy = random_policy()
    base, then = reference_logps(policy), logps(policy)
    policy.set_reference("policy")
    moved(policy)
    weights = policy.adapter_hash()
    assert np.array_equal(reference_logps(policy), then)
    assert policy.adapter_hash() == weights
    assert np.abs(logps(policy) - then).max() > 1e-3
    assert np.abs(base - then).max() > 1e-3
    policy.set_reference("base")
    assert np.array_equal(reference_logps(policy), base)


def test_an_error_inside_the_reference_gives_the_weights_back():
    policy = random_policy()
    policy.set_reference("policy")
    moved(policy)
    weights = policy.adapter_hash()
    with pytest.raises(KeyError), policy.reference():
        raise KeyError
    assert policy.adapter_hash() == weights


def test_the_update_sees_the_frozen_reference_and_trains_the_policy_all_the_same(texts):
    """The swap happens between forward passes: gradients are those of the policy's own weights."""
    cfg = recipe(beta1=0.0)
    POLICY.set_reference("policy")
    try:
        frozen = weight_gradient(cfg, 1, texts)
    finally:
        POLICY.set_reference("base")
    assert relative(frozen, objective_gradient(texts, [NOTHING, SECOND], [0.0, 0.0])) < 1e-4


def test_a_checkpoint_carries_the_frozen_reference(tmp_path):
    cfg, policy = recipe(), random_policy()
    policy.set_reference("policy")
    moved(policy)
    updater = Updater(policy, cfg)
    path = checkpoint.save(tmp_path, Progress(3, adapter_sha256=policy.adapter_hash()), policy, updater.optimizer, 2)
    other = random_policy(rank=4)
    moved(other)
    moved(other)
    checkpoint.load(path, other, Updater(other, cfg).optimizer)
    assert np.array_equal(reference_logps(other), reference_logps(policy))
    assert np.array_equal(logps(other), logps(policy))
