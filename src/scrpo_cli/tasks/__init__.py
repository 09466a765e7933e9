"""Tasks: how problems are loaded, phrased and graded."""

from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.make import make_task

__all__ = ["Task", "make_task"]
