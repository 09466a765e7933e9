"""From a recipe's task section to the task."""

from __future__ import annotations

from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.math import MathTask
from scrpo_cli.tasks.tiny_task import TinyTask


def make_task(cfg: TaskConfig, workers: int | None = None) -> Task:
    """The task that a recipe names. `workers`: grading processes of tasks that need them (none: by CPU count)."""
    return TinyTask(cfg) if cfg.name == "tiny" else MathTask(cfg, workers)
