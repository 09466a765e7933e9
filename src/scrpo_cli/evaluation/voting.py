"""Majority votes: which answers to a problem are the same one, maj@k, and inference scaling.

One vote, one estimator: the accuracy of the majority among m of a problem's n stored samples is averaged over subsets
drawn without replacement, which uses all samples and is unbiased at every m. Where there are at most DRAWS subsets all
of them are taken. An answer that could not be extracted has no vote; a tie is the mean of the tied answers.

Inference scaling asks: at a budget of 2K samples, is it better to answer 2K times, or K times and correct each once?
SCoRe (arXiv 2409.12917, section 6.2, Fig. 1 right): 2K parallel first answers by majority against K first answers each
followed by one correction. Which answers vote in the second arm is not said: here the K corrections (`last`), and all
2K answers (`all`), both [I].

Shapes: N problems, n samples, T turns, D draws, m voters, C classes of answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from scrpo_cli.evaluation.outcomes import Answers
from scrpo_cli.evaluation.paired import compare
from scrpo_cli.evaluation.stats import mean_estimate
from scrpo_cli.rng import generator
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Attempt, Verdict

DRAWS = 256
NO_VOTE = -1
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


@dataclass(frozen=True)
class Votes:
    """The n answers to one problem that count in all turns: class and outcome by turn, (T, n) each. A class has one
    outcome; NO_VOTE stands for no final answer.
    """

    class_Tn: np.ndarray
    outcome_Tn: np.ndarray

    @classmethod
    def of(cls, labels: Sequence[str | None], outcomes: Sequence[float], turns: int = 1) -> Votes:
        """From the classes and outcomes of all answers of the first turn, then of the next one."""
        number: dict[str, int] = {}
        classes = [NO_VOTE if label is None else number.setdefault(label, len(number)) for label in labels]
        outcome_Tn = np.array(outcomes, dtype=float).reshape(turns, -1)
        counted_n = ~np.isnan(outcome_Tn.sum(axis=0))
        return cls(np.array(classes, dtype=int).reshape(turns, -1)[:, counted_n], outcome_Tn[:, counted_n])

    @property
    def size(self) -> int:
        return self.class_Tn.shape[1]


def majority_at_k(correct_NK: np.ndarray, classes_NK: Sequence[Sequence[str | None]], k: int) -> np.ndarray:
    """maj@k of each problem with k graded answers or more: the chance that the majority of k of them is right."""
    problems = [Votes.of(*pair) for pair in zip(classes_NK, correct_NK, strict=True)]
    return np.array([majority(votes, k, (0,), seed=i) for i, votes in enumerate(problems) if votes.size >= k])


def majority(votes: Votes, m: int, turns: Sequence[int], seed: int) -> float:
    """Expected accuracy of the vote among `turns` of m samples; NaN where there are not as many."""
    if m > votes.size:
        return np.nan
    chosen_Dm = subsets(votes.size, m, seed)
    class_DV = np.concatenate([votes.class_Tn[t][chosen_Dm] for t in turns], axis=1)
    return float(vote(class_DV, class_outcomes(votes)).mean())


def class_outcomes(votes: Votes) -> np.ndarray:
    """(C,) outcome of every class."""
    outcome_C = np.zeros(int(votes.class_Tn.max(initial=NO_VOTE)) + 1)
    voting = votes.class_Tn != NO_VOTE
    outcome_C[votes.class_Tn[voting]] = votes.outcome_Tn[voting]
    return outcome_C


def vote(class_DV: np.ndarray, outcome_C: np.ndarray) -> np.ndarray:
    """(D,) outcome of the most frequent class of each row; a tie is the mean of the tied classes, no vote is 0."""
    if not len(outcome_C):
        return np.zeros(len(class_DV))
    count_DC = (class_DV[:, :, None] == np.arange(len(outcome_C))).sum(axis=1)
    most_D1 = count_DC.max(axis=1, keepdims=True)
    top_DC = (count_DC == most_D1) & (most_D1 > 0)
    return (top_DC * outcome_C).sum(axis=1) / np.maximum(1, top_DC.sum(axis=1))


def subsets(n: int, m: int, seed: int) -> np.ndarray:
    """(D, m) subsets of range(n): all of them where they are few, else DRAWS random ones from the problem's `seed`."""
    if comb(n, m) <= DRAWS:
        return np.array([*combinations(range(n), m)])
    return np.argsort(generator(seed, 0, "scaling", m).random((DRAWS, n)), axis=1)[:, :m]


def scaling_metrics(answers: Answers, task: Task) -> dict[str, Any] | None:
    """`points`: for each K what `scaling_point` gives; None without votes (code) or with fewer than 2 samples."""
    first, second = answers.turns[:2]
    together = [a + b for a, b in zip(answers.nested(first), answers.nested(second), strict=True)]
    labels = vote_classes(task, together)
    if labels is None:
        return None
    problems = [Votes.of(row, [a.outcome for a in both], 2) for row, both in zip(labels, together, strict=True)]
    most = max((p.size for p in problems), default=0)
    points = [scaling_point(problems, 2**i) for i in range(most.bit_length())]
    return {"draws": DRAWS, "points": points} if most > 1 else None


def scaling_point(problems: Sequence[Votes], k: int) -> dict[str, Any]:
    """At a budget of 2k samples: `parallel` (2k first answers), `last` and `all` (k answers with a correction each) as
    {"value", "ci95"}, and `last_parallel`, `all_parallel`: each compared with `parallel`. None where no problem has so
    many samples.
    """
    arms = {"parallel": (2 * k, (0,)), "last": (k, (1,)), "all": (k, (0, 1))}
    value_N1 = {
        name: np.array([[majority(p, m, turns, seed=i)] for i, p in enumerate(problems)])
        for name, (m, turns) in arms.items()
    }
    point: dict[str, Any] = {"k": k, "budget": 2 * k}
    for name, values_N1 in value_N1.items():
        known_N = values_N1[~np.isnan(values_N1)]
        point[name] = mean_estimate(known_N).as_dict() if len(known_N) else None
    return point | {f"{name}_parallel": compare(value_N1["parallel"], value_N1[name]) for name in ("last", "all")}
