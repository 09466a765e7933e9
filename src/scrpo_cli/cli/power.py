"""`scrpo power`: what so many problems and samples can show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption, refuse_idle
from scrpo_cli.numbers import LARGEST

if TYPE_CHECKING:
    from scrpo_cli.layout import Table

NEEDS = dict.fromkeys(("--against", "--benchmark"), "--from-run")
IDLE = {
    "--from-run": (("--accuracy", "--consistency"), "they are assumed where nothing is measured"),
    "--against": (("--correlation",), "it is measured by two runs"),
}


def power(
    context: typer.Context,
    problems: Annotated[
        int, typer.Option("--problems", min=2, max=LARGEST, metavar="N", help="Problems of the benchmark.")
    ],
    samples: Annotated[
        int, typer.Option("--samples", min=1, max=LARGEST, metavar="N", help="Answers to each problem.")
    ] = 1,
    effect: Annotated[
        float | None,
        typer.Option("--effect", min=0.01, max=100, metavar="POINTS", help="A true difference, in points."),
    ] = None,
    accuracy: Annotated[
        float, typer.Option("--accuracy", min=1, max=99, metavar="PERCENT", help="Assumed accuracy, in percent.")
    ] = 50,
    consistency: Annotated[
        float,
        typer.Option(
            "--consistency",
            min=0,
            max=1,
            metavar="X",
            help="Share of the variance that is the problem's: 1, always or never solved.",
        ),
    ] = 0.7,
    correlation: Annotated[
        float, typer.Option("--correlation", min=0, max=1, metavar="X", help="Of the two runs' success rates.")
    ] = 0.9,
    from_run: Annotated[
        str | None,
        typer.Option("--from-run", metavar="RUN", autocompletion=completion.runs, help="Measure the variances."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="RUN", autocompletion=completion.runs, help="With a second run, also their change."
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark", metavar="NAME", autocompletion=completion.benchmarks, help="Of RUN; default: its first."
        ),
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The smallest difference between two runs that is seen with 80% power, and what it takes to see a given one."""
    from scrpo_cli.evaluation.power import assumed, plan
    from scrpo_cli.jobs.compare import variation_of
    from scrpo_cli.layout import Prose

    refuse_idle(context, NEEDS, IDLE)
    if from_run:
        variation = variation_of(db, from_run, against, benchmark, correlation)
    else:
        variation = assumed(accuracy / 100, consistency, correlation)
    found = plan(variation, problems, samples, effect and effect / 100)
    Output(json, quiet).result(found, power_table(found), *map(Prose, in_words(found)))


def power_table(found: dict[str, Any]) -> Table:
    from scrpo_cli.layout import Column, Table

    table = Table(Column("", "words"), "same problems", "different problems")
    rows = {
        "smallest difference seen (80% power)": ("smallest", "{:.1f} points", 100),
        "the same with any number of samples": ("smallest_any_samples", "{:.1f} points", 100),
    }
    if found["effect"]:
        points = f"{100 * found['effect']:g} points"
        rows |= {
            f"power for {points}": ("power", "{:.0f}%", 100),
            f"problems to see {points}": ("problems_needed", "{:,}", 1),
        }
    for label, (key, form, scale) in rows.items():
        table.add_row(label, *(form.format(scale * found[kind][key]) for kind in ("paired", "unpaired")))
    return table


def in_words(found: dict[str, Any]) -> list[str]:
    rate, moved, answer = (f"{100 * found['variation'][key] ** 0.5:.0f}" for key in ("between", "moved", "within"))
    said = [
        f"{found['problems']} problems x {found['samples']} samples",
        f"standard deviations in points: {rate} of the success rate over problems, {moved} of its change between runs, "
        f"{answer} of an answer to one problem",
    ]
    if found["effect"] and found["effect"] < found["paired"]["smallest_any_samples"]:
        said.append("No number of samples shows this difference on so few problems with 80% power.")
    return said
