"""Rich renderables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


TWO_TURNS = {
    "t1": "t1",
    "t2": "t2",
    "delta": "delta(t1, t2)",
    "i2c": "i->c",
    "c2i": "c->i",
    "fix_rate": "fix rate",
    "changed": "final answer changed",
}


def benchmark_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """One column a benchmark; the rows of second turns and repairs appear where there are any."""
    rows: dict[str, list[str]] = {}
    for column, r in enumerate(results.values()):
        for label, cell in benchmark_cells(r).items():
            rows.setdefault(label, ["-"] * len(results))[column] = cell
    table = Table("", *results, box=None, header_style="bold")
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table


def benchmark_cells(r: Mapping[str, Any]) -> dict[str, str]:
    cells = {"problems x samples": f"{r['n']} x {r['samples']}", "avg@k": percent(r["avg"], r["ci95"])}
    intervals = r.get("pass_at_ci95") or {}
    cells |= {f"pass@{k}": percent(v, intervals.get(k)) for k, v in r["pass_at"].items() if int(k) > 1}
    cells |= {f"maj@{k}": percent(v) for k, v in (r.get("maj_at") or {}).items() if int(k) > 1}
    if r.get("truncated") is not None:
        cells["truncated"] = percent(r["truncated"])
    estimates = {label: r[key] for key, label in TWO_TURNS.items() if key in r}
    if "edits" in r:
        estimates["second answer is a copy"] = r["edits"]["zero"]
    if "repair_rate" in r:
        estimates["repair rate"] = r["repair_rate"]
    cells |= {label: percent(e["value"], e["ci95"]) for label, e in estimates.items()}
    return cells | (gate_cells(r["gate"]) if "gate" in r else {})


def turn_table(name: str, turns: Mapping[str, Any]) -> Table:
    """Accuracy by turn, and what each turn changed of the one before."""
    table = Table("turn", "accuracy", "delta", "i->c", "c->i", title=name, title_justify="left", box=None)
    for i, accuracy in enumerate(turns["accuracy"]):
        changed = [turns[key][i - 1] for key in ("delta", "i2c", "c2i")] if i else []
        cells = [percent(number["value"], number["ci95"]) for number in (accuracy, *changed)]
        table.add_row(str(i + 1), *cells)
    table.add_row("last - first", "", points(turns["last_first"]))
    return table


def scaling_table(name: str, scaling: Mapping[str, Any]) -> Table:
    """Three ways to spend 2K samples of a problem."""
    title = f"{name}: 2K answers by majority against K answers with a correction each"
    columns = ("2K", "2K answers", "K corrections", "K answers and corrections", "K corrections - 2K answers")
    table = Table(*columns, title=title, title_justify="left", box=None)
    for point in scaling["points"]:
        cells = [percent(point[arm]["value"], point[arm]["ci95"]) if point[arm] else "-" for arm in ARMS]
        change = point["last_parallel"]
        table.add_row(str(point["budget"]), *cells, points(change) if change else "-")
    return table


ARMS = ("parallel", "last", "all")


def benchmark_list(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What there is to run: benchmarks with their sampling, and suites."""
    table = Table("benchmark", "task", "problems", "k", "T", "top-p", "max tokens", box=None, header_style="bold")
    suites = []
    for row in rows:
        if row["kind"] == "suite":
            suites.append(f"{row['name']} ({', '.join(row['benchmarks'])}): {row['description']}")
            continue
        sampling = [f"{row['sampling'][key]:,}" for key in ("samples", "temperature", "top_p", "max_tokens")]
        table.add_row(row["name"], row["task"], row["problems"], *sampling)
    return [table, "", "Suites:", *suites]


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """How a number was made, in one line; `--json` and the database have all of it."""
    parts = [f"{protocol['problems']} problems {protocol['problems_sha256'][:12]}", f"grader {protocol['grader']}"]
    if "temperature" in protocol:
        turns = protocol["turns"]
        parts = [
            f"k={protocol['samples']}, T={protocol['temperature']:g}, top-p={protocol['top_p']:g}",
            f"at most {protocol['max_tokens']:,} tokens",
            f"{turns} turns ({protocol['second_turn']})" if turns > 1 else "1 turn",
            f"prompt {protocol['prompt_sha256'][:12]}",
            f"{protocol['source']} ({protocol['split']}) at {protocol['revision'] or 'no revision'}",
            *parts,
            f"model {protocol['model']} {(protocol['model_revision'] or protocol['model_sha256'] or '')[:12]}".rstrip(),
            *([f"adapter {protocol['adapter_sha256'][:12]}"] if protocol["adapter_sha256"] else []),
        ]
    elif protocol.get("model"):
        parts.append(f"model {protocol['model']}")
    return "; ".join([*parts, f"scrpo {protocol['scrpo_version']}"])


def gate_cells(gate: Mapping[str, Any]) -> dict[str, str]:
    """What a gate decides by, how often it reflects, and what that is worth against never and always."""
    cells = {"gate": gate_rule(gate), "coverage": percent(gate["coverage"]["value"], gate["coverage"]["ci95"])}
    cells["accuracy gated"] = percent(gate["accuracy"]["value"], gate["accuracy"]["ci95"])
    for other in ("never", "always"):
        cells[f"gated - {other}"] = points(gate[f"against_{other}"])
    knows = "-" if gate["auroc"] is None else f"{gate['auroc']:.2f}"
    return cells | {"AUROC of the signal": knows, "tokens an answer": f"{gate['tokens']['gated']:.0f}"}


def gate_rule(gate: Mapping[str, Any]) -> str:
    """`logprob < -0.213`, or `logprob: never`."""
    threshold = gate["threshold"]
    return f"{gate['signal']}: {threshold}" if isinstance(threshold, str) else f"{gate['signal']} < {threshold:.3g}"


def points(change: Mapping[str, Any]) -> str:
    """`+3.1 points [+0.4, +5.8]`."""
    low, high = (100 * x for x in change["ci95"])
    return f"{100 * change['difference']:+.1f} points [{low:+.1f}, {high:+.1f}]"
