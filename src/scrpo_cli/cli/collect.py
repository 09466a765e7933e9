"""`scrpo collect`: fill the error pool by sampling, or from external responses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    refuse_with_resume,
)
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe

if TYPE_CHECKING:
    from scrpo_cli.jobs.runs import ActiveRun
    from scrpo_cli.pool.db import Database
    from scrpo_cli.tasks.external import ResponseRow

DEFAULT_POOL = "default"
PoolOption = Annotated[
    str | None, typer.Option("--pool", metavar="NAME", show_default=DEFAULT_POOL, help="The pool's name.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many problems.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OURS=THEIRS", help="Field names of the file, e.g. response=model_solution."),
]
FromOption = Annotated[Path | None, typer.Option("--from-jsonl", metavar="FILE", help="External responses.")]
ResumeOption = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Continue an interrupted run.")]
AdapterOption = Annotated[str | None, typer.Option("--adapter", metavar="DIR", help="A PEFT adapter to sample with.")]


def collect(
    recipe: RecipeOption = None,
    limit: LimitOption = None,
    from_jsonl: FromOption = None,
    map_: MapOption = None,
    filter_: Annotated[
        bool, typer.Option("--filter", help="With --from-jsonl: pool what the recipe's filter keeps, not every error.")
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
    from scrpo_cli.jobs.collect import totals
    from scrpo_cli.jobs.runs import resumed_run, started_run
    from scrpo_cli.pool.db import Database

    output = Output(json, quiet)
    started_with = {"--from-jsonl": from_jsonl, "--pool": pool, "--limit": limit, "--adapter": adapter}
    refuse_with_resume(resume, {**started_with, "--recipe": recipe, "--set": set_ or None})
    resolved = load_recipe(recipe or DEFAULT_RECIPE, [*(set_ or []), *overrides(limit, adapter)])
    rows = read_rows(from_jsonl, map_) if from_jsonl else None
    database = Database.open(db)
    options = {"pool": pool or DEFAULT_POOL, "from": str(from_jsonl) if from_jsonl else None}
    start = (
        resumed_run(database, "collect", resume)
        if resume
        else started_run(database, "collect", resolved, summary=options, resumable=rows is None)
    )
    with start as run:
        if rows is not None:
            import_rows(database, run, rows, filter_)
        else:
            sample(database, run, output)
        run.summary |= totals(database, run)
    output.result(run.summary, closing(run.summary))


def overrides(limit: int | None, adapter: str | None) -> list[str]:
    """The options that are short for recipe keys, as --set items."""
    given = {"task.train.limit": limit, "model.adapter": adapter}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def read_rows(path: Path, map_: list[str] | None) -> list[ResponseRow]:
    from scrpo_cli.tasks.external import parse_map, read_full_responses

    return read_full_responses(path, parse_map(map_ or []))


def import_rows(database: Database, run: ActiveRun, rows: list[ResponseRow], use_filter: bool) -> None:
    from contextlib import closing as closed

    from scrpo_cli.jobs.collect import collect_rows
    from scrpo_cli.tasks import make_task

    with closed(make_task(run.recipe.task)) as task:
        collect_rows(database, run, task, rows, use_filter=use_filter)


def sample(database: Database, run: ActiveRun, output: Output) -> None:
    from scrpo_cli.jobs.collect import collect_samples
    from scrpo_cli.training.runtime import open_runtime

    if run.summary["from"]:
        raise UserError("An import is one transaction and cannot be resumed.", run.run_id, "Run it again.")
    with open_runtime(run.recipe) as runtime:
        collect_samples(database, run, runtime, output.say)


def closing(summary: dict[str, Any]) -> str:
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(summary["verdicts"].items()))
    return (
        f"{summary['attempts']} attempts: {verdicts}\n"
        f"{summary['kept']} errors are in the pool '{summary['pool']}' (run {summary['run']})\n"
        f"next: scrpo pool stats --pool {summary['pool']}   or   scrpo correct --pool {summary['pool']}"
    )
