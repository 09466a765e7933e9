"""`scrpo db`: databases as files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption
from scrpo_cli.errors import UserError
from scrpo_cli.tracking.activity import now

app = typer.Typer(
    help="Databases as files.", no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.callback()
def db() -> None:
    """Databases as files."""


@app.command("merge")
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Databases of other machines.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Where a run has two histories, that of the file counts.")
    ] = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring the runs of other databases into this one. Merging a file again changes nothing."""
    output = Output(json, quiet)
    output.begin(f"scrpo db merge: {len(files)} files")
    from scrpo_cli.layout import Prose
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.merge import merge as merge_runs

    documents = []
    with Database.open(db) as database:
        for file in files:
            if file.exists() and Path(database.where).exists() and file.samefile(database.where):
                raise UserError(
                    "A database is not merged into itself", str(file), "Leave it out, or name another --db."
                )
            with Database.open(str(file), create=False) as source:
                now().stage(f"merging {file}, rows")
                merged = merge_runs(database, source, replace=replace, watch=now().progress)
            documents.append({"file": str(file), **asdict(merged)})
            counts = (len(merged.added), len(merged.updated), len(merged.unchanged))
            output.say("{}: {} runs added, {} went further, {} unchanged".format(file, *counts))
            if merged.conflicts:
                output.say(f"warning: {len(merged.conflicts)} errors were retired in both; what was here first stays")
    text = f"{sum(len(each['added']) for each in documents)} runs were added to {database.where}"
    output.result({"database": str(database.where), "files": documents}, Prose(text))
