"""Rich renderables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def percent(value: float | None, interval: Any = None) -> str:
    """`43.2% [38.1, 48.4]`."""
    if value is None:
        return "-"
    text = f"{100 * value:.1f}%"
    return text if not interval else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def before_after(evaluations: Mapping[str, Any]) -> Table:
    """First-answer accuracy and repair rate before and after training, with 95% intervals, and the paired change."""
    table = Table(title="95% intervals, clustered by problem", title_justify="left", box=None, header_style="bold")
    for column in ("", "first-answer accuracy", "repair rate of wrong answers", "truncated", "problems x samples"):
        table.add_column(column)
    for label in ("before", "after"):
        if found := evaluations.get(label):
            repair = found.get("repair_rate") or {"value": None, "ci95": None}
            table.add_row(
                label,
                percent(found["avg"], found["ci95"]),
                percent(repair["value"], repair["ci95"]),
                percent(found.get("truncated")),
                f"{found['n']} x {found['samples']}",
            )
    if change := evaluations.get("change"):
        table.add_row("change", points(change), "", "", f"p = {change['p']:.2g}")
    return table


def places(rows: Mapping[str, str]) -> str:
    """Where things lie: label and path, a line each, never folded so that paths can be copied."""
    width = max(len(label) for label in rows)
    return "\n".join(f"{label:<{width}}  {path}" for label, path in rows.items())


def points(change: Mapping[str, Any]) -> str:
    """`+3.1 points [+0.4, +5.8]`."""
    low, high = (100 * x for x in change["ci95"])
    return f"{100 * change['difference']:+.1f} points [{low:+.1f}, {high:+.1f}]"
