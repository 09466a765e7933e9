"""Our GRPO loss and its gradient against TRL's on the same random batch: an oracle that shares none of our code.

Prompts and completions have random lengths (so TRL pads and we cut into micro-batches), advantages are random, the old
log-probs lie off the policy so that the clip bites on both sides, and only some tokens of each completion are trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tests_tokenizer import TOKENIZER
from training.tiny_policy import VOCABULARY, random_policy

from scrpo_cli.methods.base import Credits, flat_credit
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.update import Updater, microbatches, weighted_rows
from scrpo_cli.types import Completion, FinishReason

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'scrpo-cli[bench]'")
if not (1, 14) <= tuple(int(part) for part in trl.__version__.split(".")[:2]) < (1, 17):
    pytest.skip(f"TRL {trl.__version__} is outside the tested window >=1.14,<1.17", allow_module_level=True)

NORMALIZERS = {"grpo": "sequence_mean", "bnpo": "masked_tokens", "dapo": "masked_tokens", "dr_grpo": "constant"}
TEMPERATURE, MAX_TOKENS, ROWS = 0.8, 20, 7


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


def theirs(trainer: Any, policy: Policy, data: Batch, loss_type: str, beta: float) -> tuple[float, np.ndarray]:
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
    trainer.loss_type, trainer.beta = loss_type, beta
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


def ours(policy: Policy, data: Batch, normalizer: str, beta: float, tokens: int) -> tuple[float, np.ndarray, float]:
    """Our loss over micro-batches of at most `tokens`, its gradient, and the share of clipped tokens."""
    recipe = Recipe.model_validate(
        {
            "rollout": {"max_tokens": MAX_TOKENS, "temperature": TEMPERATURE},
            "method": {"name": "grpo", "kl": {"beta": beta}},
        }
    )
    rows = [
        flat_credit(len(c.ids), float(a), beta, m)
        for c, a, m in zip(data.completions, data.advantages_B, data.masks, strict=True)
    ]
    updater = Updater(policy, recipe)
    policy.model.zero_grad()
    batch = weighted_rows(data.completions, rows, Credits(rows, normalizer), recipe)
    stats = [updater.backward(micro) for micro in microbatches(batch, tokens)]
    clipped = torch.cat([s["clipped"] for s in stats]).mean()
    return float(sum(s["loss"] for s in stats)), gradient(policy), float(clipped)


def gradient(policy: Policy) -> np.ndarray:
    return np.concatenate([p.grad.flatten().numpy() for p in policy.trainable() if p.grad is not None])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(autouse=True)
def _no_gradient_left(policy: Policy) -> Iterator[None]:
    yield
    policy.model.zero_grad()


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", NORMALIZERS)
@pytest.mark.parametrize("tokens", [10_000, 40])
def test_loss_and_gradient_equal_trls(policy: Policy, trainer: Any, loss_type: str, beta: float, tokens: int) -> None:
    for seed in range(3):
        data = batch(policy, seed)
        their_loss, their_gradient = theirs(trainer, policy, data, loss_type, beta)
        our_loss, our_gradient, clipped = ours(policy, data, NORMALIZERS[loss_type], beta, tokens)
        assert 0.05 < clipped < 0.95, "the clip must be active on some tokens for this to test it"
        assert our_loss == pytest.approx(their_loss, rel=1e-5)
        assert relative(our_gradient, their_gradient) < 1e-5


def test_the_comparison_can_fail(policy: Policy, trainer: Any) -> None:
    """Another normaliser, another advantage or a missing KL term lies far outside the tolerance."""
    data = batch(policy, 0)
    _, their_gradient = theirs(trainer, policy, data, "grpo", 0.1)
    assert relative(ours(policy, data, "constant", 0.1, 10_000)[1], their_gradient) > 1e-2
    assert relative(ours(policy, data, "sequence_mean", 0.0, 10_000)[1], their_gradient) > 1e-2
    data.advantages_B[0] += 0.5
    assert relative(ours(policy, data, "sequence_mean", 0.1, 10_000)[1], their_gradient) > 1e-2
