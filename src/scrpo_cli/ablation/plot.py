"""One figure of a sweep: accuracy over generated tokens (mean and range of the seeds), and test accuracy at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scrpo_cli.ablation.outcomes import Curve, RunOutcome
from scrpo_cli.ablation.table import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID_POINTS = 100
SMOOTHING_SHARE = 0.1  # a curve is a running mean over this share of its points: a step is few problems


def plot_sweep(result: SweepResult, outcomes: Sequence[RunOutcome], path: Path) -> Path:
    """Write the PNG. Without curves (nothing was measured while training) only the final accuracies are drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {arm.arm: [o.curve for o in outcomes if o.arm == arm.arm and o.curve] for arm in result.arms}
    panels = 2 if any(curves.values()) else 1
    figure = Figure(figsize=(6 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if panels == 2:
        _draw_curves(axes[0], curves)
    _draw_final(axes[-1], result)
    figure.savefig(path, dpi=150)
    return path


def _draw_curves(axes: Axes, curves: dict[str, list[Curve]]) -> None:
    for index, (arm, seeds) in enumerate(curves.items()):
        if not seeds:
            continue
        tokens_T, value_ST = on_one_grid(seeds)
        axes.plot(tokens_T, 100 * value_ST.mean(axis=0), color=f"C{index}", label=arm)
        low_T, high_T = 100 * value_ST.min(axis=0), 100 * value_ST.max(axis=0)
        axes.fill_between(tokens_T, low_T, high_T, color=f"C{index}", alpha=0.2, linewidth=0)
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


def _draw_final(axes: Axes, result: SweepResult) -> None:
    """Test accuracy before (hollow) and after (filled) of every arm, with its interval."""
    for index, arm in enumerate(result.arms):
        for number, offset, face in ((arm.before, -0.12, "white"), (arm.after, 0.12, f"C{index}")):
            value, (low, high) = 100 * number["value"], (100 * bound for bound in number["ci95"])
            error = [[value - low], [high - value]]
            axes.errorbar(index + offset, value, yerr=error, fmt="o", color=f"C{index}", mfc=face, capsize=3)
    axes.set_xticks(range(len(result.arms)), [arm.arm for arm in result.arms], rotation=15)
    axes.set(ylabel="first-answer accuracy, test (%)", title="before (hollow) and after, 95% intervals")
    axes.margins(x=0.2)
