"""The figure of inference scaling: accuracy over the budget of samples, three ways to spend it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LABELS = {
    "parallel": "2K answers, majority",
    "last": "K answers + K corrections, majority of the corrections",
    "all": "K answers + K corrections, majority of all",
}


def plot_scaling(scaling: Mapping[str, Any], title: str, path: Path) -> Path:
    """PNG or SVG by the suffix; the same numbers give the same file."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "scrpo"}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for index, (arm, label) in enumerate(LABELS.items()):
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
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
