"""SDPO's loss and gradient: against TRL's trainer from groups to gradient, against autograd of the KL over a small
vocabulary, and against forward passes one row at a time.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from methods.builders import context
from tests_tokenizer import TOKENIZER
from training.tiny_policy import VOCABULARY, random_policy

from scrpo_cli.methods.base import ClipConfig, Credits
from scrpo_cli.methods.sdpo import Sdpo
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.chat import Chat, user
from scrpo_cli.rollout.prompts import TaskPrompts
from scrpo_cli.training import checkpoint
from scrpo_cli.training.checkpoint import Progress
from scrpo_cli.training.loss import TokenBatch, divergence, policy_gradient_loss
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.update import Updater, microbatches, weighted_rows
from scrpo_cli.types import Attempt, Completion, Credit, FinishReason, Grade, Group, Problem, SampleRequest, Verdict

TEMPERATURE = 0.8
MODES = {"sampled": 1.0, "reverse_kl": 1.0, "forward_kl": 0.0, "jsd": 0.5}
"""Ours, and what TRL and the authors' code call alpha."""


def moved(policy: Policy) -> Policy:
    """Away from the reference that it has from now on."""
    policy.set_reference("policy")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return moved(random_policy())


def recipe(divergence: str, **method: Any) -> Recipe:
    own = {"name": "sdpo", "divergence": divergence, "normalizer": "sequence_mean"} | method
    return Recipe.model_validate({"rollout": {"max_tokens": 64, "temperature": TEMPERATURE}, "method": own})


def flat_gradient(policy: Policy) -> np.ndarray:
    return np.concatenate([p.grad.flatten().numpy() for p in policy.trainable() if p.grad is not None])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def gradient(policy: Policy, cfg: Recipe, completions: list[Completion], credits: Credits, tokens: int) -> Any:
    """The loss over micro-batches of at most `tokens` and its gradient."""
    updater = Updater(policy, cfg)
    policy.model.zero_grad()
    rows = weighted_rows(completions, credits.rows, credits, cfg)
    stats = [updater.backward(micro, credits) for micro in microbatches(rows, tokens)]
    found = flat_gradient(policy)
    policy.model.zero_grad()
    return float(sum(s["loss"] for s in stats)), found


# -- a vocabulary small enough to enumerate --------------------------------------------------------------------------


def logps(seed: int, requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


def test_divergences_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    m = torch.tensor([[0.7, 0.3]])
    expected = {
        "reverse_kl": 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1),
        "forward_kl": 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5),
        "jsd": 0.5 * float((p * (p / m).log()).sum()) + 0.5 * float((q * (q / m).log()).sum()),
    }
    found = {kind: float(divergence(p.log(), q.log(), kind)) for kind in expected}
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_sampled_token_estimates_the_gradient_of_the_reverse_kl() -> None:
    """Over all tokens, weighted with their probability, the estimate is the gradient itself; and for one token it is a
    policy gradient with the advantage log q - log pi.
    """
    logits, reference = logps(0, requires_grad=True), torch.log_softmax(logps(1), -1)
    logp = torch.log_softmax(logits, -1)
    (exact,) = torch.autograd.grad(divergence(logp, reference, "reverse_kl").sum(), logits, retain_graph=True)
    mean = torch.zeros_like(exact)
    for v in range(logp.shape[1]):
        zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        batch = TokenBatch(logp[:, v], zeros, reference[:, v], zeros, ones, ones, torch.arange(3))
        loss, _ = policy_gradient_loss(batch, ClipConfig(kind="none"), "k2")
        (estimate,) = torch.autograd.grad(loss, logits, retain_graph=True)
        advantage = (reference - logp)[:, v].detach()
        (policy_gradient,) = torch.autograd.grad(-(advantage * logp[:, v]).sum(), logits, retain_graph=True)
        assert torch.allclose(estimate, policy_gradient)
        mean += logp[:, v].detach().exp().unsqueeze(1) * estimate
    assert torch.allclose(mean, exact)
    assert exact.abs().max() > 0.05


# -- one row at a time -----------------------------------------------------------------------------------------------


def rows_of_lengths(lengths: list[tuple[int, int, int]]) -> tuple[list[Completion], list[Credit]]:
    """Completions whose teacher reads another prompt of another length; some tokens are masked."""
    rng = np.random.default_rng(3)
    completions, rows = [], []
    for own, theirs, length in lengths:
        prompt, teacher, ids = (rng.integers(5, VOCABULARY, n).tolist() for n in (own, theirs, length))
        mask_T = rng.integers(0, 2, length).astype(np.float32)
        mask_T[-1] = 1
        completions.append(Completion(prompt, ids, [0.0] * length, "", FinishReason.STOP))
        rows.append(Credit(np.zeros_like(mask_T), mask_T, np.ones_like(mask_T), "", teacher))
    return completions, rows


def distributions(policy: Policy, prompt: Any, ids: Any) -> torch.Tensor:
    """(T, V) next-token log-probs of one row, from the whole model's own logits."""
    logits_LV = policy.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0] / TEMPERATURE
    return torch.log_softmax(logits_LV[len(prompt) - 1 : -1], -1)


