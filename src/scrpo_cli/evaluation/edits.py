"""How much a second answer changes the first (SCoRe, arXiv 2409.12917, section 4, Fig. 3)."""

from __future__ import annotations

from collections import defaultdict


def edit_ratio(a: str, b: str) -> float:
    """Edit distance over len(a) + len(b): 0 for a copy, at most 1; two empty texts are a copy.

    The paper does not say whether it counts characters or tokens: here they are characters [I].
    """
    return edit_distance(a, b) / max(1, len(a) + len(b))


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions at 1 each.

    Bit-parallel (Myers 1999, in the form of Hyyrö 2001): bit i of `up` and `down` says that the distance to b's prefix
    rises or falls by 1 from a[:i] to a[:i + 1]. One column of the table is a few operations on integers of len(a) bits.
    """
    if not a:
        return len(b)
    places: dict[str, int] = defaultdict(int)
    for i, letter in enumerate(a):
        places[letter] |= 1 << i
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = every, 0, len(a)
    for letter in b:
        same = places.get(letter, 0)
        level = (((same & up) + up) ^ up) | same | down
        right_up, right_down = down | (every & ~(level | up)), up & level
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = every & (right_up << 1 | 1), every & (right_down << 1)
        up, down = right_down | (every & ~(level | right_up)), right_up & level
    return distance
