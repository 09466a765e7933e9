"""Inference scaling: at a budget of 2K samples, is it better to answer 2K times, or K times and correct each once?

SCoRe (arXiv 2409.12917, section 6.2, Fig. 1 right): 2K parallel first answers by majority against K first answers each
followed by one correction. Which answers vote in the second arm is not said: here the K corrections (`last`), and all
2K answers (`all`), both [I].

All n stored samples of a problem are used: the accuracy of a vote among m of them is averaged over subsets drawn
without replacement, which is unbiased at every m. Where there are at most DRAWS subsets all of them are taken.

Shapes: N problems, n samples, D draws, m voters, C classes of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from scrpo_cli.evaluation.answers import Answers
from scrpo_cli.evaluation.equivalence import vote_classes
from scrpo_cli.evaluation.metrics import padded, paired, share
from scrpo_cli.rng import generator
from scrpo_cli.tasks.base import Task

DRAWS = 256
NO_VOTE = -1


@dataclass(frozen=True)
class Votes:
    """The n answers to one problem of which both turns were graded: class and outcome by turn, (2, n) each. A class has
    one outcome; NO_VOTE stands for no final answer.
    """

    class_2n: np.ndarray
    outcome_2n: np.ndarray

    @property
    def size(self) -> int:
        return self.class_2n.shape[1]


def scaling_metrics(answers: Answers, task: Task) -> dict[str, Any] | None:
    """`points`: for each K what `scaling_point` gives; None without votes (code) or with fewer than 2 samples."""
    first, second = answers.turns[:2]
    together = [a + b for a, b in zip(answers.nested(first), answers.nested(second), strict=True)]
    labels = vote_classes(task, together)
    if labels is None:
        return None
    problems = [votes_of(labels_2K, [a.outcome for a in row]) for labels_2K, row in zip(labels, together, strict=True)]
    most = max((p.size for p in problems), default=0)
    points = [scaling_point(problems, 2**i) for i in range(most.bit_length())]
    return {"draws": DRAWS, "points": points} if most > 1 else None


def votes_of(labels_2K: Sequence[str | None], outcomes_2K: Sequence[float]) -> Votes:
    """From the classes and outcomes of all first and then all second answers to one problem."""
    number: dict[str, int] = {}
    classes = [NO_VOTE if label is None else number.setdefault(label, len(number)) for label in labels_2K]
    outcome_2n = np.array(outcomes_2K, dtype=float).reshape(2, -1)
    counted_n = ~np.isnan(outcome_2n.sum(axis=0))
    return Votes(np.array(classes).reshape(2, -1)[:, counted_n], outcome_2n[:, counted_n])


def scaling_point(problems: Sequence[Votes], k: int) -> dict[str, Any]:
    """At a budget of 2k samples: `parallel` (2k first answers), `last` and `all` (k answers with a correction each) as
    {"value", "ci95"}, and `last_parallel`, `all_parallel`: the paired differences to `parallel`. None where no problem
    has so many samples. Intervals are clustered by problem.
    """
    arms = {
        "parallel": [arm(p, 2 * k, turns=(0,), seed=i) for i, p in enumerate(problems)],
        "last": [arm(p, k, turns=(1,), seed=i) for i, p in enumerate(problems)],
        "all": [arm(p, k, turns=(0, 1), seed=i) for i, p in enumerate(problems)],
    }
    value_N1 = {name: padded([[value] for value in values]) for name, values in arms.items()}
    known = {name: not np.isnan(values).all() for name, values in value_N1.items()}
    point: dict[str, Any] = {"k": k, "budget": 2 * k}
    point |= {name: share(values) if known[name] else None for name, values in value_N1.items()}
    for name in ("last", "all"):
        both = known["parallel"] and known[name]
        point[f"{name}_parallel"] = paired(value_N1["parallel"], value_N1[name]) if both else None
    return point


def arm(votes: Votes, m: int, turns: Sequence[int], seed: int) -> float:
    """Expected accuracy of the vote among `turns` of m samples; NaN where there are not as many."""
    if m > votes.size:
        return np.nan
    chosen_Dm = subsets(votes.size, m, seed)
    class_DV = np.concatenate([votes.class_2n[t][chosen_Dm] for t in turns], axis=1)
    return float(vote(class_DV, class_outcomes(votes)).mean())


def class_outcomes(votes: Votes) -> np.ndarray:
    """(C,) outcome of every class."""
    outcome_C = np.zeros(int(votes.class_2n.max(initial=NO_VOTE)) + 1)
    voting = votes.class_2n != NO_VOTE
    outcome_C[votes.class_2n[voting]] = votes.outcome_2n[voting]
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
