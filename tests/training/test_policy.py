"""Loading a policy: the base model's dropout is never on, and gradient checkpointing works from the first update on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from methods.builders import credits_of
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from tests_tokenizer import TOKENIZER
from training.tiny_policy import VOCABULARY
from transformers import GPT2Config, OPTConfig, PretrainedConfig, Qwen3Config
from transformers.models.auto import AutoModelForCausalLM

from scrpo_cli.errors import UserError
from scrpo_cli.methods.base import flat_credit
from scrpo_cli.recipe.models import LoraConfig, ModelConfig, Recipe
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.training.policy import load_policy
from scrpo_cli.training.update import Updater, microbatches, weighted_rows

SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 2}
WITH_DROPOUT = {
    "qwen3": Qwen3Config(
        **SIZES,
        intermediate_size=64,
        num_hidden_layers=2,
        num_key_value_heads=1,
        head_dim=16,
        attention_dropout=0.1,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1
    ),
    "opt": OPTConfig(  # its layers hold the dropout rates themselves
        **SIZES, num_hidden_layers=2, ffn_dim=64, word_embed_proj_dim=32, dropout=0.1, attention_dropout=0.1
    ),
}


def model_directory(directory: Path, config: PretrainedConfig) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return str(directory)


def policy(directory: str, **model):
    return load_policy(ModelConfig(name=directory, lora=LoraConfig(r=4), **model), seed=0)


def sampled(policy):
    engine = TransformersEngine(policy)
    keys = [RowKey(0, 0, "test", i) for i in range(3)]
    return engine.generate([[1, 2], [3], [4, 5, 6]], Sampling(1.0, 8), keys)


def gradient(policy, completions):
    """Accumulated gradient of one update, and how often a layer computed its attention in it."""
    cfg = Recipe.model_validate({"rollout": {"max_tokens": 16}, "method": {"name": "grpo"}})
    updater, calls = Updater(policy, cfg), []
    attention = next(m for name, m in policy.model.named_modules() if name.endswith(("self_attn", ".attn")))
    hook = attention.register_forward_hook(lambda *_: calls.append(1))
    credits = [flat_credit(len(c.ids), 1.0, 0.0) for c in completions]
    batch = credits_of(credits, "masked_tokens")
    rows = weighted_rows(completions, credits, batch, cfg)
    assert len(microbatches(rows, cfg.optim.tokens_per_microbatch)) == 1
    (stats,) = updater.accumulate(rows, batch)
    hook.remove()
    return np.concatenate([p.grad.flatten().numpy() for p in policy.trainable()]), len(calls), stats["drift"]


@pytest.mark.parametrize("kind", WITH_DROPOUT)
def test_checkpointing_works_before_any_generate_and_changes_no_gradient_and_no_dropout_is_on(kind, tmp_path):
    directory = model_directory(tmp_path, WITH_DROPOUT[kind])
    completions = sampled(policy(directory))
    plain, calls, drift = gradient(policy(directory), completions)
    assert calls == 1
    assert drift.max() < 1e-5
    checkpointed = policy(directory, gradient_checkpointing=True)
    for _ in range(2):  # before and after a generate
        checkpointed.model.zero_grad()
        found, calls, drift = gradient(checkpointed, completions)
        assert calls == 2
        assert drift.max() < 1e-5  # trainer and sampler agree
        assert np.abs(plain).max() > 0
        assert found == pytest.approx(plain, abs=float(1e-5 * np.abs(plain).max()))
        assert sampled(checkpointed) == completions
    after_sampling = policy(directory)
    sampled(after_sampling)
    assert gradient(after_sampling, completions)[0] == pytest.approx(plain, abs=float(1e-5 * np.abs(plain).max()))


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusal(policy, **model) -> str:
    with pytest.raises(UserError) as caught:
        Updater(policy, Recipe.model_validate({"model": model}))
    assert caught.value.exit_code == 2
    assert len(caught.value.lines()) == 3
    return " ".join(caught.value.lines())


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> str:
    return model_directory(tmp_path_factory.mktemp("qwen"), WITH_DROPOUT["qwen3"])


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"], "lm_head"])
def test_an_adapter_of_the_embeddings_or_the_output_layer_is_sampled_from_but_not_trained(targets, qwen):
    """Log-probs come from the raw output layer: they were 0.55 nats off the model's own, without a gradient."""
    unusual = load_policy(ModelConfig(name=qwen, lora=LoraConfig(targets=targets)), 0)
    assert len(sampled(unusual)) == 3
    assert f"model.lora.targets: {targets}" in refusal(unusual, lora={"targets": targets})


@pytest.mark.parametrize("extra", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_so_is_a_loaded_one(extra, qwen, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(qwen)
    settings = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **extra}
    get_peft_model(base, PeftLoraConfig(**settings)).save_pretrained(tmp_path)
    loaded = load_policy(ModelConfig(name=qwen, adapter=str(tmp_path)), 0)
    assert f"model.adapter: {tmp_path}" in refusal(loaded, adapter=str(tmp_path))


def test_float16_is_for_sampling_only(qwen):
    """A token weight of 2e-7 gave gradients of zero."""
    half = policy(qwen, dtype="float16")
    assert len(sampled(half)) == 3
    assert "float16" in refusal(half, dtype="float16")


@pytest.mark.parametrize("targets", [["nowhere"], ["q_proj", "nowhere"], [""], "((", "nowhere"])
def test_targets_that_name_no_module_are_refused(targets, qwen):
    with pytest.raises(UserError, match=r"No adapter fits|has no module"):
        load_policy(ModelConfig(name=qwen, lora=LoraConfig(targets=targets)), 0)


def test_an_adapter_of_another_model_is_refused(qwen, tmp_path):
    other = model_directory(tmp_path / "model", GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=1))
    policy(other).model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="its model_type is gpt2 and not qwen3"):
        policy(qwen, adapter=str(tmp_path / "adapter"))


def test_the_dropout_of_an_adapter_is_never_on(qwen, tmp_path):
    """It made resumed runs differ and put 0.05 nats between sampler and trainer; a recipe has no key for it."""
    assert "dropout" not in LoraConfig.model_fields
    base = AutoModelForCausalLM.from_pretrained(qwen)
    settings = PeftLoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False)
    get_peft_model(base, settings).save_pretrained(tmp_path)
    loaded = policy(qwen, adapter=str(tmp_path), gradient_checkpointing=True)
    completions = sampled(loaded)
    first, _, drift = gradient(loaded, completions)
    loaded.model.zero_grad()
    assert drift.max() < 1e-5
    assert np.array_equal(gradient(loaded, completions)[0], first)
