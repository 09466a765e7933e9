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
)
from scrpo_cli.recipe.load import load_recipe

if TYPE_CHECKING:
    from rich.table import Table

    from scrpo_cli.jobs.doctor import Check

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
    from scrpo_cli.jobs.doctor import Checkup

    resolved = load_recipe(recipe or DEFAULT_RECIPE, set_ or ())
    checks = list(Checkup(resolved, db).run())
    failed = sum(check.status == "fail" for check in checks)
    result = {"recipe": resolved.name, "ok": not failed, "checks": [asdict(check) for check in checks]}
    Output(json, quiet).result(result, table_of(checks))
    if failed:
        raise typer.Exit(1)


def table_of(checks: list[Check]) -> Table:
    """One row a check; the remedy stands under what it is for."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for check in checks:
        detail = Text(check.detail)
        if check.remedy:
            detail.append(f"\n-> {check.remedy}", style="cyan")
        table.add_row(Text(check.status, style=STYLES[check.status]), check.name, detail)
    return table
