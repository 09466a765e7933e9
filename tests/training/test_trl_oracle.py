"""The loss of our on-policy methods and its gradient against TRL's on the same random batch: an oracle that shares none
of our code.

Prompts and completions have random lengths (so TRL pads and we cut into micro-batches), advantages are random, the old
log-probs lie off the policy so that the clip bites on both sides, and only some tokens of each completion are trained.
RLOO is held against TRL's own trainer: its advantages with the KL inside the reward, and its gradient on-policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from methods.builders import context, credits_of, problem
from tests_tokenizer import TOKENIZER
from training.tiny_policy import VOCABULARY, random_policy

from scrpo_cli.methods.base import flat_credit
from scrpo_cli.methods.rloo import Rloo
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.update import Updater, microbatches, weighted_rows
from scrpo_cli.types import Attempt, Completion, FinishReason, Grade, Group, SampleRequest, Verdict

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'scrpo-cli[bench]'")
if not (1, 14) <= tuple(int(part) for part in trl.__version__.split(".")[:2]) < (1, 17):
    pytest.skip(f"TRL {trl.__version__} is outside the tested window >=1.14,<1.17", allow_module_level=True)

TEMPERATURE, MAX_TOKENS, ROWS = 0.8, 20, 7


@dataclass(frozen=True)
class Case:
    """Our method section beside what TRL calls the same loss."""

    method: dict[str, Any]
    loss_type: str
    level: str = "token"
    """TRL's importance_sampling_level."""
    low: float = 0.2
    high: float = 0.2
    """TRL's epsilon and epsilon_high. For cispo the latter bounds the ratio itself: ours plus 1."""
    strangers: dict[str, Any] = field(default_factory=dict)
    """A change of our section that must be seen."""


CASES = {
    "grpo": Case({"name": "grpo", "loss": {"normalizer": "sequence_mean"}}, "grpo", strangers={"loss": {}}),
    "bnpo": Case({"name": "grpo"}, "bnpo", strangers={"loss": {"normalizer": "all_tokens"}}),
    "dapo": Case({"name": "dapo"}, "dapo", high=0.28, strangers={"clip": {"high": 0.2}}),
    "dr_grpo": Case({"name": "dr_grpo"}, "dr_grpo", strangers={"loss": {"normalizer": "all_tokens"}}),
    "gspo": Case({"name": "gspo"}, "grpo", "sequence", 3e-4, 4e-4, {"clip": {"kind": "ppo"}}),
    "gspo-wide": Case(
        {"name": "gspo", "clip": {"kind": "gspo", "low": 0.05, "high": 0.1}},
        "grpo",
        "sequence",
        0.05,
        0.1,
        {"clip": {"kind": "gspo", "low": 0.05, "high": 0.05}},
    ),
    "cispo": Case({"name": "cispo"}, "cispo", high=1.28, strangers={"clip": {"kind": "ppo", "low": 1.0, "high": 0.28}}),
    "cispo-wide": Case(
        {"name": "cispo", "clip": {"kind": "cispo", "low": 1.0, "high": 0.6}},
        "cispo",
        high=1.6,
        strangers={"clip": {"kind": "cispo", "low": 1.0, "high": 0.28}},
    ),
}


@dataclass
class Batch:
    """Completions with sampled log-probs, and per row an advantage and a token mask."""

    completions: list[Completion]
    advantages_B: np.ndarray
    masks: list[np.ndarray]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy()


