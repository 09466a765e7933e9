"""The user's own tasks and graders: found by name, imported, called in processes that can be killed.

It runs the user's code with the user's rights: nothing here is a sandbox.

A grader is a function `(problem, response)`, or `(problem, response, options)` where it takes `task.options`, that
returns a bool or a `Grade`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import GradingConfig
from scrpo_cli.recipe.plugins import GROUPS
from scrpo_cli.tasks.processes import DeadlineExceeded, KillableProcesses, default_workers
from scrpo_cli.types import Grade, Problem, Verdict

FAILURES = (Exception, SystemExit)
"""What a plug-in may raise without ending the run; Ctrl-C still does."""
ANSWER = "return a bool or a scrpo_cli.types.Grade"

Function = Callable[[Problem, str], Any]


@dataclass(frozen=True)
class Plugin:
    """What a reference led to. `label` names it with its version, so that verdicts tell a changed grader."""

    target: Any
    label: str
    where: str


def load_plugin(reference: str, key: str) -> Plugin:
    """The object behind `task.name` or `task.grader` (`key`); UserError where it cannot be found or imported."""
    where = f"task.{key}: {reference}"
    module_name, colon, attribute = reference.rpartition(":")
    if not colon:
        point = entry_point(reference, key, where)
        module_name, attribute = point.module, point.attr
    module = imported(module_name, where)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            near = difflib.get_close_matches(part, [n for n in dir(target) if not n.startswith("_")], n=1)
            fix = f"Did you mean '{near[0]}'?" if near else "Check the name after the colon."
            raise UserError(f"{module_name} has no {part!r}", where, fix)
        target = getattr(target, part)
    name = Path(module_name).name if module_name.endswith(".py") else module_name
    short = f"{name}:{attribute}" if colon else reference
    return Plugin(target, f"{short} {stamp(module)}", where)


def entry_point(name: str, key: str, where: str) -> EntryPoint:
    found = list(entry_points(group=GROUPS[key], name=name))
    if not found:
        fix = f"Install the package that brings it (entry points {GROUPS[key]}), or write module:name."
        raise UserError(f"no installed package offers {name!r}", where, fix)
    if len({point.value for point in found}) > 1:
        both = ", ".join(f"{point.value} ({point.dist.name if point.dist else '?'})" for point in found)
        raise UserError(f"several packages offer {name!r}", where, f"Write module:name, one of {both}.")
    return found[0]


def imported(name: str, where: str) -> ModuleType:
    """A module by its dotted name or its file. The working directory, or the file's, comes last on `sys.path`, as it
    may not hide what is installed.
    """
    file = Path(name) if name.endswith(".py") else None
    folder = str((file.parent if file else Path()).resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the answer
            return executed(file) if file else importlib.import_module(name)
    except FAILURES as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            fix = f"Install it, write the path of a file, or run scrpo in its folder (looked in {folder} last)."
            raise UserError(f"there is no module {error.name!r}", where, fix) from None
        raise UserError(f"the plug-in cannot be imported: {said(error)}", f"{where} ({line_of(error)})") from None


def executed(file: Path) -> ModuleType:
    name = f"scrpo_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UserError(f"there is no file {file}", "", "Put it back, or change the recipe.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def stamp(module: ModuleType) -> str:
    """`dist=1.2 sha256=0123456789ab`: the version of the package that brought the module, if one did, and the hash of
    its source file.
    """
    brought = packages_distributions().get(module.__name__.split(".")[0], [])
    versions = [f"{name}={version(name)}" for name in dict.fromkeys(brought)]
    file = getattr(module, "__file__", None)
    digest = [f"sha256={hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}"] if file else []
    return " ".join([*versions, *digest])


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")[:500]


def line_of(error: BaseException) -> str:
    """`file:line` where it was raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def bound(plugin: Plugin, options: Mapping[str, Any]) -> Function:
    """The grader as a function of (problem, response); UserError for another signature."""
    takes = arities(plugin)
    if 3 in takes and (options or 2 not in takes):
        return partial(_with_options, plugin.target, dict(options))
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


def _with_options(function: Callable[..., Any], options: Mapping[str, Any], problem: Problem, response: str) -> Any:
    return function(problem, response, options)


def graded(value: Any) -> Grade:
    """What a grader returned as a grade; anything but a bool and a sound Grade is the grader's failure."""
    if isinstance(value, bool | np.bool_):
        return Grade(Verdict.CORRECT if value else Verdict.WRONG)
    return sound(value)


def sound(value: Any) -> Grade:
    """A grade as it should be, else one that says what is wrong with it."""
    if not isinstance(value, Grade):
        return failed(f"the grader returned {value!r:.80}: {ANSWER}")
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
    (`timeout`), one that dies is replaced (`error`), and the rest of the batch is graded.
    """

    def __init__(self, reference: str, options: Mapping[str, Any], cfg: GradingConfig) -> None:
        self.reference, self.options, self.cfg = reference, dict(options), cfg
        plugin = load_plugin(reference, "grader")
        self.label, self.where = plugin.label, plugin.where
        self._function = bound(plugin, self.options)
        self.takes_options = 3 in arities(plugin)
        workers = cfg.processes or default_workers()
        self._processes = KillableProcesses(workers, cfg.deadline, _start, (reference, self.options))

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
    _function = bound(load_plugin(reference, "grader"), options)


def _grade(problem: Problem, response: str) -> Grade:
    assert _function is not None
    return graded_safely(_function, problem, response)
