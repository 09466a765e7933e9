"""Build the tiny model from nothing: tokenizer, pre-training on generated traces, Hugging Face format.

    python tools/tiny_model/build.py --out src/scrpo_cli/assets/tiny-model

Seeded; on CPU with one thread it takes well under an hour. `measure.py` beside it fills in the model card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from traces import World, draw_conversation
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIALS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
Conversation = list[tuple[str, str]]


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


def encode(tokenizer: PreTrainedTokenizerFast, turns: Conversation) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and a mask that is 1 on what the assistant writes, `<|end|>` included."""
    ids, mask = [], []
    for user, assistant in turns:
        prompt = tokenizer.encode(f"<|user|>{user}<|end|><|assistant|>")
        answer = tokenizer.encode(f"{assistant}<|end|>")
        ids += prompt + answer
        mask += [0] * len(prompt) + [1] * len(answer)
    return ids, mask


def batches(tokenizer: PreTrainedTokenizerFast, world: World, seed: int, rows: int):
    """Endless (input_ids, labels) of `rows` conversations, bucketed by length so that little is padding."""
    rng = random.Random(f"traces:{seed}")
    while True:
        pool = sorted(
            (encode(tokenizer, draw_conversation(world, rng)) for _ in range(16 * rows)), key=lambda r: len(r[0])
        )
        starts = list(range(0, len(pool), rows))
        rng.shuffle(starts)
        for start in starts:
            chunk = pool[start : start + rows]
            width = max(len(ids) for ids, _ in chunk)
            input_ids = torch.full((rows, width), tokenizer.pad_token_id)
            labels = torch.full((rows, width), -100)
            for i, (ids, mask) in enumerate(chunk):
                input_ids[i, : len(ids)] = torch.tensor(ids)
                labels[i, : len(ids)] = torch.tensor([t if m else -100 for t, m in zip(ids, mask, strict=True)])
            yield input_ids, labels


def pretrain(model, tokenizer, world: World, args: argparse.Namespace) -> None:
    """Right-padded causal language modelling; padding follows the text, so no attention mask is needed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    start, stream = time.time(), batches(tokenizer, world, args.seed, args.rows)
    for step in range(args.steps):
        warm, done = min(1.0, (step + 1) / 100), step / args.steps
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        input_ids, labels = next(stream)
        with torch.autocast("cpu", torch.bfloat16):  # half again as fast on CPUs with AVX-512 BF16
            loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - start:.0f}s", flush=True)
        if args.save_every and step and step % args.save_every == 0:
            save(model, tokenizer, args.out)


def save(model, tokenizer, out: Path) -> None:
    """bfloat16 weights halve the size; what is measured later is the rounded model."""
    state = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    model.save_pretrained(out, state_dict=state)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(out)


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
    pretrain(model, tokenizer, world, args)
    save(model, tokenizer, args.out)
    (args.out / "world.json").write_text(json.dumps(dataclasses.asdict(world), indent=2) + "\n")


if __name__ == "__main__":
    main()
