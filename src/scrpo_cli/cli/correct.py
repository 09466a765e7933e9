"""`scrpo correct`: reflect on pooled errors and try again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.common import (
    DEFAULT_POOL,
    DEFAULT_RECIPE,
    AdapterOption,
    DbOption,
    DebugOption,
    GateOption,
    JsonOption,
    Output,
    PoolOption,
    QuietOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    ThresholdOption,
    named,
    refuse_idle_threshold,
    refuse_with_resume,
    sets_of,
)
from scrpo_cli.numbers import LARGEST, MOST_SAMPLES
from scrpo_cli.tracking.activity import LIBRARIES, now

if TYPE_CHECKING:
    from rich.console import RenderableType

    from scrpo_cli.pool.db import Database

KEYS = {"--adapter": "model.adapter", "--gate": "eval.gate.signal", "--gate-threshold": "eval.gate.threshold"}


def correct(
    context: typer.Context,
    recipe: RecipeOption = None,
    pool: PoolOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=LARGEST, metavar="N", help="At most so many errors.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, max=MOST_SAMPLES, metavar="N", show_default="1", help="Corrections of each error."
        ),
    ] = None,
    gate: GateOption = None,
    gate_threshold: ThresholdOption = None,
    adapter: AdapterOption = None,
    resume: ResumeOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the policy reflect on pooled errors and try again; measure what it repairs."""
    output = Output(json, quiet)
    refuse_with_resume(context, resume)
    output.begin(f"scrpo correct: {named(resume, recipe)}")
    from scrpo_cli.recipe.load import load_recipe

    resolved = load_recipe(recipe or DEFAULT_RECIPE, sets_of(context, KEYS))
    refuse_idle_threshold(context, resolved)
    from scrpo_cli.evaluation.gate import check_pool_gate
    from scrpo_cli.jobs.checks import check_correction
    from scrpo_cli.jobs.runs import resumed_run, started_run
    from scrpo_cli.pool.db import Database

    check_pool_gate(resolved.eval.gate)
    database = Database.open(db)
    if resume is None:
        check_correction(database, resolved, pool or DEFAULT_POOL)
    options = {"pool": pool or DEFAULT_POOL, "limit": limit, "samples": samples or 1}
    start = (
        resumed_run(database, "correct", resume)
        if resume
        else started_run(database, "correct", resolved, summary=options)
    )
    with start as run:
        now().stage(f"run {run.run_id}: {LIBRARIES}")
        from scrpo_cli.jobs.correct import correct_pool

        run.summary |= correct_pool(database, run, output.say)
    output.result(run.summary, *closing(run.summary, database))


def closing(summary: dict[str, Any], database: Database) -> list[RenderableType]:
    from scrpo_cli.cli.tables import gate_rule
    from scrpo_cli.layout import Prose
    from scrpo_cli.numbers import estimate

    rate, gate = summary["repair_rate"], ""
    if found := summary.get("gate"):
        coverage = estimate(found["coverage"])
        gate = f"gate {gate_rule(found)}: {coverage} of {found['errors']} errors reflected on"
    listed = database.command("pool", "ls", "--pool", summary["pool"])
    failed = f" ({summary['not_graded']} not graded and left out)" if summary["not_graded"] else ""
    rates = f"{summary['errors']} errors, {summary['corrections']} corrections{failed}: repair rate {estimate(rate)}"
    return [
        *map(Prose, filter(None, [gate, f"{rates} (95%, clustered by problem)"])),
        f"look: {listed}",
        f"then: {database.command('pool', 'show', 'ID')}",
    ]