def by_hand(mode: str, p_TV: torch.Tensor, q_TV: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
    """(T,) the loss of each token, from sums over the vocabulary."""
    m_TV = ((p_TV.exp() + q_TV.exp()) / 2).log()
    return {
        "sampled": (p_TV - q_TV).gather(1, picked).squeeze(1).square() / 2,
        "reverse_kl": (p_TV.exp() * (p_TV - q_TV)).sum(-1),
        "forward_kl": (q_TV.exp() * (q_TV - p_TV)).sum(-1),
        "jsd": ((p_TV.exp() * (p_TV - m_TV)).sum(-1) + (q_TV.exp() * (q_TV - m_TV)).sum(-1)) / 2,
    }[mode]


@pytest.mark.parametrize("tokens", [10_000, 40])
@pytest.mark.parametrize("mode", MODES)
def test_every_token_is_held_against_what_the_teacher_says_at_its_place(policy: Policy, mode: str, tokens: int) -> None:
    completions, rows = rows_of_lengths([(3, 17, 5), (12, 2, 9), (1, 1, 1), (6, 6, 12)])
    cfg = recipe(mode)
    credits = Credits(rows, "masked_tokens", ClipConfig(kind="none"), "k2" if mode == "sampled" else mode)
    loss, found = gradient(policy, cfg, completions, credits, tokens)
    policy.model.zero_grad()
    with torch.no_grad(), policy.reference():  # all of them first: it swaps the weights, which no graph must have seen
        taught = [distributions(policy, row.reference_prompt, c.ids) for c, row in zip(completions, rows, strict=True)]
    total = torch.tensor(0.0)
    for c, row, q_TV in zip(completions, rows, taught, strict=True):
        p_TV, picked = distributions(policy, c.prompt_ids, c.ids), torch.tensor(c.ids).unsqueeze(1)
        per_token = by_hand(mode, p_TV, q_TV, picked)
        total = total + (per_token * torch.from_numpy(row.mask_T)).sum()
    total = total / sum(row.mask_T.sum() for row in rows)
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-4)
    assert relative(found, flat_gradient(policy)) < 1e-4
    policy.model.zero_grad()


def test_a_teacher_one_token_off_is_seen(policy: Policy) -> None:
    completions, rows = rows_of_lengths([(3, 17, 5), (12, 2, 9)])
    cut = [Credit(r.advantage_T, r.mask_T, r.kl_T, "", [*r.reference_prompt, 7]) for r in rows]
    found = [
        gradient(policy, recipe("jsd"), completions, Credits(each, "masked_tokens", ClipConfig(kind="none"), "jsd"), 99)
        for each in (rows, cut)
    ]
    assert relative(found[0][1], found[1][1]) > 1e-2


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_comes_to_say_what_its_teacher_says(mode: str) -> None:
    """Optimizer steps against the policy that it was, after other prompts: the divergence goes, whatever it is."""
    policy = random_policy()
    policy.set_reference("policy")
    completions, rows = rows_of_lengths([(3, 17, 5), (12, 2, 9)])
    optim = {"lr": 0.02, "grad_clip": 100.0}
    cfg = recipe("jsd").model_copy(update={"optim": Recipe.model_validate({"optim": optim}).optim})
    updater = Updater(policy, cfg)
    credits = Credits(rows, "masked_tokens", ClipConfig(kind="none"), "k2" if mode == "sampled" else mode)
    found = [updater.update(step, completions, credits)["train/kl"] for step in range(1, 41)]
    assert found[0] > 0.01
    assert found[-1] < found[0] / 3


# -- the teacher's weights -------------------------------------------------------------------------------------------


def test_the_teacher_is_a_moving_average_of_policies(tmp_path: Any) -> None:
    """By hand: starts as the policy; then a quarter of the way a step; and a checkpoint carries it."""
    policy = random_policy()
    first = policy.trainable()[0]
    start = first.detach().clone()
    policy.set_reference("policy", 0.25)
    for value in (1.0, 2.0):
        with torch.no_grad():
            first.fill_(value)
        policy.set_reference("policy", 0.25)
    expected = 0.75 * (0.75 * start + 0.25 * 1.0) + 0.25 * 2.0
    assert policy.frozen is not None
    assert torch.allclose(policy.frozen[0], expected)
    optimizer = torch.optim.AdamW(policy.trainable())
    path = checkpoint.save(tmp_path, Progress(1, adapter_sha256=policy.adapter_hash()), policy, optimizer, 2)
    other = random_policy()
    checkpoint.load(path, other, torch.optim.AdamW(other.trainable()))
    other.set_reference("policy", 0.25)
    assert other.frozen is not None
    assert torch.allclose(other.frozen[0], 0.75 * expected + 0.25 * 2.0)


# -- TRL -------------------------------------------------------------------------------------------------------------

