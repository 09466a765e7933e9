"""`scrpo correct`: reflect on pooled errors and try again."""

from __future__ import annotations

from typing import Annotated

import typer

from scrpo_cli.cli.collect import AdapterOption, LimitOption, PoolOption, ResumeOption
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption, RecipeOption, SetOption
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe


def correct(
    recipe: RecipeOption = "tiny",
    pool: PoolOption = "default",
    limit: LimitOption = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Corrections of each error.")] = 1,
    adapter: AdapterOption = None,
    resume: ResumeOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the policy reflect on pooled errors and try again; measure what it repairs."""
    from scrpo_cli.cli.tables import percent
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import waiting
    from scrpo_cli.training.launch import launch, relaunch

    output = Output(json, quiet)
    resolved = load_recipe(recipe, [*(set_ or []), *([f"model.adapter={adapter}"] if adapter else [])])
    database = Database.open(db)
    if not waiting(database, pool):
        fix = "Fill it with `scrpo collect`, or name another one (`scrpo pool stats`)."
        raise UserError(f"The pool '{pool}' holds no living errors.", str(database.url), fix)
    start = relaunch(database, "correct", resume) if resume else launch(database, "correct", resolved)
    with start as run:
        from scrpo_cli.training.correct import correct_pool
        from scrpo_cli.training.lab import open_lab

        with open_lab(run.recipe) as lab:
            run.summary |= correct_pool(database, run, lab, pool, limit, samples, output.say)
    rate = run.summary["repair_rate"]
    text = (
        f"{run.summary['errors']} errors, {run.summary['corrections']} corrections: "
        f"repair rate {percent(rate['value'], rate['ci95'])} (95%, clustered by problem)\n"
        f"look: scrpo pool ls --pool {pool}, then scrpo pool show ID"
    )
    output.result(run.summary, text)
