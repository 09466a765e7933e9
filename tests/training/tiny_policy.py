"""A policy over a two-layer random model: real transformers, real peft, milliseconds."""

from __future__ import annotations

import torch
from tests_tokenizer import TOKENIZER
from transformers import Qwen3Config, Qwen3ForCausalLM

from scrpo_cli.recipe.models import LoraConfig, ModelConfig
from scrpo_cli.training.policy import Policy, add_adapter

VOCABULARY = 384


def random_model(seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # logits that differ, so that a wrong position shows
    return model.eval()


def random_policy(seed: int = 0, rank: int = 4) -> Policy:
    """LoRA with a non-zero B, so that the adapter matters."""
    torch.set_num_threads(1)
    base = random_model(seed)
    base.requires_grad_(False)
    model = add_adapter(base, ModelConfig(lora=LoraConfig(r=rank, alpha=2 * rank)), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return Policy(model, TOKENIZER)


def moved(policy: Policy, by: float = 0.05) -> None:
    """An update of the adapter."""
    generator = torch.Generator().manual_seed(policy.version)
    policy.version += 1
    with torch.no_grad():
        for p in policy.trainable():
            p += by * torch.randn(p.shape, generator=generator)
