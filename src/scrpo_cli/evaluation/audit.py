"""How much of a repair the reflection causes. Pure functions of graded corrections; `scrpo audit` samples them.

A correction that comes out right may owe that to its reflection, to the second try that it is, or to knowing that the
first answer was wrong. The same errors are therefore corrected under several conditions, which differ in one thing
each, and compared problem by problem.

A condition that costs fewer tokens could be tried more often, so they are also compared at equal tokens: by the right
answers that 1,000 tokens buy.

Shapes: N problems with an error, one error each, K corrections of it. Numbers are {"value", "ci95"}, 95% intervals
clustered by problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.evaluation.metrics import summarize
from scrpo_cli.evaluation.paired import compare, compare_ratios, holm
from scrpo_cli.evaluation.stats import ALPHA, rate_estimate

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
    pairs, with `first`, `second`, `p_holm` and `told` (whether that is under 0.05), and under `per_1000_tokens` the
    same of what 1,000 tokens buy.
    """
    shares = _pairs(lambda first, second: compare(found[second].outcome_NK, found[first].outcome_NK))
    rates = _pairs(lambda first, second: _at_equal_tokens(found[second], found[first]))
    return {
        "errors": len(next(iter(found.values())).outcome_NK),
        "conditions": {name: _condition(each) for name, each in found.items()},
        "compared": [
            {"first": pair[0], "second": pair[1], **share, "per_1000_tokens": rates.get(pair)}
            for pair, share in shares.items()
        ],
    }


def _condition(found: Condition) -> dict[str, Any]:
    numbers = summarize(found.outcome_NK)
    tokens_N = np.nansum(found.tokens_NK, axis=1)
    rate = rate_estimate(np.nansum(found.outcome_NK, axis=1), tokens_N, 1 / np.nanmin(found.tokens_NK))
    return {
        "right": {"value": numbers["avg"], "ci95": numbers["ci95"]},
        "tokens": float(np.nanmean(found.tokens_NK)),
        "per_1000_tokens": {"value": PER_TOKENS * rate.value, "ci95": [PER_TOKENS * end for end in rate.ci95]},
    }


def _at_equal_tokens(a: Condition, b: Condition) -> dict[str, Any] | None:
    """b - a of the right answers that 1,000 tokens buy."""
    sums = [np.nansum(each, axis=1) for found in (a, b) for each in (found.outcome_NK, found.tokens_NK)]
    number = compare_ratios(*sums)
    if number is None:
        return None
    scaled = {name: PER_TOKENS * number[name] for name in ("a", "b", "difference")}
    return number | scaled | {"ci95": [PER_TOKENS * end for end in number["ci95"]]}


def _pairs(test: Callable[[str, str], dict[str, Any] | None]) -> dict[tuple[str, str], dict[str, Any]]:
    """Of each pair that can be tested, corrected for their number."""
    rows = {pair: row for pair in COMPARED if (row := test(*pair)) is not None}
    for row, p in zip(rows.values(), holm([row["p"] for row in rows.values()]), strict=True):
        row |= {"p_holm": p, "told": p < ALPHA}
    return rows
