"""Measure the tiny model on its test split: the numbers of its model card.

    python tools/tiny_model/measure.py --model src/scrpo_cli/assets/tiny-model --problems 400 --samples 4

Temperature 1. Every failed first answer gets (a) a fresh attempt, (b) a retry that sees the wrong answer but does not
reflect, (c) a reflection with correction; every first answer is also checked without being told (SCoRe's second turn).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from traces import CHECK, RETRY, TOLD_WRONG
from transformers import AutoModelForCausalLM, AutoTokenizer

from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.chat import Chat, user
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.tasks.tiny import generate

SAMPLING = Sampling(temperature=1.0, max_tokens=320)


def is_right(text: str, answer: int) -> bool:
    """The last boxed integer is the answer; for second turns only after the solution marker."""
    tail = text.rsplit("Corrected Solution:", 1)[-1]
    return tail.rstrip().endswith(f"\\boxed{{{answer}}}")


def ratio(hits_N: np.ndarray, cases_N: np.ndarray) -> dict[str, float]:
    """Sum of hits over sum of cases with a 95% interval clustered by problem (delta method)."""
    p = hits_N.sum() / cases_N.sum()
    se = np.sqrt(((hits_N - p * cases_N) ** 2).sum()) / cases_N.sum()
    return {"value": round(float(p), 4), "lo": round(float(p - 1.96 * se), 4), "hi": round(float(p + 1.96 * se), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    engine = TransformersEngine(AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32), tokenizer, 256)
    chat = Chat(tokenizer)
    chains = [generate(args.split, 0, i) for i in range(args.problems) for _ in range(args.samples)]
    problem_R = np.repeat(np.arange(args.problems), args.samples)

    def sample(prompts, purpose):
        return engine.generate(prompts, SAMPLING, [RowKey(0, 0, purpose, i) for i in range(len(prompts))])

    def second(rows, follow_up, purpose):
        prompts = [chat.second_turn([user(chains[i].text)], first[i], follow_up) for i in rows]
        return np.array([is_right(c.text, chains[i].answer) for c, i in zip(sample(prompts, purpose), rows)])

    def clustered(hits_R, cases_R):
        return ratio(*(np.bincount(problem_R, weights=x, minlength=args.problems) for x in (hits_R, cases_R)))

    fresh_prompts = [chat.ids([user(c.text)]) for c in chains]
    first = sample(fresh_prompts, "first")
    right = np.array([is_right(f.text, c.answer) for f, c in zip(first, chains)])
    failed = np.flatnonzero(~right)
    greedy = engine.generate(fresh_prompts[:: args.samples], Sampling(0.0, 320), [RowKey(0, 0, "g", 0)] * args.problems)

    def on_failed(hits):
        full = np.zeros(len(chains))
        full[failed] = hits
        return clustered(full, ~right)

    fresh = sample([fresh_prompts[i] for i in failed], "fresh")
    checked = second(range(len(chains)), CHECK, "check")
    everything = np.ones(len(chains))
    report = {
        "first": clustered(right, everything),
        "greedy": float(np.mean([is_right(g.text, c.answer) for g, c in zip(greedy, chains[:: args.samples])])),
        "a_fresh_after_failure": on_failed([is_right(c.text, chains[i].answer) for c, i in zip(fresh, failed)]),
        "b_retry_after_failure": on_failed(second(failed, RETRY, "retry")),
        "c_reflection_after_failure": on_failed(second(failed, TOLD_WRONG, "told")),
        "check_i2c": clustered(~right & checked, everything),
        "check_c2i": clustered(right & ~checked, everything),
        "tokens_first": float(np.mean([len(f.ids) for f in first])),
        "rows": len(chains),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
