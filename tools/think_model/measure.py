"""Measure the thinking model on its test split: the numbers of its model card.

    python tools/think_model/measure.py --model src/scrpo_cli/assets/think-model --card

Temperature 1. Every failed first answer gets (a) a fresh attempt, (b) a retry that sees the wrong answer but does not
reflect, (c) a reflection with correction; every first answer is also checked without being told (SCoRe's second turn).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from think_traces import ASKED, DENSE, RETRY, TOLD_WRONG
from transformers import AutoModelForCausalLM, AutoTokenizer

from scrpo_cli.evaluation.paired import compare
from scrpo_cli.evaluation.stats import ratio_estimate
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.chat import Chat, user
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.tasks.tiny import LINE, Chain, generate
from scrpo_cli.training.policy import Policy
from scrpo_cli.types import Completion

sys.path.append(str(Path(__file__).parents[1] / "tiny_model"))
from scoring import is_right

LADDER = ((1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (4, 2), (4, 3), (4, 4), (5, 5))
"""Lines, and how many of them carry at least."""
SAMPLING = Sampling(temperature=1.0, max_tokens=400)


@dataclass
class Student:
    """The model, and `samples` answers to each of `problems` problems."""

    engine: TransformersEngine
    chat: Chat
    problems: int
    samples: int

    def sample(self, prompts: Sequence[Sequence[int]], purpose: str) -> list[Completion]:
        keys = [RowKey(0, 0, purpose, i) for i in range(len(prompts))]
        return self.engine.generate(prompts, SAMPLING, keys)

    def second(self, chains: Sequence[Chain], first: Sequence[Completion], follow_up: str) -> list[Completion]:
        turns = zip(chains, first, strict=True)
        prompts = [self.chat.second_turn([user(chain.text)], done, follow_up) for chain, done in turns]
        return self.sample(prompts, follow_up)

    def clustered(self, hits_R: np.ndarray, cases_R: np.ndarray) -> dict[str, Any] | None:
        """The share of hits with its interval; None without a case."""
        hits_N, cases_N = (np.asarray(x, float).reshape(self.problems, -1).sum(1) for x in (hits_R, cases_R))
        return ratio_estimate(hits_N, cases_N).as_dict() if cases_N.any() else None

    def rung(self, lines: int, carries: int, full: bool) -> dict[str, object]:
        """What is measured at one difficulty; second turns but the reflection only where `full`."""
        chains = [generate("test", 0, i, lines, lines, carries) for i in range(self.problems)]
        rows = [chain for chain in chains for _ in range(self.samples)]
        prompts = [self.chat.ids([user(chain.text)]) for chain in rows]
        first = self.sample(prompts, "first")
        right_R = rights(first, rows)
        failed = np.flatnonzero(~right_R)
        wrong, shown = [rows[i] for i in failed], [first[i] for i in failed]

        def on_failed(found: Sequence[Completion]) -> dict[str, float] | None:
            hits_R = np.zeros(len(rows))
            hits_R[failed] = rights(found, wrong)
            return self.clustered(hits_R, ~right_R)

        told = self.second(wrong, shown, TOLD_WRONG)
        right_NG = right_R.reshape(self.problems, self.samples)
        report = {
            "first": self.clustered(right_R, np.ones(len(rows))),
            "signal": float(np.mean(right_NG.any(1) & ~right_NG.all(1))),
            "c_reflection": on_failed(told),
            "tokens": mean_length(first),
            "tokens_reflection": mean_length(told),
        }
        if not full:
            return report
        asked = self.second(rows, first, ASKED)
        asked_R = rights(asked, rows)
        every = [self.chat.ids([user(f"{chain.text}\n{next(iter(DENSE))}")]) for chain in rows]
        dense = self.sample(every, "dense")
        return report | {
            "a_fresh": on_failed(self.sample([prompts[i] for i in failed], "fresh")),
            "b_retry": on_failed(self.second(wrong, shown, RETRY)),
            "check_rate_first": check_rate(first),
            "check_rate_told": check_rate(told),
            "check_rate_asked": check_rate(asked),
            "every_line": self.clustered(rights(dense, rows), np.ones(len(rows))),
            "i2c": self.clustered(~right_R & asked_R, np.ones(len(rows))),
            "c2i": self.clustered(right_R & ~asked_R, np.ones(len(rows))),
            "delta": compare(right_R.reshape(self.problems, -1) * 1.0, asked_R.reshape(self.problems, -1) * 1.0),
        }


def rights(found: Sequence[Completion], chains: Sequence[Chain]) -> np.ndarray:
    return np.array([is_right(c.text, chain.answer) for c, chain in zip(found, chains, strict=True)], dtype=bool)


def mean_length(found: Sequence[Completion]) -> float:
    return float(np.mean([len(c.ids) for c in found]))


def check_rate(found: Sequence[Completion]) -> float:
    """Checks per line."""
    lines = [line for c in found for line in c.text.splitlines()]
    return sum(line.startswith("Check ") for line in lines) / sum(bool(LINE.fullmatch(line)) for line in lines)


CARD = """# The thinking model

