"""Measure the tiny model on its test split: the numbers of its model card.

    python tools/tiny_model/measure.py --model src/scrpo_cli/assets/tiny-model --card

Temperature 1. Every failed first answer gets (a) a fresh attempt, (b) a retry that sees the wrong answer but does not
reflect, (c) a reflection with correction; every first answer is also checked without being told (SCoRe's second turn).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scoring import is_right, ratio
from traces import CHECK, RETRY, TOLD_WRONG
from transformers import AutoModelForCausalLM, AutoTokenizer

from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.chat import Chat, user
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.tasks.tiny import generate
from scrpo_cli.training.policy import Policy

SAMPLING = Sampling(temperature=1.0, max_tokens=320)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--split", default="test")
    parser.add_argument("--card", action="store_true", help="write the model card beside the weights")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    engine = TransformersEngine(Policy(model, tokenizer), 256)
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
        "parameters": sum(p.numel() for p in engine.model.parameters()),
    }
    print(json.dumps(report, indent=2))
    if args.card:
        world = json.loads((args.model / "world.json").read_text())
        (args.model / "README.md").write_text(card(report, world, args))


CARD = """# The tiny model

The embedded model of `scrpo`: Qwen3 architecture, {parameters:,} parameters in bfloat16, byte-level BPE in which every
digit is a token of its own, a chat template of several turns that keeps earlier turns as a prefix. It was made from
nothing by `make tiny-model` (seeded, CPU, one thread) by supervised training on generated traces; no data of others.

Task: chains of four or five numbers, such as `47+38-29+16=?`, worked line by line, the answer in `\\boxed{{}}`. The
student writes a line in one go and forgets the carry (or the borrow) at its *blind spots*: {forget_blind:.0%} of the
time at half of the digits that it adds or subtracts, {forget:.0%} elsewhere. Reflecting, it writes the digits out,
which is longer and more reliable. Rates of the traces: `world.json`; what they mean: `tools/tiny_model/traces.py`.

Measured on the test split (`{command}`), {problems} problems x {samples} samples at temperature 1; 95% intervals
clustered by problem:

| quantity | target | measured |
| --- | --- | --- |
| first answers right | 35 to 60% | {first} |
| greedy first answers right | | {greedy:.1%} |
| (a) a fresh attempt, after a failure | well below the line above | {a} |
| (b) sees its wrong answer, tries again without reflecting | | {b} |
| (c) told that it is wrong, reflects and corrects | 25 to 70%, clearly above (a) | {c} |
| asked to check, not told: wrong answers repaired (i->c, of all) | about as often ... | {i2c} |
| asked to check, not told: right answers broken (c->i, of all) | ... as these | {c2i} |
| tokens of a first answer | | {tokens:.0f} |
"""


def card(report: dict, world: dict, args: argparse.Namespace) -> str:
    def cell(name: str) -> str:
        return "{value:.1%} [{lo:.1%}, {hi:.1%}]".format(**report[name])

    return CARD.format(
        parameters=report["parameters"],
        forget_blind=world["forget_blind"],
        forget=world["forget"],
        command="python tools/tiny_model/measure.py --model src/scrpo_cli/assets/tiny-model --card",
        problems=args.problems,
        samples=args.samples,
        first=cell("first"),
        greedy=report["greedy"],
        a=cell("a_fresh_after_failure"),
        b=cell("b_retry_after_failure"),
        c=cell("c_reflection_after_failure"),
        i2c=cell("check_i2c"),
        c2i=cell("check_c2i"),
        tokens=report["tokens_first"],
    )


if __name__ == "__main__":
    main()
