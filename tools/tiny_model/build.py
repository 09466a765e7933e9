"""Build the tiny model from nothing: tokenizer, pre-training on generated traces, Hugging Face format.

    python tools/tiny_model/build.py --out src/scrpo_cli/assets/tiny-model

Seeded; on CPU with one thread it takes well under an hour. `measure.py` beside it fills in the model card.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
from pathlib import Path

import torch
from pretraining import pretrain, save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from traces import World, draw_conversation
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIALS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(world: World, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit and every newline stands alone and words may merge."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\d|\n| ?[A-Za-z]+|[^\sA-Za-z\d]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(f"tokenizer:{seed}")
    corpus = (text for _ in range(2000) for turn in draw_conversation(world, rng) for text in turn)
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, layers: int, hidden: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_theta=10000.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--world", nargs="*", default=[], metavar="RATE=VALUE", help="change rates of World")
    args = parser.parse_args()
    world = World(seed=args.seed, **{k: float(v) for k, v in (item.split("=") for item in args.world)})
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(world, args.seed)
    model = build_model(tokenizer, args.layers, args.hidden)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens, {world}", flush=True)
    pretrain(model, tokenizer, functools.partial(draw_conversation, world), args)
    save(model, tokenizer, args.out)
    (args.out / "world.json").write_text(json.dumps(dataclasses.asdict(world), indent=2) + "\n")


if __name__ == "__main__":
    main()
