"""From a recipe's task section to the task."""

from __future__ import annotations

from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.grading.workers import DEADLINE_S
from scrpo_cli.tasks.math import MathTask
from scrpo_cli.tasks.tiny_task import TinyTask


def make_task(cfg: TaskConfig, workers: int | None = None, deadline_s: float = DEADLINE_S) -> Task:
    """The task that a recipe names. Tasks that grade in processes start `workers` of them (none: by CPU count) and
    give each item `deadline_s`.
    """
    return TinyTask(cfg) if cfg.name == "tiny" else MathTask(cfg, workers, deadline_s)