TEXTS = ["47+38=85\n\\boxed{85}", "47+38=75\n\\boxed{75}", "47+38=95", "12-5=7\n7+1=9", "12-5=6\n\\boxed{6}", "12-5=7"]
REWARDS = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]  # two groups of three: one with two right answers, one without any
ASKED = ["47+38=?", "12-5+1=?"]
EXAMPLE, WRONG = "{problem}\nCheck {shown}\nSolve again.", "{problem} is not {shown}"


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'scrpo-cli[bench]'")
    if not (1, 14) <= tuple(int(part) for part in trl.__version__.split(".")[:2]) < (1, 17):
        pytest.skip(f"TRL {trl.__version__} is outside the tested window >=1.14,<1.17")
    from datasets import Dataset
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    args = SDPOConfig(
        output_dir=str(tmp_path_factory.mktemp("sdpo")),
        max_completion_length=64,
        temperature=TEMPERATURE,
        num_generations=3,
        per_device_train_batch_size=6,
        teacher_model_kind="live",
        include_environment_feedback=True,
        environment_feedback_only_without_solution=True,
        reprompt_template="{prompt}{solution}{feedback}",
        solution_template="\nCheck {successful_previous_attempt}\nSolve again.",
        feedback_template=" is not {feedback_raw}",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    data = Dataset.from_list([{"prompt": [user(q)]} for q in ASKED for _ in range(3)])
    student = moved(random_policy()).model
    made = SDPOTrainer(student, lambda **_: REWARDS, args, train_dataset=data, processing_class=TOKENIZER)
    made.teacher_model = random_policy().model  # the weights that the policy was moved away from
    made.current_gradient_accumulation_steps = 1
    return made


def groups() -> list[Group]:
    chat = Chat(TOKENIZER)
    found = []
    for g, question in enumerate(ASKED):
        problem = Problem(str(g), "test", question, "0")
        attempts = []
        for i in range(3 * g, 3 * g + 3):
            ids = [*TOKENIZER.encode(TEXTS[i], add_special_tokens=False), TOKENIZER.eos_token_id]
            completion = Completion(chat.ids([user(question)]), ids, [0.0] * len(ids), TEXTS[i], FinishReason.STOP)
            grade = Grade(Verdict.CORRECT if REWARDS[i] else Verdict.WRONG)
            attempts.append(Attempt(str(i), problem, completion, grade))
        found.append(Group(SampleRequest(problem, [user(question)], 3), attempts))
    return found


def trls(trainer: Any, sampled: list[Group], mode: str, wrong: bool) -> tuple[dict[str, Any], float, np.ndarray]:
    """What TRL makes of the same completions: its batch, loss and gradient of the LoRA weights."""
    completions = [a.completion for g in sampled for a in g.attempts]
    prompts, ids = [list(c.prompt_ids) for c in completions], [list(c.ids) for c in completions]
    trainer._generate = lambda _: (prompts, ids)
    args = trainer.args
    args.distillation_mode = "sampled_token" if mode == "sampled" else "full_logits"
    args.distillation_alpha = MODES[mode]
    inputs = [
        {"prompt": list(g.request.messages), "privileged_context": None if a.reward or not wrong else a.completion.text}
        for g in sampled
        for a in g.attempts
    ]
    trainer.model.train()
    batch = trainer._prepare_training_batch(inputs)
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = [p.grad.flatten().numpy() for p in trainer.model.parameters() if p.grad is not None]
    return batch, float(loss.detach()), np.concatenate(found)


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_teachers_loss_and_gradient_equal_trls(policy: Policy, trl_trainer: Any, mode: str, wrong: bool) -> None:
    """From graded groups: who is taught by what, the prompts token by token, the loss, the gradient."""
    cfg = recipe(mode, example=EXAMPLE, wrong=WRONG if wrong else "")
    sampled = groups()
    completions = [a.completion for g in sampled for a in g.attempts]
    prompts = TaskPrompts(cfg, SimpleNamespace(error_kinds=()), Chat(TOKENIZER), [])  # type: ignore[arg-type]
    credits = Sdpo(cfg.method, context(prompts, group_size=3)).credit(sampled)  # type: ignore[arg-type]
    batch, their_loss, their_gradient = trls(trl_trainer, sampled, mode, wrong)

    assert [float(row.mask_T.any()) for row in credits.rows] == batch["self_distillation_mask"].tolist()
    assert [bool(row.mask_T.any()) for row in credits.rows] == [True, True, True] + [wrong] * 3
    for row, c, ids, mask in zip(
        credits.rows, completions, batch["teacher_input_ids"], batch["teacher_attention_mask"], strict=True
    ):
        if row.mask_T.any():
            assert ids[mask.bool()].tolist() == [*row.reference_prompt, *c.ids]
    for tokens in (10_000, 120):
        loss, found = gradient(policy, cfg, completions, credits, tokens)
        if mode != "sampled":  # TRL's sampled loss has the gradient of ours; its value means nothing
            assert loss == pytest.approx(their_loss, rel=1e-4)
        assert relative(found, their_gradient) < 1e-4
    assert np.linalg.norm(their_gradient) > 1e-3
