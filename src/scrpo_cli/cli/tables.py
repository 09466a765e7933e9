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
        points = 100 * change["difference"]
        low, high = (100 * x for x in change["ci95"])
        table.add_row("change", f"{points:+.1f} points [{low:+.1f}, {high:+.1f}]", "", "", f"p = {change['p']:.2g}")
    return table


def places(rows: Mapping[str, str]) -> Table:
    """Where things lie: label and path."""
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, path in rows.items():
        table.add_row(label, path)
    return table


def benchmark_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line a benchmark; second-turn and repair columns appear where there is one."""
    two_turns = any("delta" in r for r in results.values())
    repairs = any(r.get("repair_rate") for r in results.values())
    columns = ["benchmark", "avg@k", "pass@k", "truncated", "n x k"]
    columns += ["t1", "t2", "delta", "i->c", "c->i", "fix rate"] if two_turns else []
    columns += ["repair rate"] if repairs else []
    table = Table(*columns, box=None, header_style="bold")
    for name, r in results.items():
        best = max(r["pass_at"], key=int)
        row = [name, percent(r["avg"], r["ci95"]), f"@{best} {percent(r['pass_at'][best])}"]
        row += [percent(r.get("truncated")), f"{r['n']} x {r['samples']}"]
        if two_turns:
            keys = ("t1", "t2", "delta", "i2c", "c2i", "fix_rate")
            row += [percent(r[k]["value"], r[k]["ci95"]) if k in r else "-" for k in keys]
        if repairs:
            repair = r.get("repair_rate") or {"value": None, "ci95": None}
            row.append(percent(repair["value"], repair["ci95"]))
        table.add_row(*row)
    return table
