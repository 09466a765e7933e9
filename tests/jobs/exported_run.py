"""A small run with hostile texts, of which every export is made."""

from __future__ import annotations

from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

HOSTILE = "</script><img src=x onerror=alert(1)>`|```"
RUN = "20261120-141503-k3f9"
OUTCOMES = {"train-1": "CWCW", "train-2": "CCWF"}
"""Of the first answers: correct, wrong, and one that the grader failed on."""
VERDICTS = {"C": Verdict.CORRECT, "W": Verdict.WRONG, "F": Verdict.GRADER_ERROR}


def attempt(problem: Problem, part: str, sample: int, mark: str, kind: AttemptKind, parent: str | None) -> Attempt:
    name = f"{RUN}:2:test:after:{part}:{problem.id}:{sample}"
    text = f"{HOSTILE} {part} {sample} \\boxed{{{'2' if mark == 'C' else '3'}}}"
    completion = Completion([1, 2], [3, 4, 5], [-0.1] * 3, text, FinishReason.STOP)
    grade = Grade(VERDICTS[mark], "2" if mark == "C" else "3", "broken" if mark == "F" else None, "tiny/1")
    turn = 1 if parent is None else 2
    group = int(problem.id[-1])
    return Attempt(name, problem, completion, grade, kind, turn, sample, parent, part, group)


def answers() -> list[Attempt]:
    """Two problems, four samples each with a second turn, and a repair of every wrong first answer."""
    found = []
    for name, marks in OUTCOMES.items():
        problem = Problem(name, "tiny", f"1+1=? {HOSTILE}", "2", {"level": 1})
        for sample, mark in enumerate(marks):
            first = attempt(problem, "first", sample, mark, AttemptKind.FIRST, None)
            found += [first, attempt(problem, "second", sample, "C", AttemptKind.CHECK, first.id)]
            if mark == "W":
                found.append(attempt(problem, "repair", sample, "C", AttemptKind.CORRECTION, first.id))
    return found
