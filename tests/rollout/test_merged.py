"""Sampling with a merged adapter: the same policy, and weights that are untouched afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config

from scrpo_cli.rollout.transformers_engine import merged

IDS = torch.tensor([[3, 5, 7, 9]])


def policy(dtype: torch.dtype = torch.float32, *, tied: bool = False, **lora: Any) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config, dtype=dtype), LoraConfig(**{"target_modules": "all-linear", **lora})
    ).eval()
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p.data, std=0.2)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits.clone()


@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}, {"use_dora": True}, {"bias": "all"}])
def test_the_merged_policy_is_the_policy(lora: dict[str, Any]) -> None:
    model = policy(**lora)
    before, weights = logits(model), [p.data_ptr() for p in model.parameters()]
    copies = [p.detach().clone() for p in model.parameters()]
    with model.disable_adapter():
        base = logits(model)
    with merged(model):
        torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    assert (before - base).abs().max() > 0.1, "the adapter does nothing, so that the test shows nothing"
    assert [p.data_ptr() for p in model.parameters()] == weights
    assert all(torch.equal(p, copy) for p, copy in zip(model.parameters(), copies, strict=True))
    assert torch.equal(logits(model), before)


def test_an_error_inside_leaves_the_weights_alone() -> None:
    model = policy()
    before = logits(model)
    with pytest.raises(RuntimeError), merged(model):
        raise RuntimeError
    assert torch.equal(logits(model), before)


def test_an_adapter_that_is_off_stays_off() -> None:
    model = policy()
    with model.disable_adapter():
        base = logits(model)
        with merged(model):
            assert torch.equal(logits(model), base)
    assert not torch.equal(logits(model), base)


def test_half_precision_is_not_merged() -> None:
    """It would be rounded: a step of training that is below a weight's last bit would not be sampled from."""
    model = policy(torch.bfloat16)
    before = logits(model)
    with merged(model):
        assert torch.equal(logits(model), before)


def test_a_tied_output_layer_does_not_change_the_embedding() -> None:
    model = policy(tied=True, target_modules=["lm_head", "q_proj"])
    before = logits(model)
    with merged(model):
        torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
