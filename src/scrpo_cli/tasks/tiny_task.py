"""The tiny world as a task: problems generated from a seed, graded in-process, errors told apart by kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import cast

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.base import BaseTask
from scrpo_cli.tasks.grading.extract import last_box
from scrpo_cli.tasks.tiny import SPLITS, Split, Step, generate, parse_chain, worked
from scrpo_cli.types import Grade, Problem, Verdict

GRADER = "tiny/1"
PROBLEM_SEED = 0  # one fixed stream: a recipe's seed moves the training, never the problems
LENGTHS = {"train": 20_000, "validation": 2_000, "test": 2_000}

SHIFTS = (-10, -2, -1, 1, 2, 10)  # of a injected wrong line: what carries, borrows and slips do

_INTEGER = re.compile(r"-?[0-9]{1,9}")
_LINE = re.compile(r"([0-9]{1,9})([+-])([0-9]{1,9})=(-?[0-9]{1,9})")


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
        i = range(self._length)[index]  # negative indices; IndexError beyond the end
        chain = generate(self._split, PROBLEM_SEED, i)
        return Problem(f"{self._split}-{i}", "tiny", chain.text, str(chain.answer), {"steps": len(chain.terms)})


class TinyTask(BaseTask):
    """Chains of additions and subtractions, answered by an integer in `\\boxed{}`."""

    name = "tiny"
    grader = GRADER
    error_kinds: Sequence[str] = tuple(ErrorKind)
    injectable: Sequence[str] = ("early", "late", "copied", "off_by_one", "other_model")

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        if cfg.source != "tiny":
            fix = "use source: tiny, or a recipe whose task is math"
            raise UserError(f"the task 'tiny' has no source {cfg.source!r}", "task source", fix)
        if cfg.split not in SPLITS:
            fix = f"use one of {', '.join(SPLITS)}"
            raise UserError(f"the source 'tiny' has no split {cfg.split!r}", "task split", fix)
        length = LENGTHS[cfg.split]
        return TinyProblems(cast(Split, cfg.split), min(length, cfg.limit or length))

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        return [_grade(problem.answer, last_box(response)) for problem, response in pairs]

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return [_grade(gold, pred) for gold, pred in pairs]

    def error_kind(self, problem: Problem, response: str) -> ErrorKind | None:
        return error_kind(problem, response)

    def worked(self, problem: Problem) -> str:
        return worked(parse_chain(problem.text))

    def slips(self, problem: Problem, where: str, rng: np.random.Generator) -> Iterator[str]:
        """The results after the wrong one are shifted like it, and stay in 0..99."""
        chain = parse_chain(problem.text)
        at = 0 if where == "early" else len(chain.terms) - 1
        results = [step.result for step in chain.steps()[at:]]
        shifts = [d for d in SHIFTS if all(0 <= r + d <= 99 for r in results)]
        return (worked(chain, at, shifts[i]) for i in rng.permutation(len(shifts)))


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
    lines = _solution_lines(response)
    if lines is None:
        return ErrorKind.UNPARSABLE
    *worked, boxed = lines
    value, terms = (chain := parse_chain(problem.text)).start, list(chain.terms)
    for (op, n), line in zip(terms, worked, strict=False):
        match = _LINE.fullmatch(line)
        if match is None:
            return ErrorKind.UNPARSABLE
        step, result = Step(value, op, n), int(match[4])
        if (int(match[1]), match[2], int(match[3])) != (value, op, n):
            return ErrorKind.COPY
        if result != step.result:
            return _line_kind(step, result)
        value = result
    return ErrorKind.COPY if len(worked) != len(terms) or int(boxed) != value else None


def _solution_lines(response: str) -> list[str] | None:
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
