"""Supervised training on generated conversations, and the Hugging Face format: what the builders of embedded models
share.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

Conversation = list[tuple[str, str]]
Draw = Callable[[random.Random], Conversation]


def encode(tokenizer: PreTrainedTokenizerBase, turns: Conversation) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and a mask that is 1 on what the assistant writes, `<|end|>` included."""
    ids, mask = [], []
    for user, assistant in turns:
        prompt = tokenizer.encode(f"<|user|>{user}<|end|><|assistant|>")
        answer = tokenizer.encode(f"{assistant}<|end|>")
        ids += prompt + answer
        mask += [0] * len(prompt) + [1] * len(answer)
    return ids, mask


def batches(tokenizer: PreTrainedTokenizerBase, draw: Draw, seed: int, rows: int):
    """Endless (input_ids, labels) of `rows` conversations, bucketed by length so that little is padding."""
    rng = random.Random(f"traces:{seed}")
    while True:
        pool = sorted((encode(tokenizer, draw(rng)) for _ in range(16 * rows)), key=lambda r: len(r[0]))
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


def pretrain(model, tokenizer, draw: Draw, args: argparse.Namespace) -> None:
    """Right-padded causal language modelling; padding follows the text, so no attention mask is needed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    start, stream = time.time(), batches(tokenizer, draw, args.seed, args.rows)
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
