"""What a grading process can do wrong, on command; imported by the processes of tests/tasks/test_workers.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

from scrpo_cli.tasks.grading.workers import Judgement, Question
from scrpo_cli.types import Verdict


def judge_hard(question: Question) -> Judgement:
    """Do as the reference answer says, then as the answer says; else the answer is wrong."""
    for text in (question.gold.removesuffix("^2"), question.pred):
        if text == "die":
            os._exit(9)
        if text == "hang":
            time.sleep(600)
        if text == "memory":
            raise MemoryError
        if text == "recursion":
            raise RecursionError
        if text == "bug":
            raise ZeroDivisionError("bug")
        if text == "unreadable":
            return Judgement(Verdict.GRADER_ERROR, text)
        if text.startswith("once:"):
            if not Path(text[5:]).exists():
                Path(text[5:]).touch()
                os._exit(9)
            return Judgement(Verdict.CORRECT)
    return Judgement(Verdict.WRONG)
