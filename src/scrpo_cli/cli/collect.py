"""`scrpo collect`: fill the error pool by sampling, or from external responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.common import (
    DEFAULT_POOL,
    DEFAULT_RECIPE,
    AdapterOption,
    DbOption,
    DebugOption,
    FormatOption,
    FromOption,
    JsonOption,
    MapOption,
    Output,
    PoolOption,
    QuietOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    refuse_with_resume,
    refuse_without_file,
    sets_of,
)
from scrpo_cli.recipe.load import load_recipe

if TYPE_CHECKING:
    from rich.console import RenderableType

KEYS = {"--limit": "task.train.limit", "--adapter": "model.adapter"}


def collect(
    context: typer.Context,
    recipe: RecipeOption = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many problems.")] = None,
    from_jsonl: FromOption = None,
    format_: FormatOption = "jsonl",
    map_: MapOption = None,
    filter_: Annotated[
        bool,
        typer.Option("--filter", help="With --from-jsonl: pool what the recipe's filter keeps, not every error."),
    ] = False,
    pool: PoolOption = None,
    adapter: AdapterOption = None,
    resume: ResumeOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Sample a policy on the recipe's training problems, grade, and keep the wrong answers in the error pool."""
    output = Output(json, quiet)
    refuse_with_resume(context, resume)
    refuse_without_file(context, from_jsonl)
    resolved = load_recipe(recipe or DEFAULT_RECIPE, sets_of(context, KEYS))
    from scrpo_cli.jobs.collect import fill_pool
    from scrpo_cli.jobs.runs import resumed_run, started_run
    from scrpo_cli.pool.db import Database
    from scrpo_cli.tasks.external import models_of, parse_map, read_full_responses

    rows = read_full_responses(from_jsonl, parse_map(map_ or []), format_) if from_jsonl else None
    database = Database.open(db)
    options = {"pool": pool or DEFAULT_POOL, "from": str(from_jsonl) if from_jsonl else None}
    start = (
        resumed_run(database, "collect", resume)
        if resume
        else started_run(
            database, "collect", resolved, summary=options, resumable=rows is None, answered_by=models_of(rows)
        )
    )
    with start as run:
        run.summary |= fill_pool(database, run, rows, output.say, use_filter=filter_)
    output.result(run.summary, *closing(run.summary))


def closing(summary: Mapping[str, Any]) -> list[RenderableType]:
    from scrpo_cli.cli.tables import errors_kept

    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(summary["verdicts"].items()))
    pool = summary["pool"]
    return [
        f"{summary['attempts']} attempts: {verdicts}",
        *errors_kept(summary),
        f"{summary['kept']} errors are in the pool '{pool}' (run {summary['run']})",
        f"next: scrpo pool stats --pool {pool}   or   scrpo correct --pool {pool}",
    ]
