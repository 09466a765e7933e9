"""Mathematics with a final answer: GSM8K, MATH, MATH-500, AIME, AMC, OlympiadBench, Minerva, and files like them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks.base import first_turn
from scrpo_cli.tasks.grading.grade import MathGrader
from scrpo_cli.tasks.grading.workers import DEADLINE_S, GRADER
from scrpo_cli.tasks.sources import load_problems
from scrpo_cli.types import Grade, Message, Problem


class MathTask:
    """Problems from a source, answers compared by value."""

    name = "math"
    grader = GRADER
    error_kinds: Sequence[str] = ()
    plants: Sequence[str] = ("copied", "off_by_one", "foreign")

    def __init__(self, cfg: TaskConfig, workers: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        self._cfg = cfg
        self._grader = MathGrader(workers, deadline_s)

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        return load_problems(cfg)

    def messages(self, problem: Problem) -> list[Message]:
        return first_turn(self._cfg, problem)

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        return self._grader.grade(pairs)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return self._grader.compare(pairs)

    def error_kind(self, problem: Problem, response: str) -> None:
        """Steps in prose are not read."""

    def worked(self, problem: Problem) -> None:
        """A reference solution is not in the words of any model: right attempts serve instead."""

    def slips(self, problem: Problem, where: str, rng: np.random.Generator) -> Iterator[str]:
        return iter(())

    def close(self) -> None:
        self._grader.close()
