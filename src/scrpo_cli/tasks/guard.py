"""The failure policy around every task: a failed answer is left out with its reason, too many failures end the run.

Whatever a task's grader does (raises, returns NaN, too few grades, something else), each answer has one sound grade:
`grader_error` where the grader failed, which groups, averages and the error pool leave out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any, TypeVar

from scrpo_cli.errors import RunError, ScrpoError, UserError
from scrpo_cli.plugins import FAILURES, line_of, said
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.base import BaseTask, Task
from scrpo_cli.tasks.functions import FunctionGrader, failed, sound
from scrpo_cli.types import Grade, Message, Problem, Verdict

SHOWN = 5  # problems named in a warning
ENOUGH = 20
"""Answers before a share of failures says anything [I]."""

Pair = TypeVar("Pair")


class Guarded:
    """A task whose grades are sound, and who counts its failures. `grader` judges instead of the task's own."""

    def __init__(self, task: Task, max_failed: float, grader: FunctionGrader | None = None, stamp: str = "") -> None:
        self.task, self.max_failed, self._grader, self._stamp = task, max_failed, grader, stamp
        self.name = task.name
        self.grader = grader.label if grader else self._stamped(task.grader)
        self.error_kinds = task.error_kinds
        self.injection = getattr(task, "injection", BaseTask.injection)
        self.votes: bool = getattr(task, "votes", BaseTask.votes)
        self._graded = 0
        self._reasons: list[str] = []

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        return self.task.problems(cfg)

    def messages(self, problem: Problem) -> list[Message]:
        return self.task.messages(problem)

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        grades = self._sound(self._grader.grade if self._grader else self.task.grade, pairs)
        self._graded += len(grades)
        for (problem, _), grade in zip(pairs, grades, strict=True):
            if grade.verdict is Verdict.GRADER_ERROR:
                self._reasons.append(f"{problem.source} {problem.id}: {grade.reason or 'no reason given'}")
        return [replace(g, grader=self.grader if self._grader else self._stamped(g.grader)) for g in grades]

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Equivalence alone is the task's, whoever grades whole responses."""
        return self._sound(self.task.compare, pairs)

    def unreadable(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """None where another grader judges, or a user's task does not say."""
        return {} if self._grader or not hasattr(self.task, "unreadable") else self.task.unreadable(problems)

    def error_kind(self, problem: Problem, response: str) -> str | None:
        return self.task.error_kind(problem, response)

    def close(self) -> None:
        self.task.close()
        if self._grader:
            self._grader.close()

    def too_many_failures(self) -> str | None:
        """What to say if the grader failed on too many of the answers since the last call; None if it did not, or if
        there were too few answers to tell (they count on).
        """
        if self._graded < ENOUGH:
            return None
        graded, reasons, self._graded, self._reasons = self._graded, self._reasons, 0, []
        if len(reasons) <= self.max_failed * graded:
            return None
        limit = f"more than task.grading.max_failed ({self.max_failed:.0%})"
        return f"The grader failed on {len(reasons)} of {graded} answers, {limit}. The first: {reasons[0]}"

    def _stamped(self, grader: str) -> str:
        return f"{grader or self.task.grader} {self._stamp}".rstrip()

    def _sound(self, grade: Callable[[Sequence[Pair]], Any], pairs: Sequence[Pair]) -> list[Grade]:
        """One grade a pair. What fails for the whole batch is tried alone, so that one answer costs no other."""
        if not pairs:
            return []
        try:
            with redirect_stdout(sys.stderr):
                grades = grade(pairs)
        except ScrpoError:
            raise
        except FAILURES as error:
            reason = f"{said(error)} ({line_of(error)})"
        else:
            if isinstance(grades, list | tuple) and len(grades) == len(pairs):
                return [sound(g) for g in grades]
            count = f"{len(grades)} grades" if isinstance(grades, list | tuple) else f"{grades!r:.80}"
            reason = f"the grader returned {count} for {len(pairs)} answers"
        if len(pairs) == 1:
            return [failed(reason)]
        return [self._sound(grade, [pair])[0] for pair in pairs]


def unreadable_references(task: Task, problems: Sequence[Problem], where: str, of: int = 0) -> list[str]:
    """A line that names the problems whose reference answers cannot be read, if there are any: known before anything is
    sampled. UserError where they are all, or more than `task.grading.max_failed` of them, or of the set of size `of`
    that they are from.
    """
    found = task.unreadable(problems)
    if not found:
        return []
    what = f"{len(found)} of {len(problems)} reference answers cannot be read"
    named = ", ".join([*list(found)[:SHOWN], *(["..."] if len(found) > SHOWN else [])])
    too_many = isinstance(task, Guarded) and len(found) > task.max_failed * (of or len(problems))
    if too_many or len(found) == len(problems):
        fix = "Mend the reference answers, take another task or grader, or raise task.grading.max_failed."
        raise UserError(f"{what}: {next(iter(found.values()))}", f"{where} ({named})", fix)
    return [f"warning: {what}, and every answer to them is left out of averages and groups: {where} ({named})"]


def too_many_failures(task: Task) -> str | None:
    """See `Guarded.too_many_failures`; a bare task counts nothing."""
    return task.too_many_failures() if isinstance(task, Guarded) else None


def stop_on_failures(task: Task, where: str, fix: str) -> None:
    """RunError when too many grades failed; what was graded is stored by then."""
    if found := too_many_failures(task):
        raise RunError(found, where, f"Mend the grader ({task.grader}) or raise task.grading.max_failed. {fix}")


class OwnTask(Guarded):
    """A user's own task: what it does outside of grading is checked too, and said in three lines."""

    def __init__(self, task: Task, max_failed: float, grader: FunctionGrader | None, stamp: str, where: str) -> None:
        super().__init__(task, max_failed, grader, stamp)
        self.where = where

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        try:
            with redirect_stdout(sys.stderr):
                problems = self.task.problems(cfg)
        except ScrpoError:
            raise
        except FAILURES as error:
            what = f"problems() of the task failed: {said(error)}"
            raise UserError(what, f"{self.where} ({line_of(error)})", "Mend the plug-in.") from error
        fix = "problems() returns a sequence of scrpo_cli.types.Problem."
        if not isinstance(problems, Sequence):
            raise UserError(f"problems() of the task returned {type(problems).__name__}", self.where, fix)
        seen: set[tuple[str, str]] = set()
        for problem in problems:
            if not isinstance(problem, Problem):
                raise UserError(f"problems() of the task returned {problem!r:.80}", self.where, fix)
            if (problem.source, problem.id) in seen:
                raise UserError(f"the id {problem.id!r} occurs twice", self.where, "Give every problem its own id.")
            seen.add((problem.source, problem.id))
        return problems
