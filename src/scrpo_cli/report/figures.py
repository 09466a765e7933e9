"""Figures, PNG or SVG by the suffix: a sweep (accuracy over generated tokens, and the arms at the end) and inference
scaling. The same numbers give the same file. `inline` makes one for a page of HTML, in the page's own colours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrpo_cli.ablation.outcomes import Curve, RunOutcome
from scrpo_cli.ablation.table import ArmResult, Scores, SweepResult
from scrpo_cli.errors import RunError
from scrpo_cli.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Panel = Callable[[Axes], None]
    Number = Callable[[Scores], dict[str, Any] | None]
    """A value with its interval, where the evaluation has it."""

SCALING = {
    "parallel": "2K answers, majority",
    "last": "K answers + K corrections, majority of the corrections",
    "all": "K answers + K corrections, majority of all",
}
GRID_POINTS = 100
SMOOTHING_SHARE = 0.1  # a curve is a running mean over this share of its points: a step is few problems
INK, LINE, PAPER = "#010203", "#040506", "#070809"
"""Stand for the colours of a page, which knows light and dark; nothing else is drawn in them."""
INLINE: Any = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font, and can be searched
    "text.parse_math": False,  # an arm may be called $x$
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), LINE),
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "legend.fontsize": "small",
}


def plot_sweep(result: SweepResult, outcomes: Sequence[RunOutcome], path: Path) -> Path:
    """Write the curves, if anything was measured while training, and the arms."""
    curves = {arm.arm: [o.curve for o in outcomes if o.arm == arm.arm and o.curve] for arm in result.arms}
    panels = [partial(draw_curves, curves=curves)] if any(curves.values()) else []
    return _save([*panels, *arm_panels(result)], len(result.arms), path)


def plot_curves(outcomes: Sequence[RunOutcome], path: Path) -> Path:
    """Write the curves alone, a line and a band for each arm. RunError where nothing was measured while training."""
    arms = dict.fromkeys(outcome.arm for outcome in outcomes)
    curves = {arm: [o.curve for o in outcomes if o.arm == arm and o.curve] for arm in arms}
    if not any(curves.values()):
        raise RunError("No run was measured while it trained", str(path), "Set eval.every_tokens in the recipes.")
    return _save([partial(draw_curves, curves=curves)], len(arms), path)


def plot_arms(result: SweepResult, path: Path) -> Path:
    """Write the arms alone: first-answer accuracy, and second less first answers where there are second ones."""
    return _save(arm_panels(result), len(result.arms), path)


def arm_panels(result: SweepResult) -> list[Panel]:
    """First answers of every arm, and second less first ones where there are any."""
    first = partial(_draw_first_answers, result=result)
    two_turns = any(arm.after.two_turn for arm in result.arms)
    return [first, partial(_draw_deltas, result=result)] if two_turns else [first]


def plot_scaling(scaling: Mapping[str, Any], title: str, path: Path) -> Path:
    """Accuracy over the budget of samples, three ways to spend it."""
    with _figure(path, 6.4, 4.2) as figure:
        axes = figure.subplots()
        for index, (arm, label) in enumerate(SCALING.items()):
            points = [(p["budget"], p[arm]) for p in scaling["points"] if p[arm] is not None]
            budgets = [budget * 1.03 ** (index - 1) for budget, _ in points]  # beside each other
            values = [100 * number["value"] for _, number in points]
            below = [100 * (number["value"] - number["ci95"][0]) for _, number in points]
            above = [100 * (number["ci95"][1] - number["value"]) for _, number in points]
            axes.errorbar(budgets, values, yerr=[below, above], marker="o", capsize=3, color=f"C{index}", label=label)
        ticks = [p["budget"] for p in scaling["points"]]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.set(xlabel="samples of a problem (2K)", ylabel="accuracy (%)", title=f"{title}, 95% intervals by problem")
        axes.legend(fontsize="small")
    return path


def plot_scalings(results: Mapping[str, Mapping[str, Any]], directory: Path) -> dict[str, str]:
    """A figure for each benchmark that has a curve, by the benchmark's name."""
    return {
        name: str(plot_scaling(metrics["scaling"], name, directory / f"scaling-{name.replace('/', '-')}.png"))
        for name, metrics in results.items()
        if metrics.get("scaling")
    }


