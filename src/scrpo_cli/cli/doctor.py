"""`scrpo doctor`: what works here for a recipe, and what to do about what does not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    DbOption,
    DebugOption,
    JsonOption,
    MeasureOption,
    Output,
    QuietOption,
    RecipeOption,
    SetOption,
    named,
)

if TYPE_CHECKING:
    from rich.console import Group

    from scrpo_cli.jobs.doctor import Check

WIDTHS = (4, 16)
"""Of statuses and names, as a row is written before the next is known."""
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    recipe: RecipeOption = None,
    set_: SetOption = None,
    measure: MeasureOption = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Check what works on this machine for a recipe, with a remedy for what does not. Exit code 1 if a check fails."""
    output = Output(json, quiet)
    output.begin(f"scrpo doctor: {named(None, recipe)}")
    from scrpo_cli.jobs.doctor import Checkup
    from scrpo_cli.recipe.load import load_recipe

    resolved = load_recipe(recipe or DEFAULT_RECIPE, set_ or ())
    checks, checkup = [], Checkup(resolved, db)
    for check in checkup.run():
        checks.append(check)
        output.part(row_of(check))
    failed = sum(check.status == "fail" for check in checks)
    document = {"recipe": resolved.name, "ok": not failed, "checks": [asdict(check) for check in checks]}
    if failed or not measure:
        output.result(document | {"measured": None})
    else:
        from scrpo_cli.jobs import forecast

        taken = forecast.measured(resolved, checkup.budget)
        output.result(document | {"measured": taken.as_dict()}, "", forecast.render(taken))
    if failed:
        raise typer.Exit(1)


def row_of(check: Check) -> Group:
    """Of the table; the remedy stands under what it is for."""
    from rich.console import Group
    from rich.text import Text

    from scrpo_cli.layout import Row

    rows = [Row((Text(check.status, STYLES[check.status]), check.name, check.detail), WIDTHS)]
    if check.remedy:
        rows.append(Row(("", "", Text(f"-> {check.remedy}", "cyan")), WIDTHS))
    return Group(*rows)
