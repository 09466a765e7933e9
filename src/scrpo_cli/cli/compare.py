"""`scrpo runs compare`: two runs on the same problems, or one training run before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption
from scrpo_cli.numbers import p_value, percent, point_interval, points

if TYPE_CHECKING:
    from rich.table import Table

UNDECIDED = "the data cannot tell these apart"
SHORT = {"higher": "higher", "lower": "lower", UNDECIDED: "undecided"}
TWO_TURNS = {
    "t2": "second answers",
    "delta": "second - first",
    "i2c": "i->c",
    "c2i": "c->i",
    "fix_rate": "wrong ones mended",
}


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="An id, a unique beginning of one, or `last`.")],
    second: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Another; without it RUN after training against before.")
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The second run minus the first on the same problems: difference, interval, exact test, and what can be said."""
    from scrpo_cli.jobs.compare import compare_before_after, compare_runs
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import resolve_run

    with Database.open(db, create=False) as database:
        a = resolve_run(database, first).id
        b = a if second is None else resolve_run(database, second).id
        found = compare_before_after(database, a) if second is None else compare_runs(database, b, a)
    headline = f"{a}: a before, b after training" if second is None else f"a: run {a}, b: run {b}"
    Output(json, quiet).result({"first": a, "second": b, "benchmarks": found}, headline, *comparison(found))


def comparison(found: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """A table for each benchmark, then what a reader has to know beside them."""
    parts: list[Any] = []
    for name, change in found.items():
        rows = {"first answers": change} | {TWO_TURNS[key]: number for key, number in change["turns"].items()}
        parts += [comparison_table(f"{name}, {change['n']} problems; p by {change['test']}", rows)]
        parts += [f"{label}: {n['verdict']}" for label, n in rows.items() if n["verdict"] not in SHORT]
        parts += change["warnings"]
    if len(found) > 1:
        ps = ", ".join(f"{name} {p_value(change['p_holm'])}" for name, change in found.items())
        parts.append(f"{len(found)} benchmarks were compared; p of first answers adjusted for that (Holm): {ps}")
    if any(change["turns"] for change in found.values()):
        parts.append("the numbers of second answers hang together; their p are not adjusted")
    parts.append(f"undecided: {UNDECIDED}. higher, lower: interval and test both say so. Differences are in points")
    return [*parts, "95% intervals, clustered by problem"]


def comparison_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    from rich.table import Table

    columns = ("", "a", "b", "b - a", "95% interval", "p", "")
    table = Table(*columns, title=title, title_justify="left", box=None, header_style="bold")
    for label, n in rows.items():
        numbers = (percent(n["a"]), percent(n["b"]), points(n["difference"]), point_interval(n["ci95"]))
        table.add_row(label, *numbers, p_value(n["p"]), SHORT.get(n["verdict"], "see below"))
    return table
