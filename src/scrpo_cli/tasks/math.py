"""Mathematics with a final answer: GSM8K, MATH, MATH-500, AIME, AMC, OlympiadBench, Minerva, and files like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks.base import BaseTask, InjectionSource
from scrpo_cli.tasks.grading.extract import Extracted, extract
from scrpo_cli.tasks.grading.numbers import Rules
from scrpo_cli.tasks.grading.workers import GRADER, Judge, Question
from scrpo_cli.tasks.sources import load_problems
from scrpo_cli.types import Grade, Problem, Verdict

NO_ANSWER = {"thinking": "the response never leaves <think>", "nothing": "no final answer found"}


class MathTask(BaseTask):
    """Problems from a source; the final answer is extracted, then compared by value with the reference answer."""

    name = "math"
    grader = GRADER
    injection = InjectionSource(("copied", "off_by_one", "other_model"))

    def __init__(self, cfg: TaskConfig) -> None:
        super().__init__(cfg)
        self._judge = Judge(cfg.grading.processes, cfg.grading.deadline)

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        return load_problems(cfg)

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        found = [extract(response) for _, response in pairs]
        unreadable = self._judge.unreadable(problem.answer for problem, _ in pairs)
        questions = [
            Question(problem.answer, extracted.answer, rules_of(problem.meta), problem.text)
            for (problem, _), extracted in zip(pairs, found, strict=True)
            if extracted.answer is not None
        ]
        judged = iter(self._judged(questions))
        return [
            next(judged) if extracted.answer is not None else _unanswered(extracted, unreadable.get(problem.answer))
            for (problem, _), extracted in zip(pairs, found, strict=True)
        ]

    def unreadable(self, problems: Sequence[Problem]) -> dict[str, str]:
        reasons = self._judge.unreadable(problem.answer for problem in problems)
        return {problem.id: reasons[problem.answer] for problem in problems if problem.answer in reasons}

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return self._judged([Question(gold, pred) for gold, pred in pairs])

    def _judged(self, questions: Sequence[Question]) -> list[Grade]:
        judgements = zip(questions, self._judge(questions), strict=True)
        return [Grade(judgement.verdict, q.pred, judgement.reason, GRADER) for q, judgement in judgements]

    def close(self) -> None:
        self._judge.close()


def _unanswered(extracted: Extracted, unreadable: str | None) -> Grade:
    """The grade of a response without an answer: left out like any other where the reference cannot be read."""
    if unreadable:
        return Grade(Verdict.GRADER_ERROR, None, unreadable, GRADER)
    return Grade(Verdict.UNPARSABLE, None, NO_ANSWER[extracted.how], GRADER)


def rules_of(meta: Mapping[str, Any]) -> Rules:
    """What a problem's meta allows: `is_multiple_answer`, `rel_tol`, `error` (absolute, OlympiadBench's name)."""
    return Rules(bool(meta.get("is_multiple_answer")), _tolerance(meta.get("rel_tol")), _tolerance(meta.get("error")))


def _tolerance(value: Any) -> float:
    """A positive number, said as a number or a string such as `1e-1`; anything else is none."""
    try:
        return max(0.0, float(value or 0))
    except (TypeError, ValueError):
        return 0.0
