"""A command's run in the database: started, locked against a second process, and closed with the right status."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scrpo_cli.errors import Interrupted, UserError
from scrpo_cli.pool.db import DEFAULT_PATH, Database
from scrpo_cli.pool.queries import finish_run, forget_run, new_run_id, note_run, reopen_run, resolve_run, start_run
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.chat import Chat


@dataclass
class ActiveRun:
    """A run that is under way. `summary` is stored when it starts and again when it ends; `again` says how to go on
    after an interruption.
    """

    run_id: str
    directory: Path
    recipe: Recipe
    resumed: bool
    again: str
    summary: dict[str, Any] = field(default_factory=dict)


@contextmanager
def started_run(
    db: Database,
    command: str,
    recipe: Recipe,
    *,
    run_id: str | None = None,
    sweep: str | None = None,
    arm: str = "",
    summary: Mapping[str, Any] | None = None,
    resumable: bool = True,
    answered_by: str | None = None,
) -> Iterator[ActiveRun]:
    """A new run of `command` under `recipe`. `summary` holds the options that a resumed run has to know again.
    `answered_by`: who gave external responses, empty where that is not known; then the recipe's model has no part in
    the run. Where it ends with the user's mistake and has recorded nothing, nothing of it stays.
    """
    run_id = run_id or new_run_id()
    directory = runs_directory(db) / run_id
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, f"run {run_id}"):
        start_run(
            db,
            command=command,
            recipe=recipe,
            directory=str(directory),
            model=answered_by if answered_by is not None else recipe.model.adapter or recipe.model.name,
            run_id=run_id,
            sweep=sweep,
            arm=arm or None,
            summary=summary,
            external=answered_by is not None,
        )
        again = f"Continue with `{resume_command(db, command, run_id)}`." if resumable else "Run it again."
        try:
            with closed_at_end(db, ActiveRun(run_id, directory, recipe, False, again, dict(summary or {}))) as run:
                yield run
        except UserError:  # a mistake that was found late is no run that `last` should find
            if forget_run(db, run_id):
                shutil.rmtree(directory, ignore_errors=True)
            raise


@contextmanager
def resumed_run(db: Database, command: str, ref: str) -> Iterator[ActiveRun]:
    """An earlier run of `command`, taken up again under the recipe and the options that it was started with."""
    row = resolve_run(db, ref, command=command)
    directory = Path(row.directory)
    if not directory.is_dir():  # starting over would drop the rows of a run whose checkpoints were only moved
        fix = "Put it back where it was, or start a new run."
        raise UserError(f"The directory of run {row.id} is gone.", row.directory, fix)
    with locked(directory, f"run {row.id}"):
        recipe = stored_recipe(row.recipe_json, f"run {row.id}")
        again = f"Continue with `{resume_command(db, command, row.id)}`."
        run = ActiveRun(row.id, directory, recipe, True, again, json.loads(row.summary_json))
        reopen_run(db, row.id)
        with closed_at_end(db, run):
            yield run


def note_fingerprint(db: Database, run: ActiveRun, chat: Chat) -> None:
    """Store which tokenizer and chat template the token ids of this run belong to; training on them later compares."""
    run.summary["fingerprint"] = chat.fingerprint
    note_run(db, run.run_id, run.summary)


@contextmanager
def closed_at_end(db: Database, run: ActiveRun) -> Iterator[ActiveRun]:
    """Whatever happens, the database says how the run ended."""
    status = "failed"
    try:
        yield run
        status = "done"
    except Interrupted:
        status = "interrupted"
        raise
    except KeyboardInterrupt:
        status = "interrupted"
        raise Interrupted("Stopped; what was recorded is safe.", str(run.directory), run.again) from None
    finally:
        finish_run(db, run.run_id, status, run.summary)


@contextmanager
def locked(directory: Path, name: str) -> Iterator[None]:
    """One process at a time works on a run or a sweep."""
    try:
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout:
        fix = "Wait for it, or end it; then resume."
        raise UserError(f"Another process is working on {name}.", str(directory), fix) from None


def resume_command(db: Database, command: str, run_id: str) -> str:
    """What to type to take a run up again."""
    return f"scrpo {command} --resume {run_id}" + ("" if db.where == DEFAULT_PATH else f" --db {db.where}")


def runs_directory(db: Database) -> Path:
    """`runs/` beside a SQLite file; `.scrpo/runs` for a database server."""
    if db.url.get_backend_name() == "sqlite" and db.url.database:
        return Path(db.url.database).resolve().parent / "runs"
    return Path(".scrpo/runs").resolve()
