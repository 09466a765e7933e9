"""`scrpo runs export`: every stored answer of a run as a file that other programs, and `scrpo eval`, can score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="An id, a unique beginning of one, or `last`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="JSONL to write; .gz is compressed.")],
    all_: Annotated[bool, typer.Option("--all", help="Also what was sampled for training and collecting.")] = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the answers of a run's evaluations, one a line; `scrpo eval --from-jsonl FILE` scores them again."""
    from scrpo_cli.jobs.export import export_run
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import resolve_run

    with Database.open(db, create=False) as database:
        row = resolve_run(database, run)
        rows = export_run(database, row, output, everything=all_)
    summary = {"run": row.id, "rows": rows, "file": str(output)}
    Output(json, quiet).result(summary, f"{rows} answers of run {row.id} are in {output}")
