"""`scrpo audit`: how much of a repair the reflection causes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.advise import DEFAULT_PROBLEMS, sampled_run
from scrpo_cli.cli.common import (
    AdapterOption,
    DbOption,
    DebugOption,
    JsonOption,
    Output,
    QuietOption,
    RecipeOption,
    ResumeOption,
    SetOption,
)
from scrpo_cli.numbers import LARGEST
from scrpo_cli.tracking.activity import LIBRARIES, now

if TYPE_CHECKING:
    from rich.console import RenderableType


def audit(
    context: typer.Context,
    recipe: RecipeOption = None,
    problems: Annotated[
        int | None,
        typer.Option(
            "--problems",
            min=2,
            max=LARGEST,
            metavar="N",
            show_default=str(DEFAULT_PROBLEMS),
            help="Training problems to sample; one error of each is corrected.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    resume: ResumeOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Correct the same errors with their reflection, another one, less of it and none: what the reflection causes."""
    output = Output(json, quiet)
    options = {"problems": problems or DEFAULT_PROBLEMS}
    database, start = sampled_run(context, output, "audit", recipe, resume, options, db)
    with start as run:
        now().stage(f"run {run.run_id}: {LIBRARIES}")
        from scrpo_cli.jobs.audit import sample_and_audit

        run.summary |= sample_and_audit(database, run, output.say)
    output.result(run.summary, *closing(run.summary))


def closing(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A row for each condition, and one for each pair of them."""
    from scrpo_cli.evaluation.audit import COMPARED, CONDITIONS
    from scrpo_cli.layout import Column, Prose, Table
    from scrpo_cli.numbers import change, estimate, p_value

    title = f"one error of each of {found['errors']} problems; 95% intervals, clustered by problem"
    table = Table(Column("corrected with", "words"), "right", "tokens", "right per 1,000 tokens", title=title)
    for name, number in found["conditions"].items():
        tokens, per = f"{number['tokens']:.0f}", f"{number['per_1000_tokens']:.2f}"
        table.add_row(f"{name}: {CONDITIONS[name]}", estimate(number["right"]), tokens, per)
    yield table
    yield Prose("")
    pairs = Table("less", "points", "p, corrected", Column("", "words"))
    for row in found["compared"]:
        pair = row["first"], row["second"]
        words = COMPARED[pair] if row["told"] else f"cannot be told: {COMPARED[pair]}"
        pairs.add_row(f"{pair[0]} - {pair[1]}", change(row), p_value(row["p_holm"]), words)
    yield pairs
