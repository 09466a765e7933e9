"""The map as tables in markdown and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from map_points import Point
from map_rule import HeldOut, fit, leave_one_out, said, score

from scrpo_cli.evaluation.advice import LIKELY, UNDECIDED, UNLIKELY, Rule, conditions
from scrpo_cli.evaluation.paired import flip_signs, holm
from scrpo_cli.evaluation.stats import difference_estimate
from scrpo_cli.numbers import NOTHING, estimate, p_value, percent, percents, points

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke

TRUTHS = {None: "open", LIKELY: "ahead"}
"""Of a point's truth; the third is `behind`."""


VERDICTS = (LIKELY, UNLIKELY, UNDECIDED)
BASES, REPAIRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), (0.1, 0.3, 0.5)
"""Where regions of the map end: of right first answers, and of repaired errors."""
SIGNAL = 0.05
"""And of groups that are not all right or all wrong, so that practice has a gradient."""


def tables(found: Sequence[Point]) -> dict[str, str]:
    """`map`: a row a cell and arm; `regions`: cells together; `rule`: how often the rule is right."""
    held_out = {id(h.point): h for arm in by_arm(found).values() for h in leave_one_out(arm)}
    arms = by_arm(found)
    return {"map": map_table(found, held_out), "regions": region_table(arms), "rule": rule_table(arms)}


def by_arm(found: Sequence[Point]) -> dict[str, list[Point]]:
    return {arm: [p for p in found if p.arm == arm] for arm in dict.fromkeys(p.arm for p in found)}


def map_table(found: Sequence[Point], held_out: Mapping[int, HeldOut]) -> str:
    columns = ("cell", "first answers right", "groups with signal", "repair rate", "a fresh try", "self-checking")
    columns += ("arm", "its accuracy", "that of the first arm", "difference in points", "seeds")
    columns += ("the arm is", "rule", "rule of the other cells")
    return markdown(columns, [row(point, held_out[id(point)]) for point in found])


def row(point: Point, held_out: HeldOut) -> list[str]:
    first, reflection = point.measured["first"], point.measured["reflection"]
    return [
        point.cell,
        estimate(first["right"]),
        estimate(first["signal"]),
        estimate(reflection and reflection["right"]),
        estimate(point.measured["fresh"]),
        estimate(first["self_checking"]),
        point.arm,
        percent(point.ours["value"]),
        f"{percent(point.theirs['value'])} ({point.against})",
        points(point.difference["difference"], point.ci95),
        str(len(point.difference["seeds"])),
        TRUTHS.get(point.truth, "behind"),
        said(point, Rule()),
        held_out.said,
    ]


def region_table(arms: Mapping[str, Sequence[Point]]) -> str:
    """What cells say together, pairs of runs being the sample: one of four seeds alone can hardly tell anything."""
    columns = ("arm", "region", "cells", "pairs of runs", "difference in points", "p", "p, corrected")
    rows: list[list[str]] = []
    for arm, own in arms.items():
        known = [(name, cells, pairs_of(cells)) for name, cells in regions(own)]
        asked = [(name, cells, pairs) for name, cells, pairs in known if len(pairs) > 1]
        p_values = [flip_signs(np.array(pairs)).p for _, _, pairs in asked]
        for (name, cells, pairs), p, corrected in zip(asked, p_values, holm(p_values), strict=True):
            mean = difference_estimate(np.array(pairs))
            counts = [str(len(cells)), str(len(pairs))]
            rows.append([arm, name, *counts, points(mean.value, mean.ci95), p_value(p), p_value(corrected)])
    return markdown(columns, rows)


def pairs_of(cells: Sequence[Point]) -> list[float]:
    """The differences of all seeds of all cells."""
    return [difference for cell in cells for difference in cell.difference["by_seed"]]


