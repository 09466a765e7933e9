"""The user's grader functions, called in processes that can be killed.

A grader is a function `(problem, response)`, or `(problem, response, options)` where it takes `task.options`, that
returns a bool or a `Grade`.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.plugins import FAILURES, Plugin, line_of, load_plugin, said
from scrpo_cli.recipe.models import GradingConfig
from scrpo_cli.tasks.processes import DeadlineExceeded, KillableProcesses
from scrpo_cli.types import Grade, Problem, Verdict

Function = Callable[[Problem, str], Any]


def bound(plugin: Plugin, options: Mapping[str, Any]) -> Function:
    """The grader as a function of (problem, response); UserError for another signature."""
    takes = arities(plugin)
    if 3 in takes and (options or 2 not in takes):
        return lambda problem, response: plugin.target(problem, response, options)
    if 2 in takes:
        return plugin.target
    fix = "Write it as (problem, response) or (problem, response, options)."
    raise UserError("the grader does not take two or three arguments", plugin.where, fix)


def arities(plugin: Plugin) -> set[int]:
    """Which of two and three arguments a grader takes."""
    if not callable(plugin.target):
        raise UserError("the grader is no function", plugin.where, "Name a function (problem, response).")
    signature = inspect.signature(plugin.target)
    found = set()
    for count in (2, 3):
        with suppress(TypeError):
            signature.bind(*range(count))
            found.add(count)
    return found


def graded(value: Any) -> Grade:
    """What a grader returned as a grade; anything but a bool and a sound Grade is the grader's failure."""
    if isinstance(value, bool | np.bool_):
        return Grade(Verdict.CORRECT if value else Verdict.WRONG)
    return sound(value)


def sound(value: Any) -> Grade:
    """A grade as it should be, else one that says what is wrong with it."""
    if not isinstance(value, Grade):
        return failed(f"the grader returned {value!r:.80}: return a bool or a scrpo_cli.types.Grade")
    if value.verdict not in (*Verdict,) or value.verdict == Verdict.UNGRADED:
        return failed(f"the grader returned the verdict {value.verdict!r:.80}")
    for name in ("extracted", "reason"):
        text = getattr(value, name)
        if text is not None and not isinstance(text, str):
            return failed(f"the grader returned a Grade whose {name} is {text!r:.80}: it is a string or None")
    return replace(value, verdict=Verdict(value.verdict))


def failed(reason: str) -> Grade:
    return Grade(Verdict.GRADER_ERROR, None, reason)


def graded_safely(function: Function, problem: Problem, response: str) -> Grade:
    """One grade; what the function raises is its reason."""
    try:
        with redirect_stdout(sys.stderr):
            return graded(function(problem, response))
    except FAILURES as error:
        return failed(f"{said(error)} ({line_of(error)})")


class FunctionGrader:
    """A user's function over many answers, by default in processes: one that hangs is killed at the deadline
    (`timeout`), one that dies is replaced (`grader_error`), and the rest of the batch is graded.
    """

    def __init__(self, reference: str, options: Mapping[str, Any], cfg: GradingConfig) -> None:
        self.reference, self.options, self.cfg = reference, dict(options), cfg
        plugin = load_plugin(reference, "task.grader")
        self.label, self.where = plugin.label, plugin.where
        self._function = bound(plugin, self.options)
        self.takes_options = 3 in arities(plugin)
        self._processes = KillableProcesses(cfg.processes, cfg.deadline, _start, (reference, self.options))

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """One grade for each (problem, response), in order."""
        if self.cfg.in_process:
            return [graded_safely(self._function, *pair) for pair in pairs]
        fix = "A script that grades needs `if __name__ == '__main__':`; else set task.grading.in_process=true."
        results = self._processes.map(_grade, [*pairs], self.where, fix)
        return [result if isinstance(result, Grade) else self._ended(result) for result in results]

    def _ended(self, error: BaseException) -> Grade:
        if isinstance(error, DeadlineExceeded):
            return Grade(Verdict.TIMEOUT, None, f"grading took longer than {self.cfg.deadline:g} s")
        return failed(f"the grading process died: {said(error)}")

    def close(self) -> None:
        """Ends the processes; the grader can be used again."""
        self._processes.close()


_function: Function | None = None
"""A grading process's own: the function that it grades with."""


def _start(reference: str, options: Mapping[str, Any]) -> None:
    """In a new grading process. What the user's code prints must not mix with the answer on stdout."""
    global _function
    os.dup2(2, 1)
    _function = bound(load_plugin(reference, "task.grader"), options)


def _grade(problem: Problem, response: str) -> Grade:
    assert _function is not None
    return graded_safely(_function, problem, response)
