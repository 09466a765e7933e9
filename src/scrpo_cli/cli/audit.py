"""`scrpo audit`: how much of a repair the reflection causes."""

from __future__ import annotations

from typing import Annotated

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
        from scrpo_cli.report.tables import audited, terminal

        run.summary |= sample_and_audit(database, run, output.say)
    output.result(run.summary, *map(terminal, audited(run.summary)))
