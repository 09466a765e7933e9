"""Mathematics with a final answer: GSM8K, MATH, MATH-500, AIME, AMC, OlympiadBench, Minerva, and files like them."""

from __future__ import annotations

from collections.abc import Sequence

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks.base import BaseTask
from scrpo_cli.tasks.grading.grade import MathGrader
from scrpo_cli.tasks.grading.workers import DEADLINE_S, GRADER
from scrpo_cli.tasks.sources import load_problems
from scrpo_cli.types import Grade, Problem


class MathTask(BaseTask):
    """Problems from a source, answers compared by value."""

    name = "math"
    grader = GRADER
    injectable: Sequence[str] = ("copied", "off_by_one", "other_model")

    def __init__(self, cfg: TaskConfig, workers: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        super().__init__(cfg)
        self._grader = MathGrader(workers, deadline_s)

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        return load_problems(cfg)

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        return self._grader.grade(pairs)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return self._grader.compare(pairs)

    def close(self) -> None:
        self._grader.close()
