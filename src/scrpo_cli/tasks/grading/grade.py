"""Grading of mathematics: extract the final answer, then judge whether it is the reference answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scrpo_cli.tasks.grading.extract import extract
from scrpo_cli.tasks.grading.rules import EXACT, Rules
from scrpo_cli.tasks.grading.workers import DEADLINE_S, GRADER, Judge, Question
from scrpo_cli.types import Grade, Problem, Verdict

NO_ANSWER = {"thinking": "the response never leaves <think>", "nothing": "no final answer found"}


class MathGrader:
    """The one grader of training and evaluation."""

    def __init__(self, workers: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        self._judge = Judge(workers, deadline_s)

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """One grade for each (problem, response), in order."""
        found = [extract(response) for _, response in pairs]
        questions = [
            Question(problem.answer, extracted.answer, rules_of(problem.meta))
            for (problem, _), extracted in zip(pairs, found, strict=True)
            if extracted.answer is not None
        ]
        grades = iter(self._judged(questions))
        return [
            Grade(Verdict.UNPARSABLE, None, NO_ANSWER[e.how], GRADER) if e.answer is None else next(grades)
            for e in found
        ]

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """One grade for each (reference answer, final answer): nothing is extracted."""
        return self._judged([Question(gold, pred) for gold, pred in pairs])

    def _judged(self, questions: Sequence[Question]) -> list[Grade]:
        judgements = zip(questions, self._judge(questions), strict=True)
        return [Grade(judgement.verdict, q.pred, judgement.reason, GRADER) for q, judgement in judgements]

    def close(self) -> None:
        self._judge.close()


def rules_of(meta: Mapping[str, Any]) -> Rules:
    """What a problem's meta allows: `is_multiple_answer`, `rel_tol`, `error` (absolute, OlympiadBench's name)."""
    rules = Rules(bool(meta.get("is_multiple_answer")), _tolerance(meta.get("rel_tol")), _tolerance(meta.get("error")))
    return EXACT if rules == EXACT else rules


def _tolerance(value: Any) -> float:
    """A positive number, said as a number or a string such as `1e-1`; anything else is none."""
    try:
        return max(0.0, float(value or 0))
    except (TypeError, ValueError):
        return 0.0