The second embedded model of `scrpo`: the tiny model (Qwen3 architecture, {parameters:,} parameters in bfloat16),
fine-tuned by `make think-model` (seeded, CPU, one thread) on generated traces; no data of others.

Task: chains such as `47+38-29+16=?`, worked line by line, the answer in `\\boxed{{}}`. A line with a carry or a
borrow, written in one go, is one too small in {carry_wrong:.0%} of cases. The student can check a line, and goes on
with what the check says. In the traces it checks {check_first:.0%} of the lines of a first answer, and {check_told:.0%}
of those that it writes when it is told that its answer was wrong; the tokens of a check are the same in both places, so
that a first answer can hold what a reflection teaches. How hard a problem is, is said by `task.think`: its lines, and
how many of them carry at least. Rates of the traces: `world.json`; what they mean: `tools/think_model/think_traces.py`.

Measured on the test split (`{command}`), {problems} problems x {samples} samples at temperature 1; 95% intervals
clustered by problem. *Signal*: groups of {samples} with right and wrong answers.

| lines, carries at least | first answers right | signal | (c) told wrong, reflects and corrects | tokens |
| --- | --- | --- | --- | --- |
{ladder}

At the default difficulty of the recipe `think`, and at an easy one:

| quantity | {full[0]} | {full[1]} |
| --- | --- | --- |
{details}
"""
DETAILS = {
    "a_fresh": "(a) a fresh attempt, after a failure",
    "b_retry": "(b) sees its wrong answer, tries again without reflecting",
    "c_reflection": "(c) told that it is wrong, reflects and corrects",
    "every_line": "first answers right when asked to check every line",
    "check_rate_first": "checks per line in a first answer",
    "check_rate_told": "... told that it is wrong",
    "check_rate_asked": "... asked to check, not told",
    "i2c": "asked to check, not told: wrong answers repaired (of all)",
    "c2i": "asked to check, not told: right answers broken (of all)",
    "delta": "second answers right - first answers right (SCoRe's delta)",
}


def card(report: dict, world: dict, parameters: int, args: argparse.Namespace) -> str:
    def cell(found: dict[str, Any] | float | None) -> str:
        if not isinstance(found, dict):
            return "" if found is None else f"{found:.2f}"
        value, (low, high) = found.get("value", found.get("difference")), found["ci95"]
        return f"{value:.1%} [{low:.1%}, {high:.1%}]"

    ladder = "\n".join(
        f"| {name.replace(',', ', ')} | {cell(r['first'])} | {r['signal']:.1%} | {cell(r['c_reflection'])} "
        f"| {r['tokens']:.0f}, {r['tokens_reflection']:.0f} |"
        for name, r in report.items()
    )
    full = [name for name, r in report.items() if "delta" in r]
    details = "\n".join(
        f"| {said} | " + " | ".join(cell(report[name][key]) for name in full) + " |" for key, said in DETAILS.items()
    )
    return CARD.format(
        parameters=parameters,
        command="python tools/think_model/measure.py --model src/scrpo_cli/assets/think-model --card",
        problems=args.problems,
        samples=args.samples,
        ladder=ladder,
        full=[name.replace(",", " lines, ") + " carries" for name in full],
        details=details,
        **world,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rungs", nargs="*", metavar="LINES,CARRIES", help="only these")
    parser.add_argument("--card", action="store_true", help="write the model card beside the weights")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    engine = TransformersEngine(Policy(model, tokenizer), 256)
    student = Student(engine, Chat(tokenizer), args.problems, args.samples)
    rungs = [tuple(map(int, text.split(","))) for text in args.rungs] if args.rungs else LADDER
    report = {}
    for lines, carries in rungs:
        report[f"{lines},{carries}"] = student.rung(lines, carries, full=(lines, carries) in ((2, 0), (4, 3)))
        print(json.dumps({f"{lines},{carries}": report[f"{lines},{carries}"]}), flush=True)
    if args.card:
        world = json.loads((args.model / "world.json").read_text())
        parameters = sum(p.numel() for p in engine.model.parameters())
        (args.model / "README.md").write_text(card(report, world, parameters, args))


if __name__ == "__main__":
    main()
