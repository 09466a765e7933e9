"""What a grading process can do wrong, on command; imported by the processes of tests/tasks/test_workers.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

from scrpo_cli.tasks.grading.workers import Judgement, Question
from scrpo_cli.types import Verdict


def judge_hard(question: Question) -> Judgement:
    """Do as the answer says; else it is wrong."""
    return Judgement(Verdict.CORRECT if obeyed(question.pred) else Verdict.WRONG)


def read_reference(gold: str) -> bool:
    """Do as the reference answer says; else it can be read."""
    return gold != "unreadable^2" and not obeyed(gold.removesuffix("^2"))


def obeyed(text: str) -> bool:
    """Die, hang or raise as a text says; True where it says to die once and that is done."""
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
    if text.startswith("once:"):
        if not Path(text[5:]).exists():
            Path(text[5:]).touch()
            os._exit(9)
        return True
    return False
