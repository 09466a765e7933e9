"""Models of the benches: real architectures with random weights, built where they are needed.

Their tokenizer writes token n as the word n, so that a text of p words is a prompt of p tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

REAL_VOCABULARY = 151_936
"""Of Qwen2.5 and Qwen3."""
TINY = {
    "vocab_size": 384,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
M25 = {
    "vocab_size": 2048,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
ROPE = {
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
QWEN_HALF = {
    "vocab_size": REAL_VOCABULARY,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    **ROPE,
}
QWEN_ONE_AND_A_HALF = {
    "vocab_size": REAL_VOCABULARY,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    **ROPE,
}
SHAPES: dict[str, Any] = {
    "tiny": Qwen3Config(**TINY, tie_word_embeddings=True),
    "25m": Qwen3Config(**M25, tie_word_embeddings=True),
    "vocabulary": Qwen3Config(**{**TINY, "vocab_size": REAL_VOCABULARY}, tie_word_embeddings=True),
    "qwen2.5-0.5b": Qwen2Config(**QWEN_HALF, tie_word_embeddings=True),
    "qwen2.5-1.5b": Qwen2Config(**QWEN_ONE_AND_A_HALF, tie_word_embeddings=True),
}
"""Name -> configuration: the embedded tiny model's shape, 25M parameters, the tiny one with a real vocabulary, and two
of Qwen2.5's."""


def build(shape: str, directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Weights, configuration and tokenizer of `shape` in `directory`."""
    config = SHAPES[shape]
    config.eos_token_id = config.vocab_size - 1
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(directory)
    tokenizer_of(config.vocab_size).save_pretrained(directory)
    return directory


def tokenizer_of(size: int) -> Any:
    words = Tokenizer(WordLevel({str(n): n for n in range(size)}, unk_token="0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token=str(size - 1))
