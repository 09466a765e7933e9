"""The thinking world: the chains of the tiny world, answered by a model that can check itself inside its answer.

A worked answer has one line a step; any line may be followed by its check, with whose result the chain goes on:

    47+38=84
    Check 7+8=15 4+3+1=8 85 not
    85-29=56
    \\boxed{56}

How hard the problems are is said by `task.think`: how many lines, and how many of them carry (or borrow) at least. The
embedded model nearly always gets such a line wrong in one go, so that one model has first answers from 0.1% to 50%.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from scrpo_cli.recipe.models import ProblemsConfig, ThinkConfig
from scrpo_cli.tasks.tiny import (
    LINE,
    PROBLEM_SEED,
    Split,
    Step,
    TinyProblems,
    TinyTask,
    generate,
    parse_chain,
    solution_lines,
)
from scrpo_cli.types import Problem

_CHECK = re.compile(r"Check [0-9]+[+-][0-9]+=-?[0-9]+ [0-9+-]+=-?[0-9]+ (-?[0-9]{1,9}) (ok|not)")


class ThinkErrorKind(StrEnum):
    """What the first wrong line of a solution did."""

    UNCHECKED = "unchecked"  # a wrong result that was not checked
    MISSED = "missed"  # a wrong result that its check found right, or replaced by another wrong one
    MISLED = "misled"  # a right result that its check made wrong
    COPY = "copy"  # a number or operator that is not the problem's, a line too few or too many, another number boxed
    UNPARSABLE = "unparsable"  # not written as lines `a+b=c`, checks and a box


class ThinkProblems(TinyProblems):
    """Problems of one split that are as hard as `cfg` says."""

    def __init__(self, split: Split, length: int, cfg: ThinkConfig) -> None:
        super().__init__(split, length)
        self._cfg = cfg

    def problem(self, i: int) -> Problem:
        cfg = self._cfg
        chain = generate(self._split, PROBLEM_SEED, i, cfg.lines, cfg.lines, cfg.carries)
        name = f"{self._split}-{cfg.lines}-{cfg.carries}-{i}"
        return Problem(name, "think", chain.text, str(chain.answer), {"steps": cfg.lines, "carries": chain.carries})


class ThinkTask(TinyTask):
    """Chains of additions and subtractions whose answers may hold checks, graded by the integer in `\\boxed{}`."""

    name = source = "think"
    error_kinds: Sequence[str] = tuple(ThinkErrorKind)

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        return ThinkProblems(*self.extent(cfg), self.cfg.think)

    def error_kind(self, problem: Problem, response: str) -> str | None:
        return error_kind(problem, response)


def error_kind(problem: Problem, response: str) -> ThinkErrorKind | None:
    """What went wrong first in a response, or None where every line and the box are right.

    Only what follows the last heading is read, as in the tiny world.
    """
    lines = solution_lines(response)
    if lines is None:
        return ThinkErrorKind.UNPARSABLE
    *worked, boxed = lines
    value, terms = (chain := parse_chain(problem.text)).start, list(chain.terms)
    written = _written(worked)
    if written is None:
        return ThinkErrorKind.UNPARSABLE
    for (op, n), line in zip(terms, written, strict=False):
        if line.asked != (value, op, n):
            return ThinkErrorKind.COPY
        value = Step(value, op, n).result
        if line.result != value:
            return line.kind(value)
    return ThinkErrorKind.COPY if len(written) != len(terms) or int(boxed) != value else None


@dataclass(frozen=True)
class _Line:
    """A written line: what it adds or subtracts, its result in one go, and that of its check (None: no check)."""

    asked: tuple[int, str, int]
    quick: int
    checked: int | None = None

    @property
    def result(self) -> int:
        return self.quick if self.checked is None else self.checked

    def kind(self, right: int) -> ThinkErrorKind:
        """What a line with a wrong result did."""
        if self.checked is None:
            return ThinkErrorKind.UNCHECKED
        return ThinkErrorKind.MISLED if self.quick == right else ThinkErrorKind.MISSED


def _written(lines: Sequence[str]) -> list[_Line] | None:
    """The lines of a solution, each with its check; None where one is neither a line nor a check after one."""
    found: list[_Line] = []
    for text in lines:
        if match := LINE.fullmatch(text):
            found.append(_Line((int(match[1]), match[2], int(match[3])), int(match[4])))
        elif (match := _CHECK.fullmatch(text)) and found and found[-1].checked is None:
            found[-1] = replace(found[-1], checked=int(match[1]))
        else:
            return None
    return found