def regions(cells: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """All cells; those with little signal for practice, and with more; those whose first answers check themselves and
    those whose do not, each by base rate, the former also by repair rate; and by what the rule says. None is empty.
    """
    sides = {"first answers check themselves": True, "first answers do not": False}
    found = {"all cells": [*cells]}
    found["under 5% of groups have signal"] = [cell for cell in cells if signal(cell) < SIGNAL]
    found["5% of groups and more have signal"] = [cell for cell in cells if signal(cell) >= SIGNAL]
    for side, held in sides.items():
        own = found[side] = [cell for cell in cells if holds(cell) is held]
        found |= {f"{side}, {name} right": between(own, "first", low, high) for name, low, high in bands(BASES)}
        if held:
            found |= {f"{side}, repairs {name}": between(own, "reflection", *ends) for name, *ends in bands(REPAIRS)}
    found |= {f"the rule says {word}": [c for c in cells if said(c, Rule()) == word] for word in VERDICTS}
    return [(name, own) for name, own in found.items() if own]


def bands(ends: Sequence[float]) -> list[tuple[str, float, float]]:
    """(name, from, to), the last one open."""
    said = [f"{100 * end:g}%" for end in ends]
    middle = [(f"{a} to {b}", low, high) for a, b, (low, high) in zip(said, said[1:], pairwise(ends))]
    return [(f"under {said[0]}", 0.0, ends[0]), *middle, (f"{said[-1]} and more", ends[-1], 2.0)]


def between(cells: Sequence[Point], kind: str, low: float, high: float) -> list[Point]:
    return [cell for cell in cells if (rate := rate_of(cell, kind)) is not None and low <= rate < high]


def rate_of(cell: Point, kind: str) -> float | None:
    """Of first answers, or reflections, that are right."""
    found = cell.measured[kind]
    return found["right"]["value"] if found and found["right"] else None


def signal(cell: Point) -> float:
    return float(cell.measured["first"]["signal"]["value"])


def holds(cell: Point) -> bool:
    """Whether first answers check themselves now and then, as the rule asks."""
    return bool(cell.measured["first"]["self_checking"]["value"] >= Rule().held)


def rule_table(arms: Mapping[str, Sequence[Point]]) -> str:
    """A row for the rule as it is, and one for the fitted rule on held-out cells."""
    columns = ("arm", "rule", "cells that can tell", "right", "wrong", "undecided", "share right", "a constant guess")
    rows = []
    for arm, own in arms.items():
        truths, fitted = [p.truth for p in own], fit(own)
        as_it_is = score([*zip((said(p, Rule()) for p in own), truths)])
        left_out = score([*zip((h.said for h in leave_one_out(own)), truths)])
        rows.append([arm, f"as it is: {thresholds(Rule())}", *numbers(as_it_is)])
        rows.append([arm, f"fitted on the other cells (on all: {thresholds(fitted)})", *numbers(left_out)])
    return markdown(columns, rows)


def thresholds(rule: Rule) -> str:
    return f"gain {rule.gain:.2g}, held {rule.held:.2g}, ratio {rule.ratio:.2g}"


def numbers(found: Mapping[str, Any]) -> list[str]:
    counts = [str(found[key]) for key in ("cells", "right", "wrong", "undecided")]
    share = NOTHING if found["share"] is None else f"{percent(found['share'])} {percents(found['ci95'])}"
    return [*counts, share, f"{found['guess']} right"]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(found: Sequence[Point], path: Path) -> None:
    """Base rate (log) x repair rate, a panel for each arm: the colour is the difference, a hollow point's interval
    holds 0, and squares are cells whose first answers do not check themselves. A base rate of 0 is drawn at half of one
    right answer.
    """
    arms = by_arm(found)
    most = max(abs(p.difference["difference"]) for p in found) or 1.0
    norm = matplotlib.colors.Normalize(-100 * most, 100 * most)
    with matplotlib.rc_context({"svg.hashsalt": "scrpo"}):
        figure, panels = plt.subplots(1, len(arms), figsize=(6 * len(arms), 4.6), squeeze=False, layout="constrained")
        for axes, (arm, own) in zip(panels[0], arms.items()):
            for point in own:
                _dot(axes, point, matplotlib.colormaps["RdBu"](norm(100 * point.difference["difference"])))
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set(
                xlabel="right first answers (%)", ylabel="repair rate (%)", title=f"{arm} against {own[0].against}"
            )
        shades = matplotlib.cm.ScalarMappable(norm, "RdBu")
        figure.colorbar(shades, ax=panels[0].tolist(), label="difference after training (points)")
        form = path.suffix.removeprefix(".")
        figure.savefig(path, dpi=150, format=form, metadata={"Date": None} if form == "svg" else None)
        plt.close(figure)


def _dot(axes: Any, point: Point, color: Any) -> None:
    first, reflection = point.measured["first"], point.measured["reflection"]
    if reflection is None or reflection["right"] is None or first["right"] is None:
        return
    base = first["right"]["value"] or 0.5 / first["answers"]
    transfers = next(c for c in conditions(point.measured) if c.name == "transfers")
    axes.scatter(
        100 * base,
        100 * reflection["right"]["value"],
        marker="s" if transfers.met is False else "o",
        s=90,
        facecolor=color if point.truth else "none",
        edgecolor=color if point.truth is None else "0.3",
        linewidth=1.0 if point.truth else 2.0,
        path_effects=[withStroke(linewidth=3.0, foreground="0.4")],  # a ring of a small difference is nearly white
    )
