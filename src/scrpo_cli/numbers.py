"""How numbers are written for readers, how large they may be, and Wilson's interval, which every room needs. Standard
library only.

Shares are between 0 and 1 here and shown in percent; differences are shown in points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

LARGEST = 2**31 - 1
"""Of seeds, counts and sizes: what an integer column of every database holds."""
MOST_PROCESSES = 1024
LONGEST_DEADLINE = 86400.0
"""Seconds: a day."""
MOST_SAMPLES = 100_000
"""Answers to one problem, which are held in memory together."""
Z = NormalDist().inv_cdf(0.975)
NOTHING = "-"


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95% score interval (1927) of a share of n."""
    center, widen = (share + Z**2 / (2 * n)) / (1 + Z**2 / n), Z / (1 + Z**2 / n)
    margin = widen * math.sqrt(max(0.0, share * (1 - share)) / n + Z**2 / (4 * n**2))
    return max(0.0, center - margin), min(1.0, center + margin)


def percent(value: float | None, ci95: Sequence[float] | None = None) -> str:
    """`43.2%`, or `43.2% [38.1, 48.4]`; a dash for what is not defined."""
    if value is None:
        return NOTHING
    return f"{100 * value:.1f}%" + (f" {percents(ci95)}" if ci95 else "")


def percents(ci95: Sequence[float]) -> str:
    """`[38.1, 48.4]`"""
    return "[{:.1f}, {:.1f}]".format(*(100 * end for end in ci95))


def estimate(number: Mapping[str, Any] | None) -> str:
    """A {"value", "ci95"} in percent."""
    return percent(number["value"], number["ci95"]) if number else NOTHING


def estimates(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float | None, Any]]:
    """(name, value, interval) of an evaluation: `avg` with `ci95`, and whatever is of the form {"value", "ci95"}."""
    if "avg" in metrics:
        yield "avg", metrics["avg"], metrics.get("ci95")
    for name, value in metrics.items():
        if isinstance(value, Mapping) and "value" in value:
            yield name, value["value"], value.get("ci95")


def left_out(found: Mapping[str, Mapping[str, Any]] | None) -> str:
    """`3 of 100 answers`, `3 of 100 first, 1 of 100 second answers`: what the averages leave out; empty for nothing."""
    parts = found or {}
    if [*parts] == ["first"]:
        return f"{parts['first']['n']:,} of {parts['first']['of']:,} answers"
    counts = ", ".join(f"{part['n']:,} of {part['of']:,} {name}" for name, part in parts.items())
    return f"{counts} answers" if counts else ""


def points(value: float | None, ci95: Sequence[float] | None = None) -> str:
    """`+3.1`, or `+3.1 [+0.4, +5.8]`."""
    if value is None:
        return NOTHING
    return f"{100 * value:+.1f}" + (f" {point_interval(ci95)}" if ci95 else "")


def point_interval(ci95: Sequence[float]) -> str:
    """`[+0.4, +5.8]`"""
    return "[{:+.1f}, {:+.1f}]".format(*(100 * end for end in ci95))


def change(number: Mapping[str, Any] | None) -> str:
    """The difference of a paired comparison, in points."""
    return points(number["difference"], number["ci95"]) if number else NOTHING


def in_points(number: Mapping[str, Any] | None) -> str:
    """The same with its unit: `+3.1 points [+0.4, +5.8]`."""
    return f"{points(number['difference'])} points {point_interval(number['ci95'])}" if number else NOTHING


def p_value(p: float) -> str:
    """`0.043`, `< 0.001`"""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def p_equals(p: float) -> str:
    """`p = 0.043`, `p < 0.001`"""
    return f"p {'' if p < 0.001 else '= '}{p_value(p)}"
