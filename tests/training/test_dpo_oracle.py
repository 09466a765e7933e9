"""DPO against TRL's trainer on the same random pairs: loss, margins, accuracy and the gradient of all LoRA weights.

Ours is no loss of its own but a policy gradient whose advantages are settled by the log-ratios (methods/dpo.py); that
its gradient is DPO's is what is to be shown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests_tokenizer import TOKENIZER
from training.tiny_policy import VOCABULARY, random_policy

from scrpo_cli.methods.dpo import preference_credits
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.update import Updater, microbatches, weighted_rows
from scrpo_cli.types import Completion, FinishReason

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'scrpo-cli[bench]'")
if not (1, 14) <= tuple(int(part) for part in trl.__version__.split(".")[:2]) < (1, 17):
    pytest.skip(f"TRL {trl.__version__} is outside the tested window >=1.14,<1.17", allow_module_level=True)

BETA = 0.3


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer over an equal policy of its own, because it adds a reference adapter to its model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("dpo")),
        beta=BETA,
        per_device_train_batch_size=2,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    data = Dataset.from_list([{"prompt": "1+1=?", "chosen": "2", "rejected": "3"}] * 2)
    made = DPOTrainer(random_policy().model, args=args, train_dataset=data, processing_class=TOKENIZER)
    with torch.no_grad():  # its reference is a copy of the adapter; without its B it is the base model
        for name, p in made.model.named_parameters():
            if ".ref." in name and "lora_B" in name:
                p.zero_()
    return made


Pair = tuple[Completion, Completion]


def random_pairs(seed: int, count: int = 5) -> list[Pair]:
    rng = np.random.default_rng(seed)

    def answer(prompt: list[int]) -> Completion:
        ids = rng.integers(5, VOCABULARY, rng.integers(1, 15)).tolist()
        return Completion(prompt, ids, [0.0] * len(ids), "", FinishReason.STOP)

    prompts = [rng.integers(5, VOCABULARY, rng.integers(1, 10)).tolist() for _ in range(count)]
    return [(answer(p), answer(p)) for p in prompts]


def theirs(trainer: Any, pairs: list[Pair]) -> tuple[dict[str, float], np.ndarray]:
    examples = [{"prompt_ids": c.prompt_ids, "chosen_ids": c.ids, "rejected_ids": r.ids} for c, r in pairs]
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    loss.backward()
    measured = trainer._metrics["train"]
    found = {
        "train/dpo_loss": loss.item(),
        "train/dpo_margin": measured["rewards/margins"][-1],
        "train/dpo_accuracy": measured["rewards/accuracies"][-1],
    }
    return found, flat(trainer.model.parameters())


def ours(policy: Policy, pairs: list[Pair], beta: float, tokens: int) -> tuple[dict[str, float], np.ndarray]:
    recipe = Recipe.model_validate(
        {"method": {"name": "dpo", "beta": beta, "runs": ["r"]}, "optim": {"tokens_per_microbatch": tokens}}
    )
    updater = Updater(policy, recipe)
    completions = [c for pair in pairs for c in pair]
    credits = preference_credits(updater.log_ratios(completions), beta)
    policy.model.zero_grad()
    for micro in microbatches(weighted_rows(completions, credits.rows, credits, recipe), tokens):
        updater.backward(micro, credits)
    return dict(credits.metrics), flat(policy.trainable())


def flat(parameters: Any) -> np.ndarray:
    return np.concatenate([p.grad.flatten().numpy() for p in parameters if p.grad is not None])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("tokens", [10_000, 40])
def test_loss_margin_accuracy_and_gradient_equal_trls(policy: Policy, trainer: Any, tokens: int) -> None:
    accuracies = set()
    for seed in range(3):
        pairs = random_pairs(seed)
        their_metrics, their_gradient = theirs(trainer, pairs)
        our_metrics, our_gradient = ours(policy, pairs, BETA, tokens)
        assert our_metrics == pytest.approx(their_metrics, rel=1e-5, abs=1e-5)
        assert relative(our_gradient, their_gradient) < 1e-5
        accuracies.add(our_metrics["train/dpo_accuracy"])
    assert len(accuracies) > 1


def test_the_comparison_can_fail(policy: Policy, trainer: Any) -> None:
    pairs = random_pairs(0)
    _, their_gradient = theirs(trainer, pairs)
    assert relative(ours(policy, pairs, 2 * BETA, 10_000)[1], their_gradient) > 1e-2
    flipped = [(r, c) if i == 0 else (c, r) for i, (c, r) in enumerate(pairs)]
    assert relative(ours(policy, flipped, BETA, 10_000)[1], their_gradient) > 1e-2
    fewer = ours(policy, pairs[1:], BETA, 10_000)[1]
    assert relative(fewer, their_gradient) > 1e-2


def test_what_a_pair_was_sampled_with_does_not_matter(policy: Policy) -> None:
    """The pairs come from older policies: only today's log-probs count."""
    pairs = random_pairs(1)
    elsewhere = [tuple(replace(c, logprobs=[-9.0] * len(c.ids)) for c in pair) for pair in pairs]
    assert np.array_equal(ours(policy, pairs, BETA, 10_000)[1], ours(policy, elsewhere, BETA, 10_000)[1])
