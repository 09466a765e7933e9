"""What a second answer changes of the first: the two views of behaviour collapse (SCoRe, arXiv 2409.12917, section 4).

A histogram of edit-distance ratios with a spike at 0 (Fig. 3), and the share of changed final answers (Fig. 5b).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from scrpo_cli.evaluation.metrics import share
from scrpo_cli.evaluation.outcomes import padded
from scrpo_cli.recipe.models import ReflectionConfig
from scrpo_cli.rollout.segments import graded_text
from scrpo_cli.types import Attempt, AttemptKind

BINS = 10


def changes(
    first: Sequence[Sequence[Attempt]], last: Sequence[Attempt], cfg: ReflectionConfig
) -> dict[str, dict[str, Any]]:
    """`changed`: share of answers whose final answer is another text; `edits`: shares of the ratios in ten bins and of
    those that are exactly 0. `first` is (N, K), `last` their second answers in order; pairs that could not be graded do
    not count, here as in `two_turn`.
    """
    rest = iter(last)
    pairs = [[(a, next(rest)) for a in same] for same in first]
    changed_NK = padded([[counted(a, b, a.grade.extracted != b.grade.extracted) for a, b in row] for row in pairs])
    ratios_NK = padded([[counted(a, b, edit_ratio(answer(a, cfg), answer(b, cfg))) for a, b in row] for row in pairs])
    ratios = ratios_NK[~np.isnan(ratios_NK)]
    counts, _ = np.histogram(ratios, bins=BINS, range=(0.0, 1.0))
    zero_NK = np.where(np.isnan(ratios_NK), np.nan, ratios_NK == 0)
    return {
        "changed": share(changed_NK),
        "edits": {"histogram": (counts / len(ratios)).tolist(), "zero": share(zero_NK)},
    }


def edit_ratio(a: str, b: str) -> float:
    """Levenshtein's distance over len(a) + len(b): 0 for a copy, at most 1; two empty texts are a copy.

    The paper does not say whether it counts characters or tokens: here they are characters [I].
    """
    return Levenshtein.distance(a, b) / max(1, len(a) + len(b))


def counted(before: Attempt, after: Attempt, value: float) -> float:
    return value if np.isfinite(before.outcome + after.outcome) else np.nan


def answer(attempt: Attempt, cfg: ReflectionConfig) -> str:
    """The text that stands against the first answer: of a correction its solution, where there is one."""
    text = attempt.completion.text
    part = graded_text(text, cfg) if attempt.kind is AttemptKind.CORRECTION else text
    return (text if part is None else part).strip()
