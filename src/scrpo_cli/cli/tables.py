"""Rich renderables that several commands print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from rich.console import Group

from scrpo_cli.layout import Column, Pairs, Prose, Table
from scrpo_cli.numbers import estimate, in_points, left_out, p_equals, p_value, percent, point_interval, points

REASONS = 5  # that are spelled out; `--json` has all


def before_after(evaluations: Mapping[str, Any]) -> Group:
    """First-answer accuracy and repair rate before and after training, with 95% intervals, and the paired change."""
    columns = ("", "first-answer accuracy", "repair rate of wrong answers", "truncated", "problems x samples")
    table = Table(*columns, title="95% intervals, clustered by problem")
    for label in ("before", "after"):
        if found := evaluations.get(label):
            table.add_row(
                label,
                percent(found["avg"], found["ci95"]),
                estimate(found.get("repair_rate")),
                percent(found.get("truncated")),
                f"{found['n']} x {found['samples']}",
            )
    lines = left_out_lines({label: evaluations.get(label) for label in ("before", "after")})
    if paired := evaluations.get("change"):
        lines.insert(0, f"change: {in_points(paired)}, {p_equals(paired['p'])}: {paired['verdict']}")
    return Group(table, *map(Prose, lines))


def left_out_lines(results: Mapping[str, Any]) -> list[str]:
    """`after: 3 of 100 answers left out of the averages: 2 x ...; 1 x ...` for each evaluation that has some."""
    lines = []
    for name, found in results.items():
        if parts := (found or {}).get("left_out"):
            why = sum((Counter(part["why"]) for part in parts.values()), Counter()).most_common()
            rest = [f"{sum(n for _, n in why[REASONS:]):,} x other reasons"] if len(why) > REASONS else []
            reasons = [*(f"{n:,} x {shorten(reason, 100, placeholder='...')}" for reason, n in why[:REASONS]), *rest]
            lines.append(f"{name}: {left_out(parts)} left out of the averages: {'; '.join(reasons)}")
    return lines


def errors_kept(summary: Mapping[str, Any]) -> list[Any]:
    """How many errors a run put into its pool and, a line each, why it did not take the others."""
    from scrpo_cli.methods.parts.pool import said

    if not summary["decisions"]:
        return []
    why = (f"  {decision.replace('_', ' ')}: {reason}" for decision, reason in summary["reasons"].items())
    return [Prose(line) for line in (said(summary["decisions"]), *why)]


# --- evaluations ----------------------------------------------------------------------------------------------------


def evaluation_parts(summary: Mapping[str, Any]) -> list[Any]:
    """Everything that is said of an evaluation at its end."""
    results = summary["benchmarks"]
    parts: list[Any] = [benchmark_table(results), *map(Prose, left_out_lines(results))]
    parts += [turn_table(name, r["turns"]) for name, r in results.items() if r.get("turns")]
    parts += [scaling_table(name, r["scaling"]) for name, r in results.items() if r.get("scaling")]
    for name, suite in summary.get("suites", {}).items():
        mean = f"{percent(suite['avg'], suite['ci95'])}, the mean of {', '.join(suite['benchmarks'])}"
        parts.append(Prose(f"{name}: {mean}"))
    if fit := summary.get("gate_fit"):
        gain = in_points(fit["against_never"])
        where = f"fitted on {fit['n']} validation problems ({gain} there against never)"
        parts.append(Prose(f"gate {gate_rule(fit)}, {where}"))
    if against := summary.get("against"):
        parts += [Prose(f"a: run {next(iter(against.values()))['run']}, b: this run"), *comparison(against)[:-1]]
    parts += [Prose(f"{name}: {protocol_line(r['protocol'])}") for name, r in results.items() if r.get("protocol")]
    parts += [Pairs({"plot": path}) for path in summary.get("plots", {}).values()]
    parts.append(Prose(f"95% intervals, clustered by problem; every sample is in run {summary['run']}"))
    return parts


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
    table = Table(Column("", "words"), *results)
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table


def benchmark_cells(r: Mapping[str, Any]) -> dict[str, str]:
    cells = {"problems x samples": f"{r['n']} x {r['samples']}", "avg@k": percent(r["avg"], r["ci95"])}
    if found := left_out(r.get("left_out")):
        cells["left out"] = found
    intervals = r.get("pass_at_ci95") or {}
    cells |= {f"pass@{k}": percent(v, intervals.get(k)) for k, v in r["pass_at"].items() if int(k) > 1}
    votes = r.get("maj_at_ci95") or {}
    cells |= {f"maj@{k}": percent(v, votes.get(k)) for k, v in (r.get("maj_at") or {}).items() if int(k) > 1}
    if r.get("truncated") is not None:
        cells["truncated"] = percent(r["truncated"], r.get("truncated_ci95"))
    estimates = {label: r[key] for key, label in TWO_TURNS.items() if key in r}
    if "edits" in r:
        estimates["second answer is a copy"] = r["edits"]["zero"]
    if "repair_rate" in r:
        estimates["repair rate"] = r["repair_rate"]
    cells |= {label: estimate(e) for label, e in estimates.items()}
    return cells | (gate_cells(r["gate"]) if "gate" in r else {})


def turn_table(name: str, turns: Mapping[str, Any]) -> Table:
    """Accuracy by turn, and what each turn changed of the one before."""
    table = Table("turn", "accuracy", "delta", "i->c", "c->i", title=name)
    for i, accuracy in enumerate(turns["accuracy"]):
        changed = [turns[key][i - 1] for key in ("delta", "i2c", "c2i")] if i else []
        cells = [estimate(number) for number in (accuracy, *changed)]
        table.add_row(str(i + 1), *cells)
    table.add_row("last - first", "", in_points(turns["last_first"]))
    return table


def scaling_table(name: str, scaling: Mapping[str, Any]) -> Table:
    """Three ways to spend 2K samples of a problem."""
    title = f"{name}: 2K answers by majority against K answers with a correction each"
    columns = ("2K", "2K answers", "K corrections", "K answers and corrections", "K corrections - 2K answers")
    table = Table(*columns, title=title)
    for point in scaling["points"]:
        cells = [estimate(point[arm]) for arm in ARMS]
        table.add_row(str(point["budget"]), *cells, in_points(point["last_parallel"]))
    return table


ARMS = ("parallel", "last", "all")


def benchmark_list(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What there is to run: benchmarks with their sampling, and suites."""
    table = Table("benchmark", "task", "problems", "k", "T", "top-p", "max tokens", records=True)
    suites = []
    for row in rows:
        if row["kind"] == "suite":
            suites.append(f"{row['name']} ({', '.join(row['benchmarks'])}): {row['description']}")
            continue
        sampling = [f"{row['sampling'][key]:,}" for key in ("samples", "temperature", "top_p", "max_tokens")]
        table.add_row(row["name"], row["task"], row["problems"], *sampling)
    return [table, "", "Suites:", *map(Prose, suites)]


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """How a number was made, in one line; `--json` and the database have all of it."""
    all_ = protocol.get("benchmark_problems", protocol["problems"])
    problems = protocol["problems"] if all_ == protocol["problems"] else f"{protocol['problems']} of {all_:,}"
    parts = [f"{problems} problems {protocol['problems_sha256'][:12]}", f"grader {protocol['grader']}"]
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
    cells = {"gate": gate_rule(gate), "coverage": estimate(gate["coverage"])}
    cells["accuracy gated"] = estimate(gate["accuracy"])
    for other in ("never", "always"):
        cells[f"gated - {other}"] = in_points(gate[f"against_{other}"])
    knows = "-" if gate["auroc"] is None else f"{gate['auroc']:.2f}"
    return cells | {"AUROC of the signal": knows, "tokens an answer": f"{gate['tokens']['gated']:.0f}"}