@pytest.fixture(scope="module")
def trainer(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer over our policy's own module; only its loss is called."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        max_completion_length=MAX_TOKENS,
        temperature=TEMPERATURE,
        num_generations=2,
        per_device_train_batch_size=2,
        use_bias_correction_kl=False,  # its default multiplies k3 by the ratio (DeepSeek-V3.2); GRPO's k3 does not
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    data = Dataset.from_list([{"prompt": "1+1=?"}] * 4)
    made = GRPOTrainer(policy.model, lambda **_: [], args, train_dataset=data, processing_class=TOKENIZER)
    made.current_gradient_accumulation_steps = 1  # its training loop sets this
    return made


def batch(policy: Policy, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    pairs = [
        (rng.integers(5, VOCABULARY, rng.integers(1, 12)).tolist(), rng.integers(5, VOCABULARY, n).tolist())
        for n in rng.integers(1, MAX_TOKENS + 1, ROWS)
    ]
    with torch.no_grad():
        logp_N, _ = completion_logprobs(policy.model, pairs, TEMPERATURE, 64)
    old = np.split(logp_N.numpy() + rng.normal(0, 0.4, len(logp_N)), np.cumsum([len(ids) for _, ids in pairs])[:-1])
    masks = [rng.integers(0, 2, len(ids)).astype(np.float32) for _, ids in pairs]
    masks[0][:] = 1
    completions = [
        Completion(prompt, ids, o.tolist(), "", FinishReason.STOP) for (prompt, ids), o in zip(pairs, old, strict=True)
    ]
    return Batch(completions, rng.normal(size=ROWS).astype(np.float32), masks)


def padded(rows: list[Any], side: str, dtype: torch.dtype = torch.long) -> torch.Tensor:
    width = max(len(row) for row in rows)
    out = torch.zeros((len(rows), width), dtype=dtype)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        out[i, place] = torch.as_tensor(row, dtype=dtype)
    return out


def theirs(trainer: Any, policy: Policy, data: Batch, case: Case, beta: float) -> tuple[float, np.ndarray]:
    """TRL's loss and the gradient of all LoRA weights."""
    prompts, ids = [c.prompt_ids for c in data.completions], [c.ids for c in data.completions]
    inputs = {
        "prompt_ids": padded(prompts, "left"),
        "prompt_mask": padded([[1] * len(p) for p in prompts], "left"),
        "completion_ids": padded(ids, "right"),
        "completion_mask": padded([[1] * len(c) for c in ids], "right"),
        "tool_mask": padded(data.masks, "right"),  # TRL's name for "which completion tokens are trained"
        "advantages": torch.from_numpy(data.advantages_B),
        "old_per_token_logps": padded([c.logprobs for c in data.completions], "right", torch.float32),
        "num_items_in_batch": torch.tensor(sum(m.sum() for m in data.masks)),
    }
    trainer.loss_type, trainer.beta, trainer.importance_sampling_level = case.loss_type, beta, case.level
    trainer.epsilon_low, trainer.epsilon_high = case.low, case.high
    policy.model.train()
    if beta:
        both = [torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], 1) for k in ("ids", "mask")]
        with torch.no_grad(), policy.reference():
            found = trainer._get_per_token_logps_and_entropies(policy.model, *both, inputs["completion_ids"].shape[1])
        inputs["ref_per_token_logps"] = found[0]
    policy.model.zero_grad()
    loss = trainer.compute_loss(policy.model, inputs)
    loss.backward()
    policy.model.eval()
    return float(loss.detach()), gradient(policy)


def recipe_of(method: dict[str, Any], beta: float) -> Recipe:
    """`method` with k3 and `beta`, which TRL's loss knows."""
    kl = {"beta": beta, "estimator": "k3"}
    rollout = {"max_tokens": MAX_TOKENS, "temperature": TEMPERATURE}
    return Recipe.model_validate({"rollout": rollout, "method": {**method, "kl": kl}})


def ours(
    policy: Policy, data: Batch, method: dict[str, Any], beta: float, tokens: int
) -> tuple[float, np.ndarray, float]:
    """Our loss over micro-batches of at most `tokens`, its gradient, and the share of clipped tokens."""
    recipe = recipe_of(method, beta)
    rows = [
        flat_credit(len(c.ids), float(a), beta, m)
        for c, a, m in zip(data.completions, data.advantages_B, data.masks, strict=True)
    ]
    updater = Updater(policy, recipe)
    policy.model.zero_grad()
    credits = credits_of(rows, recipe.method.loss.normalizer, recipe.method.clip)
    batch = weighted_rows(data.completions, rows, credits, recipe)
    stats = [updater.backward(micro, credits) for micro in microbatches(batch, tokens)]
    clipped = torch.cat([s["clipped"] for s in stats]).mean()
    return float(sum(s["loss"] for s in stats)), gradient(policy), float(clipped)


def gradient(policy: Policy) -> np.ndarray:
    return flat_gradient(policy.trainable())


def flat_gradient(parameters: Iterable[torch.nn.Parameter]) -> np.ndarray:
    return np.concatenate([p.grad.flatten().numpy() for p in parameters if p.grad is not None])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(autouse=True)
def _no_gradient_left(policy: Policy) -> Iterator[None]:
    yield
    policy.model.zero_grad()


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("tokens", [10_000, 40])
def test_loss_and_gradient_equal_trls(policy: Policy, trainer: Any, case: Case, beta: float, tokens: int) -> None:
    for seed in range(3):
        data = batch(policy, seed)
        their_loss, their_gradient = theirs(trainer, policy, data, case, beta)
        our_loss, our_gradient, clipped = ours(policy, data, case.method, beta, tokens)
        assert 0.05 < clipped < 0.95, "the clip must be active on some tokens for this to test it"
        assert our_loss == pytest.approx(their_loss, rel=1e-5)
        assert relative(our_gradient, their_gradient) < 1e-5


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_comparison_can_fail(policy: Policy, trainer: Any, case: Case) -> None:
    """Another piece of the method, another advantage or a missing KL term lies far outside the tolerance."""
    data = batch(policy, 0)
    _, their_gradient = theirs(trainer, policy, data, case, 0.1)
    assert relative(ours(policy, data, case.method | case.strangers, 0.1, 10_000)[1], their_gradient) > 1e-2
    assert relative(ours(policy, data, case.method, 0.0, 10_000)[1], their_gradient) > 1e-2
    data.advantages_B[0] += 0.5
    assert relative(ours(policy, data, case.method, 0.1, 10_000)[1], their_gradient) > 1e-2


