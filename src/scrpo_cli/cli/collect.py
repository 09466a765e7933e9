"""`scrpo collect`: fill the error pool by sampling, or from external responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.common import (
    DEFAULT_POOL,
    DEFAULT_RECIPE,
    READS_A_FILE,
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
    named,
    refuse_idle,
    refuse_with_resume,
    sets_of,
)
from scrpo_cli.numbers import LARGEST
from scrpo_cli.tracking.activity import LIBRARIES, now

if TYPE_CHECKING:
    from rich.console import RenderableType

    from scrpo_cli.pool.db import Database

KEYS = {"--limit": "task.train.limit", "--adapter": "model.adapter"}
NEEDS = {**READS_A_FILE, "--filter": "--from-jsonl"}
IDLE = {"--from-jsonl": (("--adapter",), "the answers of a file are there already")}


def collect(
    context: typer.Context,
    recipe: RecipeOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=LARGEST, metavar="N", help="At most so many problems.")
    ] = None,
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
    refuse_idle(context, NEEDS, IDLE)
    output.begin(f"scrpo collect: {named(resume, recipe)}")
    from scrpo_cli.recipe.load import load_recipe

    resolved = load_recipe(recipe or DEFAULT_RECIPE, sets_of(context, KEYS))
    from scrpo_cli.jobs.checks import check_sampling
    from scrpo_cli.jobs.collect import check_rows, fill_pool
    from scrpo_cli.jobs.runs import resumed_run, started_run
    from scrpo_cli.pool.db import Database
    from scrpo_cli.tasks.external import models_of, parse_map, read_full_responses

    rows = read_full_responses(from_jsonl, parse_map(map_ or []), format_) if from_jsonl else None
    if rows is None and resume is None:
        check_sampling(resolved)
    database = Database.open(db)
    if rows is not None:
        check_rows(database, rows)
    options = {"pool": pool or DEFAULT_POOL, "from": str(from_jsonl) if from_jsonl else None}
    start = (
        resumed_run(database, "collect", resume)
        if resume
        else started_run(
            database, "collect", resolved, summary=options, resumable=rows is None, answered_by=models_of(rows)
        )
    )
    with start as run:
        now().stage(f"run {run.run_id}" + (f": {LIBRARIES}" if rows is None else f": grading {len(rows)} responses"))
        run.summary |= fill_pool(database, run, rows, output.say, use_filter=filter_)
    output.result(run.summary, *closing(run.summary, database))


def closing(summary: Mapping[str, Any], database: Database) -> list[RenderableType]:
    from scrpo_cli.cli.tables import errors_kept
    from scrpo_cli.layout import Prose

    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(summary["verdicts"].items()))
    pool = ("--pool", summary["pool"])
    return [
        Prose(f"{summary['attempts']} attempts: {verdicts}"),
        *errors_kept(summary),
        Prose(f"{summary['kept']} errors are in the pool '{summary['pool']}' (run {summary['run']})"),
        f"look: {database.command('pool', 'stats', *pool)}",
        f"next: {database.command('correct', *pool)}",
    ]
