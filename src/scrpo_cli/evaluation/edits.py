"""How much a second answer changes the first (SCoRe, arXiv 2409.12917, section 4, Fig. 3)."""

from __future__ import annotations

from rapidfuzz.distance import Levenshtein


def edit_ratio(a: str, b: str) -> float:
    """Levenshtein's distance over len(a) + len(b): 0 for a copy, at most 1; two empty texts are a copy.

    The paper does not say whether it counts characters or tokens: here they are characters [I].
    """
    return Levenshtein.distance(a, b) / max(1, len(a) + len(b))
