"""The map as tables in markdown and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from map_points import Point
from map_rule import HeldOut, fit, leave_one_out, said, score

from scrpo_cli.evaluation.advice import LIKELY, Rule, conditions
from scrpo_cli.numbers import NOTHING, estimate, percent, percents, points

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke

TRUTHS = {None: "open", LIKELY: "ahead"}
"""Of a point's truth; the third is `behind`."""


def tables(found: Sequence[Point]) -> dict[str, str]:
    """`map`: a row a cell and arm; `rule`: how often the rule is right."""
    held_out = {id(h.point): h for arm in by_arm(found).values() for h in leave_one_out(arm)}
    return {"map": map_table(found, held_out), "rule": rule_table(by_arm(found))}


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
