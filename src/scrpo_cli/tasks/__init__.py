"""Tasks: how problems are loaded, phrased and graded. `make_task` leads from a recipe's section to its task: a built-in
one or the user's own, with the failure policy around it.
"""

from __future__ import annotations

from collections.abc import Callable

from scrpo_cli.errors import ScrpoError, UserError
from scrpo_cli.plugins import FAILURES, line_of, load_plugin, said
from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.recipe.references import is_plugin
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.code.task import CodeTask
from scrpo_cli.tasks.functions import FunctionGrader
from scrpo_cli.tasks.guard import Guarded, OwnTask
from scrpo_cli.tasks.math import MathTask
from scrpo_cli.tasks.think import ThinkTask
from scrpo_cli.tasks.tiny import TinyTask

__all__ = ["TASKS", "Task", "make_task"]

TASKS: dict[str, Callable[[TaskConfig], Task]] = {
    "tiny": TinyTask,
    "think": ThinkTask,
    "math": MathTask,
    "code": CodeTask,
}
NEEDED = ("name", "grader", "error_kinds", "problems", "messages", "grade", "compare", "error_kind", "close")


def make_task(cfg: TaskConfig, workers: int | None = None, deadline_s: float | None = None) -> Guarded:
    """The task that a recipe names. Tasks that grade in processes start `workers` of them and give each item
    `deadline_s`, where these are given, else what `task.grading` says.
    """
    given = {k: v for k, v in {"processes": workers, "deadline": deadline_s}.items() if v is not None}
    cfg = cfg.model_copy(update={"grading": cfg.grading.model_copy(update=given)})
    grader = FunctionGrader(cfg.grader, cfg.options, cfg.grading) if cfg.grader else None
    if is_plugin(cfg.name):
        return own_task(cfg, grader)
    if grader and cfg.options and not grader.takes_options:
        raise UserError("task.options are given and the grader takes none", grader.where, "Add a third parameter.")
    return Guarded(TASKS[cfg.name](cfg), cfg.grading.max_failed, grader)


def own_task(cfg: TaskConfig, grader: FunctionGrader | None) -> Guarded:
    """The user's task: `task.name` leads to its class, or to any function from a TaskConfig to a task."""
    plugin = load_plugin(cfg.name, "task.name")
    try:
        task = plugin.target(cfg)
    except ScrpoError:
        raise
    except FAILURES as error:
        fix = "It is called with one argument, a scrpo_cli.recipe.models.TaskConfig."
        raise UserError(f"the task cannot be made: {said(error)}", f"{plugin.where} ({line_of(error)})", fix) from error
    if missing := [name for name in NEEDED if not hasattr(task, name)]:
        what = f"the task has no {', '.join(missing)}"
        raise UserError(what, plugin.where, "Inherit from scrpo_cli.tasks.base.BaseTask and write what is missing.")
    return OwnTask(task, cfg.grading.max_failed, grader, plugin.label, plugin.where)
