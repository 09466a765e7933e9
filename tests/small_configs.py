"""Models of two layers of several architectures, over a vocabulary of a few tokens."""

from __future__ import annotations

from transformers import GPT2Config, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config


def small_configs(vocabulary: int) -> dict[str, PretrainedConfig]:
    """Fresh ones: a model writes into its config."""
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.3,  # wide, so that greedy answers differ from prompt to prompt
        "max_position_embeddings": 256,
    }
    return {
        "qwen2": Qwen2Config(**shape),
        "qwen3": Qwen3Config(**shape),
        "llama": LlamaConfig(**shape),
        "mistral_sliding_window": MistralConfig(**shape, sliding_window=8),
        "gpt2": GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, n_positions=256
        ),
    }