def gate_rule(gate: Mapping[str, Any]) -> str:
    """`logprob < -0.213`, or `logprob: never`."""
    threshold = gate["threshold"]
    return f"{gate['signal']}: {threshold}" if isinstance(threshold, str) else f"{gate['signal']} < {threshold:.3g}"


# --- comparisons ----------------------------------------------------------------------------------------------------

UNDECIDED = "the data cannot tell these apart"
SHORT = {"higher": "higher", "lower": "lower", UNDECIDED: "undecided"}
COMPARED_TURNS = {
    "t2": "second answers",
    "delta": "second - first",
    "i2c": "i->c",
    "c2i": "c->i",
    "fix_rate": "wrong ones mended",
}


def comparison(found: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """A table for each benchmark, then what a reader has to know beside them."""
    parts: list[Any] = []
    for name, change in found.items():
        rows = {"first answers": change} | {COMPARED_TURNS[key]: number for key, number in change["turns"].items()}
        parts += [comparison_table(f"{name}, {change['n']} problems; p by {change['test']}", rows)]
        parts += [Prose(f"{label}: {n['verdict']}") for label, n in rows.items() if n["verdict"] not in SHORT]
        parts += map(Prose, change["warnings"])
    if len(found) > 1:
        ps = ", ".join(f"{name} {p_value(change['p_holm'])}" for name, change in found.items())
        parts.append(Prose(f"{len(found)} benchmarks were compared; p of first answers adjusted for that (Holm): {ps}"))
    if any(change["turns"] for change in found.values()):
        parts.append(Prose("the numbers of second answers hang together; their p are not adjusted"))
    words = f"undecided: {UNDECIDED}. higher, lower: interval and test both say so. Differences are in points"
    parts.append(Prose(words))
    return [*parts, "95% intervals, clustered by problem"]


def comparison_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = (Column("", "words"), "a", "b", "b - a", "95% interval", "p", "verdict")
    table = Table(*columns, title=title)
    for label, n in rows.items():
        numbers = (percent(n["a"]), percent(n["b"]), points(n["difference"]), point_interval(n["ci95"]))
        table.add_row(label, *numbers, p_value(n["p"]), SHORT.get(n["verdict"], "see below"))
    return table
