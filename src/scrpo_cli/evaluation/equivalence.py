"""Which answers to a problem are the same one: the classes that a majority vote counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Attempt, Verdict

MOST = 24
"""Distinct wrong answers of one problem that are compared with each other, most frequent first; rarer ones are told
apart as text. 24 cost at most 276 comparisons a problem [I]."""
RIGHT = "="


def vote_classes(task: Task, rows: Sequence[Sequence[Attempt]]) -> list[list[str | None]] | None:
    """For each attempt the class of its final answer, by problem; None for an attempt without one, which has no vote.
    None for all where a task has no final answers that could be counted (code).

    Answers that were judged right are one class: each of them equals the reference. Wrong ones are one class when
    `Task.compare` finds them equal in both directions (its rules can be lopsided: a percent sign is forgiven one way).
    What timed out or failed is not compared again: it stands for its own text.
    """
    if not task.votes:
        return None
    merged = [joined(task_pairs) for task_pairs in equal_pairs(task, [distinct_wrong(row) for row in rows])]
    return [[class_of(a, same) for a in row] for row, same in zip(rows, merged, strict=True)]


def class_of(attempt: Attempt, same: dict[str, str]) -> str | None:
    if attempt.grade.verdict is Verdict.CORRECT:
        return RIGHT
    answer = attempt.grade.extracted
    return None if answer is None else f"{same.get(answer, answer)} (wrong)"


def distinct_wrong(row: Sequence[Attempt]) -> list[str]:
    counts = Counter(a.grade.extracted for a in row if a.grade.verdict is Verdict.WRONG)
    counts.pop(None, None)
    return [str(answer) for answer, _ in counts.most_common(MOST)]


def equal_pairs(task: Task, answers_N: Sequence[Sequence[str]]) -> list[list[tuple[str, str]]]:
    """The pairs of each problem that are equal in both directions, asked of the task in two calls."""
    asked = [(i, a, b) for i, answers in enumerate(answers_N) for a, b in combinations(answers, 2)]
    for swap in (False, True):
        grades = task.compare([(b, a) if swap else (a, b) for _, a, b in asked])
        asked = [pair for pair, grade in zip(asked, grades, strict=True) if grade.verdict is Verdict.CORRECT]
    found: list[list[tuple[str, str]]] = [[] for _ in answers_N]
    for i, a, b in asked:
        found[i].append((a, b))
    return found


def joined(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Each answer's representative: equal pairs are joined transitively."""
    parent: dict[str, str] = {}

    def root(answer: str) -> str:
        while parent.setdefault(answer, answer) != answer:
            answer = parent[answer]
        return answer

    for a, b in pairs:
        parent[root(b)] = root(a)
    return {answer: root(answer) for answer in parent}