def inline(draw: Panel, name: str, height: float, width: float) -> str:
    """One panel (sizes in inches) as an `<svg>` element. Its colours are the variables of the page's style sheet: text
    in the colour around it, `--line`, `--paper`, and `--c0` to `--c9`. `name` keeps its ids apart from those of other
    figures of the page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text, settings = StringIO(), {**INLINE, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return in_colours_of_page(text.getvalue())


def in_colours_of_page(svg: str) -> str:
    """The element alone, as wide as there is room, with variables in the place of colours."""
    from matplotlib.colors import TABLEAU_COLORS

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[^"]*pt"', "", svg, count=2)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # a page has several figures, and nothing refers to these
    named = {INK: "currentColor", LINE: "var(--line)", PAPER: "var(--paper)"}
    named |= {str(colour): f"var(--c{i})" for i, colour in enumerate(TABLEAU_COLORS.values())}
    return re.sub(f"(?<=: )({'|'.join(named)})", lambda found: named[found[0]], svg)


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure, written to `path` at the end."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "scrpo"}), write_atomically(path) as temporary:
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        form = path.suffix.removeprefix(".")
        figure.savefig(temporary, dpi=150, format=form, metadata={"Date": None} if form == "svg" else None)


def _save(panels: Sequence[Panel], arms: int, path: Path) -> Path:
    """Beside each other."""
    with _figure(path, 6 * len(panels), max(4.2, 1.2 + 0.4 * arms)) as figure:
        for draw, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            draw(axes)
    return path


def draw_curves(axes: Axes, curves: Mapping[str, Sequence[Curve]]) -> None:
    """The mean and the range of each arm's runs over generated tokens."""
    for index, (arm, seeds) in enumerate(curves.items()):
        if not seeds:
            continue
        tokens_T, value_ST = on_one_grid(seeds)
        axes.plot(tokens_T, 100 * value_ST.mean(axis=0), color=f"C{index % 10}", label=arm)
        low_T, high_T = 100 * value_ST.min(axis=0), 100 * value_ST.max(axis=0)
        axes.fill_between(tokens_T, low_T, high_T, color=f"C{index % 10}", alpha=0.2, linewidth=0)
    label = next(curve.label for seeds in curves.values() for curve in seeds)
    axes.set(xlabel="generated tokens", ylabel=f"{label} (%)", title="mean and range of the seeds")
    axes.legend()


def on_one_grid(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (T,) that all curves cover, and their smoothed values there (S, T)."""
    start, end = max(c.tokens_T[0] for c in curves), min(c.tokens_T[-1] for c in curves)
    tokens_T = np.linspace(start, end, GRID_POINTS)
    return tokens_T, np.array([np.interp(tokens_T, c.tokens_T, smooth(c.value_T)) for c in curves])


def smooth(value_T: np.ndarray) -> np.ndarray:
    """Running mean over a centred window, shorter at the ends."""
    window_T = np.ones(max(1, round(SMOOTHING_SHARE * len(value_T))))
    return np.convolve(value_T, window_T, "same") / np.convolve(np.ones_like(value_T), window_T, "same")


def by_effect(result: SweepResult, number: Number) -> list[tuple[int, ArmResult]]:
    """The arms from the highest number after training on, each with its place in the grid, which is its colour."""

    def effect(placed: tuple[int, ArmResult]) -> float:
        found = number(placed[1].after)
        return found["value"] if found else -math.inf

    return sorted(enumerate(result.arms), key=effect, reverse=True)


def _draw_first_answers(axes: Axes, result: SweepResult) -> None:
    _draw_numbers(axes, result, lambda scores: scores.first, "first-answer accuracy, test (%)")


def _draw_deltas(axes: Axes, result: SweepResult) -> None:
    axes.axvline(0, color="0.7", linewidth=1)
    _draw_numbers(axes, result, lambda s: s.two_turn and s.two_turn["delta"], "second less first answers (points)")


def _draw_numbers(axes: Axes, result: SweepResult, number: Number, measured: str) -> None:
    """Before (hollow) and after (filled) of every arm, the highest after training first."""
    ordered = by_effect(result, number)
    for row, (place, arm) in enumerate(ordered):
        for offset, scores in ((-0.12, arm.before), (0.12, arm.after)):
            if found := number(scores):
                _dot(axes, row + offset, found, place, hollow=offset < 0)
    axes.set_yticks(range(len(ordered)), [arm.arm for _, arm in ordered])
    axes.invert_yaxis()
    axes.set(xlabel=measured, title="before (hollow) and after, 95% intervals")
    axes.margins(y=0.1)


def _dot(axes: Axes, y: float, number: dict[str, Any], place: int, *, hollow: bool = False) -> None:
    value, (low, high) = 100 * number["value"], (100 * bound for bound in number["ci95"])
    color = f"C{place % 10}"
    error, face = [[value - low], [high - value]], axes.get_facecolor() if hollow else color
    axes.errorbar(value, y, xerr=error, fmt="o", color=color, markerfacecolor=face, capsize=3)
