"""How much of a repair the reflection causes. Pure functions of graded corrections; `scrpo audit` samples them.

A correction that comes out right may owe that to its reflection, to the second try that it is, or to knowing that the
first answer was wrong. The same errors are therefore corrected under several conditions, which differ in one thing
each, and compared problem by problem.

Shapes: N problems with an error, one error each, K corrections of it. Numbers are {"value", "ci95"}, 95% intervals
clustered by problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.evaluation.metrics import summarize
from scrpo_cli.evaluation.paired import compare, holm
from scrpo_cli.evaluation.stats import ALPHA

OWN, AGAIN, FOREIGN, CUT, WAIT, RETRY, OTHER = "own", "again", "foreign", "cut", "wait", "retry", "other"
CONDITIONS = {
    OWN: "its own reflection, as ever",
    AGAIN: "its own reflection, given back to it",
    FOREIGN: "the reflection on another problem's error",
    CUT: "the first half of its own reflection",
    WAIT: "the word Wait for a reflection",
    RETRY: "a fresh first answer",
    OTHER: "its own reflection, on another problem's wrong answer",
}
COMPARED = {
    (AGAIN, OWN): "what giving it back changes; should be nothing",
    (AGAIN, WAIT): "what the words of the reflection cause",
    (AGAIN, CUT): "what their second half causes",
    (AGAIN, FOREIGN): "what it takes that they are about this error",
    (OWN, OTHER): "what it takes that the wrong answer is one to this problem",
    (OWN, RETRY): "what reflecting is worth beside a fresh try",
}
"""Pairs of conditions, the first less the second."""
PER_TOKENS = 1000


@dataclass(frozen=True)
class Condition:
    """Corrections under one condition: what became of them, and the tokens of each, those that were given included."""

    outcome_NK: np.ndarray
    tokens_NK: np.ndarray


def audit(found: Mapping[str, Condition]) -> dict[str, Any]:
    """`conditions`: of each, `right`, mean `tokens`, and right ones `per_1000_tokens`; `compared`: `compare` of the
    pairs, with `first`, `second`, `p_holm` and `told` (whether that is under 0.05).
    """
    return {
        "errors": len(next(iter(found.values())).outcome_NK),
        "conditions": {name: _condition(each) for name, each in found.items()},
        "compared": _compared(found),
    }


def _condition(found: Condition) -> dict[str, Any]:
    numbers = summarize(found.outcome_NK)
    tokens = float(np.nanmean(found.tokens_NK))
    right = {"value": numbers["avg"], "ci95": numbers["ci95"]}
    return {"right": right, "tokens": tokens, "per_1000_tokens": PER_TOKENS * numbers["avg"] / tokens}


def _compared(found: Mapping[str, Condition]) -> list[dict[str, Any]]:
    rows = []
    for first, second in COMPARED:
        number = compare(found[second].outcome_NK, found[first].outcome_NK)
        if number is not None:
            rows.append({"first": first, "second": second, **number})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "told": p < ALPHA}
    return rows
