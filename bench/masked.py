"""The optimizer step with the output layer at tokens with a weight, against the output layer at every token: processor
seconds and ratios, side by side in one process, on the embedded model and on a random one with a real vocabulary.

The rows are random tokens, of which the last share is trained, as a solution after a reflection is; the KL needs a
reference.

    python bench/masked.py [--quick] [--repeats N]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from measuring import Grid, machine, options, report, shown, spread
from transformers import Qwen3Config, Qwen3ForCausalLM

from scrpo_cli.methods.base import ClipConfig, Credits, flat_credit
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import LoraConfig, ModelConfig, Recipe
from scrpo_cli.training.policy import Policy, add_adapter, load_policy
from scrpo_cli.training.scorer import TrainRow
from scrpo_cli.training.update import Updater
from scrpo_cli.types import Completion, FinishReason

SHARES = (0.25, 0.5, 1.0)
PROMPT, LENGTH = 32, 64
ROWS = {"embedded": 32, "151,936 words": 8}


class EveryToken(Updater):
    def wanted(self, row: TrainRow) -> np.ndarray:
        return np.ones_like(row.weight_T, dtype=bool)


def wide_policy(tokenizer: Any) -> Policy:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    model.requires_grad_(False)
    return Policy(add_adapter(model, ModelConfig(lora=LoraConfig(r=8)), 0), tokenizer)


def race(policy: Policy, recipe: Recipe, rows: int, share: float, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mask_T = (np.arange(LENGTH) >= (1 - share) * LENGTH).astype(np.float32)
    credits = Credits(
        [flat_credit(LENGTH, rng.normal(), 0.01, mask_T) for _ in range(rows)], "masked_tokens", ClipConfig()
    )
    ids = rng.integers(0, 300, (rows, PROMPT + LENGTH)).tolist()
    completions = [Completion(row[:PROMPT], row[PROMPT:], [-6.0] * LENGTH, "", FinishReason.STOP) for row in ids]
    seconds: dict[type[Updater], list[float]] = {Updater: [], EveryToken: []}
    for repeat in range(-1, repeats):  # the first pair warms up
        for way in (EveryToken, Updater) if repeat % 2 else (Updater, EveryToken):
            updater = way(policy, recipe)
            start = time.process_time()
            updater.update(1, completions, credits)
            if repeat >= 0:
                seconds[way].append(time.process_time() - start)
    ratio = np.array(seconds[Updater]) / np.array(seconds[EveryToken])
    return {
        "rows": rows,
        "share": share,
        "weighted_s": spread(seconds[Updater]),
        "all_s": spread(seconds[EveryToken]),
        "ratio": spread(ratio),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats, before = 1 if args.quick else args.repeats, machine()
    recipe = load_recipe("tiny-grpo", ["optim.lr=1e-9", "optim.logits_chunk=256"])  # the policy stands still
    embedded = load_policy(recipe.model, 0)
    found: list[dict[str, Any]] = []
    for model, policy in {"embedded": embedded, "151,936 words": wide_policy(embedded.tokenizer)}.items():
        found += [{"model": model} | race(policy, recipe, ROWS[model], share, repeats) for share in SHARES]
    report("masked", [table(found)], {"before": before, "rows": found}, args.out)


def table(found: Sequence[dict[str, Any]]) -> Grid:
    lines = [
        [row["model"], f"{row['share']:.0%}", shown(row["weighted_s"]), shown(row["all_s"]), shown(row["ratio"], 2)]
        for row in found
    ]
    columns = ["model", "trained", "weighted, s", "every token, s", "ratio"]
    return Grid("The output layer at tokens with a weight, medians (quartiles)", columns, lines)


if __name__ == "__main__":
    main()
