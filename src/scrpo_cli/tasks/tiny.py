"""The tiny world: chains of two-digit additions and subtractions, endless and seeded, graded in-process.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, cast, get_args

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.base import BaseTask, InjectionSource
from scrpo_cli.tasks.grading.extract import last_box
from scrpo_cli.types import Grade, Problem, Verdict

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

GRADER = "tiny/1"
PROBLEM_SEED = 0  # one fixed stream: a recipe's seed moves the training, never the problems
LENGTHS = {"train": 20_000, "validation": 2_000, "test": 2_000}

SHIFTS = (-10, -2, -1, 1, 2, 10)  # of an injected wrong line: what carries, borrows and slips do

_INTEGER = re.compile(r"-?[0-9]{1,9}")
_CHAIN = re.compile(r"\d+([+-]\d+)+=\?")
LINE = re.compile(r"([0-9]{1,9})([+-])([0-9]{1,9})=(-?[0-9]{1,9})")


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

    @property
    def carries(self) -> int:
        """How many lines carry or borrow."""
        return sum(step.carries for step in self.steps())


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
    if not _CHAIN.fullmatch(text):
        raise ValueError(f"not a tiny problem: {text!r}")
    start, rest = re.match(r"\d+", text).group(), re.findall(r"([+-])(\d+)", text)  # type: ignore[union-attr]
    return Chain(int(start), tuple((op, int(n)) for op, n in rest))


def is_tiny(text: str, answer: str) -> bool:
    """Whether a problem is one of this world: a chain, and an integer as its reference answer."""
    return bool(_CHAIN.fullmatch(text) and _INTEGER.fullmatch(answer.strip()))


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


def generate(
    split: Split, seed: int, index: int, min_steps: int = 3, max_steps: int = 4, min_carries: int = 0
) -> Chain:
    """Problem number `index` of a split: a pure function of its arguments, so streams can resume anywhere."""
    rng = random.Random(f"tiny:{seed}:{split}:{index}")
    while True:
        chain = draw_chain(rng, min_steps, max_steps)
        if chain.carries >= min_carries and split_of(chain.text) == split:
            return chain


class ErrorKind(StrEnum):
    """What the first wrong line of a tiny solution did."""

    CARRY = "carry"  # forgot a carry, or carried where there was none: ten off
    BORROW = "borrow"  # the same for a subtraction
    SLIP = "slip"  # any other wrong result
    COPY = "copy"  # a number or operator that is not the problem's, a line too few or too many, another number boxed
    UNPARSABLE = "unparsable"  # not written as lines `a+b=c` and a box


class TinyProblems(Sequence[Problem]):
    """Problems of one split, each generated when it is asked for."""

    def __init__(self, split: Split, length: int) -> None:
        self._split, self._length = split, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):  # int -> Problem, slice -> list[Problem]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        return self.problem(range(self._length)[index])  # negative indices; IndexError beyond the end

    def problem(self, i: int) -> Problem:
        chain = generate(self._split, PROBLEM_SEED, i)
        return Problem(f"{self._split}-{i}", "tiny", chain.text, str(chain.answer), {"steps": len(chain.terms)})


class TinyInjection(InjectionSource):
    """Chains are worked out line by line."""

    def worked(self, problem: Problem) -> str:
        return worked(parse_chain(problem.text))

    def slips(self, problem: Problem, where: str, rng: np.random.Generator) -> Iterator[str]:
        """The results after the wrong one are shifted like it, and stay in 0..99."""
        chain = parse_chain(problem.text)
        at = 0 if where == "early" else len(chain.terms) - 1
        results = [step.result for step in chain.steps()[at:]]
        shifts = [d for d in SHIFTS if all(0 <= r + d <= 99 for r in results)]
        return (worked(chain, at, shifts[i]) for i in rng.permutation(len(shifts)))


class TinyTask(BaseTask):
    """Chains of additions and subtractions, answered by an integer in `\\boxed{}`."""

    name = source = "tiny"
    grader = GRADER
    error_kinds: Sequence[str] = tuple(ErrorKind)
    injection: InjectionSource = TinyInjection(("early", "late", "copied", "off_by_one", "other_model"))

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        return TinyProblems(*self.extent(cfg))

    def extent(self, cfg: ProblemsConfig) -> tuple[Split, int]:
        """The split and how many problems of it are asked for. UserError where there is no such source or split."""
        if cfg.source != self.source:
            fix = f"use source: {self.source}, or a recipe whose task is math"
            raise UserError(f"the task '{self.name}' has no source {cfg.source!r}", "task source", fix)
        if cfg.split not in SPLITS:
            fix = f"use one of {', '.join(SPLITS)}"
            raise UserError(f"the source '{self.source}' has no split {cfg.split!r}", "task split", fix)
        length = LENGTHS[cfg.split]
        return cast(Split, cfg.split), min(length, cfg.limit or length)

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        return [_grade(problem.answer, last_box(response)) for problem, response in pairs]

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return [_grade(gold, pred) for gold, pred in pairs]

    def error_kind(self, problem: Problem, response: str) -> str | None:
        return error_kind(problem, response)


def _grade(gold: str, answer: str | None) -> Grade:
    gold, answer = gold.strip(), (answer or "").strip()
    if not _INTEGER.fullmatch(gold):
        return Grade(Verdict.GRADER_ERROR, answer or None, f"the reference answer {gold!r} is not an integer", GRADER)
    if not _INTEGER.fullmatch(answer):
        return Grade(Verdict.UNPARSABLE, answer or None, "no integer in a last \\boxed{}", GRADER)
    return Grade(Verdict.CORRECT if int(answer) == int(gold) else Verdict.WRONG, answer, None, GRADER)


def error_kind(problem: Problem, response: str) -> ErrorKind | None:
    """What went wrong first in a response, or None where every line and the box are right.

    Only what follows the last heading (a line that ends in `:`) is read, so a correction is judged without
    the analysis before it.
    """
    lines = solution_lines(response)
    if lines is None:
        return ErrorKind.UNPARSABLE
    *worked, boxed = lines
    value, terms = (chain := parse_chain(problem.text)).start, list(chain.terms)
    for (op, n), line in zip(terms, worked, strict=False):
        match = LINE.fullmatch(line)
        if match is None:
            return ErrorKind.UNPARSABLE
        step, result = Step(value, op, n), int(match[4])
        if (int(match[1]), match[2], int(match[3])) != (value, op, n):
            return ErrorKind.COPY
        if result != step.result:
            return _line_kind(step, result)
        value = result
    return ErrorKind.COPY if len(worked) != len(terms) or int(boxed) != value else None


def solution_lines(response: str) -> list[str] | None:
    """The lines after the last heading, the last one being the boxed integer; None where no integer is boxed."""
    boxed = last_box(response)
    if boxed is None or not _INTEGER.fullmatch(boxed.strip()):
        return None
    lines = [line.strip() for line in response.rpartition("\\boxed")[0].splitlines() if line.strip()]
    headings = [i for i, line in enumerate(lines) if line.endswith(":")]
    return [*lines[headings[-1] + 1 if headings else 0 :], boxed.strip()]


def _line_kind(step: Step, result: int) -> ErrorKind:
    if abs(result - step.result) != 10:
        return ErrorKind.SLIP
    return ErrorKind.CARRY if step.op == "+" else ErrorKind.BORROW
