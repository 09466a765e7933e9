"""Rich renderables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from scrpo_cli.numbers import estimate, in_points, p_equals, percent


def before_after(evaluations: Mapping[str, Any]) -> Table:
    """First-answer accuracy and repair rate before and after training, with 95% intervals, and the paired change."""
    table = Table(title="95% intervals, clustered by problem", title_justify="left", box=None, header_style="bold")
    for column in ("", "first-answer accuracy", "repair rate of wrong answers", "truncated", "problems x samples"):
        table.add_column(column)
    for label in ("before", "after"):
        if found := evaluations.get(label):
            table.add_row(
                label,
                percent(found["avg"], found["ci95"]),
                estimate(found.get("repair_rate")),
                percent(found.get("truncated")),
                f"{found['n']} x {found['samples']}",
            )
    if paired := evaluations.get("change"):
        table.add_row("change", in_points(paired), "", "", f"{p_equals(paired['p'])}: {paired['verdict']}")
    return table


def places(rows: Mapping[str, str]) -> str:
    """Where things lie: label and path, a line each, never folded so that paths can be copied."""
    width = max(len(label) for label in rows)
    return "\n".join(f"{label:<{width}}  {path}" for label, path in rows.items())
