"""`scrpo export`: what a training run has learned, for transformers, peft and vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption
from scrpo_cli.tracking.activity import LIBRARIES, now


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", autocompletion=completion.runs, help="A training run: an id, a beginning of one, or `last`."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new directory.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="The whole model with the adapter merged into it, and its tokenizer.")
    ] = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a training run's newest adapter with a model card, as transformers, peft and vLLM load it. Its answers are
    for `scrpo runs export`.
    """
    answer = Output(json, quiet)
    answer.begin(f"scrpo export: run {run}")
    from scrpo_cli.jobs.runs import is_alive
    from scrpo_cli.layout import Pairs
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import resolve_run

    with Database.open(db, create=False) as database:
        row = resolve_run(database, run, command="train")
        now().stage(f"run {row.id}: {LIBRARIES}")
        from scrpo_cli.jobs.adapter import export_adapter

        done = export_adapter(database, row, output, merge=merge)
    if is_alive(row):
        answer.say(f"run {row.id} is still training: this is its adapter of step {done['step']}")
    said = {"run": row.id, "step": str(done["step"]), "base model": done["base_model"]}
    answer.result(done, Pairs(said | {"merged model" if merge else "adapter": str(output)}))
