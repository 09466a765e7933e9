"""The tiny world's problems: chains of two-digit additions and subtractions, endless and seeded.

A problem reads `47+38-29=?`; a worked answer has one line a step and ends in `\\boxed{}`:

    47+38=85
    85-29=56
    \\boxed{56}

Every running result stays in 5..94, so a line needs at most one carry (or borrow) from units to tens.
Which split a problem belongs to is a hash of its text: train, validation and test cannot overlap, whatever
the seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Step:
    """One line `a op b` with its true result."""

    a: int
    op: str
    b: int

    @property
    def result(self) -> int:
        return self.a + self.b if self.op == "+" else self.a - self.b

    @property
    def carries(self) -> bool:
        """Whether the units overflow: a carry for `+`, a borrow for `-`."""
        ua, ub = self.a % 10, self.b % 10
        return ua + ub > 9 if self.op == "+" else ua < ub


@dataclass(frozen=True)
class Chain:
    """A problem: the first number and then (operator, number) pairs."""

    start: int
    terms: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        return f"{self.start}" + "".join(f"{op}{n}" for op, n in self.terms) + "=?"

    def steps(self) -> list[Step]:
        steps, value = [], self.start
        for op, n in self.terms:
            steps.append(Step(value, op, n))
            value = steps[-1].result
        return steps

    @property
    def answer(self) -> int:
        return self.steps()[-1].result


def worked(chain: Chain, at: int = 0, shift: int = 0) -> str:
    """A worked answer; with a `shift` the result of line `at` is off by it, and the rest goes on from there."""
    lines, value = [], chain.start
    for i, (op, n) in enumerate(chain.terms):
        result = Step(value, op, n).result + (shift if i == at else 0)
        lines.append(f"{value}{op}{n}={result}")
        value = result
    return "\n".join([*lines, f"\\boxed{{{value}}}"])


def parse_chain(text: str) -> Chain:
    """The chain behind a problem text such as `47+38-29=?`; ValueError for anything else."""
    if not re.fullmatch(r"\d+([+-]\d+)+=\?", text):
        raise ValueError(f"not a tiny problem: {text!r}")
    start, rest = re.match(r"\d+", text).group(), re.findall(r"([+-])(\d+)", text)  # type: ignore[union-attr]
    return Chain(int(start), tuple((op, int(n)) for op, n in rest))


def split_of(text: str) -> Split:
    """Train 80%, validation 10%, test 10%, by a hash of the problem text."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


def draw_chain(rng: random.Random, min_steps: int = 3, max_steps: int = 4) -> Chain:
    """A random chain whose running results stay in 5..94."""
    value = start = rng.randint(10, 94)
    terms: list[tuple[str, int]] = []
    for _ in range(rng.randint(min_steps, max_steps)):
        op = rng.choice("+-")
        room = 94 - value if op == "+" else value - 5
        if room < 5:
            op, room = ("-", value - 5) if op == "+" else ("+", 94 - value)
        n = rng.randint(2, room)
        terms.append((op, n))
        value = value + n if op == "+" else value - n
    return Chain(start, tuple(terms))


def generate(split: Split, seed: int, index: int, min_steps: int = 3, max_steps: int = 4) -> Chain:
    """Problem number `index` of a split: a pure function of its arguments, so streams can resume anywhere."""
    rng = random.Random(f"tiny:{seed}:{split}:{index}")
    while True:
        chain = draw_chain(rng, min_steps, max_steps)
        if split_of(chain.text) == split:
            return chain