# -- RLOO ------------------------------------------------------------------------------------------------------------

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]  # two groups of three


@pytest.fixture(scope="module")
def rloo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer over a policy of its own, whose reference is the base model."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    args = RLOOConfig(
        output_dir=str(tmp_path_factory.mktemp("rloo")),
        max_completion_length=MAX_TOKENS,
        temperature=TEMPERATURE,
        num_generations=3,
        beta=0.1,
        per_device_train_batch_size=3,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    data = Dataset.from_list([{"prompt": "1+1=?"}] * 6)
    made = RLOOTrainer(random_policy().model, lambda **_: REWARDS, args, train_dataset=data, processing_class=TOKENIZER)
    with torch.no_grad():  # TRL's reference is a copy of the adapter; without its B it is the base model
        for name, p in made.model.named_parameters():
            if ".ref." in name and "lora_B" in name:
                p.zero_()
    return made


def on_policy(policy: Policy) -> list[Completion]:
    """Six completions, three to each of two prompts, with the policy's own log-probs."""
    rng = np.random.default_rng(7)
    prompts = [rng.integers(5, VOCABULARY, n).tolist() for n in (4, 9)]
    pairs = [(prompts[i // 3], rng.integers(5, VOCABULARY, n).tolist()) for i, n in enumerate((3, 12, 7, 20, 1, 9))]
    with torch.no_grad():
        logp_N, _ = completion_logprobs(policy.model, pairs, TEMPERATURE, 64)
    old = np.split(logp_N.numpy(), np.cumsum([len(ids) for _, ids in pairs])[:-1])
    return [Completion(p, ids, o.tolist(), "", FinishReason.STOP) for (p, ids), o in zip(pairs, old, strict=True)]


def test_rloo_advantages_and_gradient_equal_trls(policy: Policy, rloo_trainer: Any) -> None:
    """Leave-one-out of the reward less beta (log pi - log pi_ref), summed over the completion."""
    completions = on_policy(policy)
    prompts, ids = [c.prompt_ids for c in completions], [c.ids for c in completions]
    rloo_trainer._generate = lambda _: (prompts, ids, ["answer"] * 6)
    inputs = rloo_trainer._generate_and_score_completions([{"prompt": "1+1=?"}] * 6)
    rloo_trainer.model.zero_grad()
    rloo_trainer.compute_loss(rloo_trainer.model, inputs).backward()
    their_gradient = flat_gradient(rloo_trainer.model.parameters())

    recipe = Recipe.model_validate(
        {
            "rollout": {"max_tokens": MAX_TOKENS, "temperature": TEMPERATURE},
            "method": {"name": "rloo", "kl": {"beta": 0.1, "estimator": "k1"}},
        }
    )
    attempts = [
        Attempt(str(i), problem(), c, Grade(Verdict.CORRECT if r else Verdict.WRONG))
        for i, (c, r) in enumerate(zip(completions, REWARDS, strict=True))
    ]
    groups = [
        Group(SampleRequest(problem(), [], 3), attempts[:3]),
        Group(SampleRequest(problem(), [], 3), attempts[3:]),
    ]
    updater = Updater(policy, recipe)
    method = Rloo(recipe.method, context(None, group_size=3))
    credits = method.credit(groups, updater.log_ratios(completions))
    assert [r.advantage_T[0] for r in credits.rows] == pytest.approx(inputs["advantages"].tolist(), abs=1e-5)
    plain = method.credit(groups, [np.zeros(len(c.ids)) for c in completions]).rows
    assert [r.advantage_T[0] for r in plain] == pytest.approx([1, -0.5, -0.5, 0.5, -1, 0.5])
    shift = [abs(a.advantage_T[0] - b.advantage_T[0]) for a, b in zip(plain, credits.rows, strict=True)]
    assert min(shift) > 1e-3, "the KL must move every advantage for this to test it"
    policy.model.zero_grad()
    for micro in microbatches(weighted_rows(completions, credits.rows, credits, recipe), 40):
        updater.backward(micro, credits)
    assert relative(gradient(policy), their_gradient) < 1e-5
