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
    Output,
    QuietOption,
    RecipeOption,
    SetOption,
    named,
)
from scrpo_cli.tracking.activity import now

if TYPE_CHECKING:
    from rich.table import Table

    from scrpo_cli.jobs.doctor import Check

WIDTHS = (4, 13, 0)
"""Of status, name and detail: of the longest status and name, as each row is printed before the next is known."""
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    recipe: RecipeOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Check what works on this machine for a recipe, with a remedy for what does not. Exit code 1 if a check fails."""
    output = Output(json, quiet)
    output.begin(f"scrpo doctor: {named(None, recipe)}")
    from rich.console import Console

    from scrpo_cli.jobs.doctor import Checkup
    from scrpo_cli.recipe.load import load_recipe

    resolved = load_recipe(recipe or DEFAULT_RECIPE, set_ or ())
    checks = []
    for check in Checkup(resolved, db).run():
        checks.append(check)
        if not json:
            now().clear()
            Console().print(row_of(check))
    failed = sum(check.status == "fail" for check in checks)
    output.result({"recipe": resolved.name, "ok": not failed, "checks": [asdict(check) for check in checks]})
    if failed:
        raise typer.Exit(1)


def row_of(check: Check) -> Table:
    """A row of the table, which comes row by row; the remedy stands under what it is for."""
    from rich.table import Table
    from rich.text import Text

    detail = Text(check.detail)
    if check.remedy:
        detail.append(f"\n-> {check.remedy}", style="cyan")
    row = Table.grid(padding=(0, 2))
    for width in WIDTHS:
        row.add_column(min_width=width)
    row.add_row(Text(check.status, style=STYLES[check.status]), check.name, detail)
    return row
