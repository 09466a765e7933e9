"""How often the rule of `scrpo advise` is right on cells that it was not fitted on.

The thresholds are fitted on all cells but one, and the rule is asked about that one: the very rule, with its intervals,
so that it may say `undecided`. A cell whose own interval holds 0 tells nothing and is left out of the count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

from map_points import Point

from scrpo_cli.evaluation.advice import UNDECIDED, Rule, conditions, verdict
from scrpo_cli.numbers import wilson


@dataclass(frozen=True)
class HeldOut:
    """What the rule that was fitted on the other cells says of a cell."""

    point: Point
    rule: Rule
    said: str


def said(point: Point, rule: Rule) -> str:
    return verdict(conditions(point.measured, rule))


def fit(points: Sequence[Point], start: Rule = Rule()) -> Rule:
    """The thresholds on self-checking and on the ratio of signal per token that are right most often, less where they
    are wrong; of equals the nearest to `start`. Between two cells all thresholds are alike: the middle is tried.
    """
    known = [point for point in points if point.truth]
    helds = thresholds((p.measured["first"]["self_checking"]["value"] for p in known), start.held)
    ratios = thresholds((ratio_of(p.measured) for p in known), start.ratio)
    rules = [replace(start, held=held, ratio=ratio) for held, ratio in product(helds, ratios)]

    def worth(rule: Rule) -> tuple[int, float]:
        answers = [(said(point, rule), point.truth) for point in known]
        score = sum(a == truth for a, truth in answers) - sum(a not in (truth, UNDECIDED) for a, truth in answers)
        return score, -abs(math.log(rule.ratio / start.ratio)) - abs(rule.held - start.held)

    return max(rules, key=worth)


def thresholds(values: Iterable[float], start: float) -> list[float]:
    """`start`, and the middle between each two neighbours."""
    known = sorted({value for value in values if math.isfinite(value) and value > 0})
    return [start, *((a + b) / 2 for a, b in pairwise(known))]


def ratio_of(measured: Any) -> float:
    """Groups with signal per token, reflecting over practising; infinite where practising found none."""
    if measured["reflection"] is None:
        return 0.0
    ours, theirs = (measured[kind]["per_1000_tokens"]["value"] for kind in ("reflection", "first"))
    return ours / theirs if theirs else math.inf


def leave_one_out(points: Sequence[Point]) -> list[HeldOut]:
    """Each cell under the rule of the others. `points` are of one arm."""
    rules = [fit([other for other in points if other.cell != point.cell]) for point in points]
    return [HeldOut(point, rule, said(point, rule)) for point, rule in zip(points, rules)]


def score(answers: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """Of (what was said, the truth): how many are right, wrong and undecided among the cells that can tell, `share` and
    its Wilson interval, and how many a guess of the more frequent truth has right.
    """
    known = [(a, truth) for a, truth in answers if truth]
    right, undecided = sum(a == truth for a, truth in known), sum(a == UNDECIDED for a, _ in known)
    counts = {"cells": len(known), "right": right, "undecided": undecided, "wrong": len(known) - right - undecided}
    if not known:
        return counts | {"share": None, "ci95": None, "guess": 0}
    share = right / len(known)
    guess = max(Counter(truth for _, truth in known).values())
    return counts | {"share": share, "ci95": list(wilson(share, len(known))), "guess": guess}
