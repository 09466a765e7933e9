"""A command's run in the database: started, locked against a second process, and closed with the right status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scrpo_cli.errors import Interrupted, UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import finish_run, new_run_id, resolve_run, start_run
from scrpo_cli.recipe.models import Recipe


@dataclass
class Launch:
    """A run that is under way; `summary` is stored when it ends."""

    run_id: str
    directory: Path
    recipe: Recipe
    resumed: bool
    summary: dict[str, Any] = field(default_factory=dict)


@contextmanager
def launch(
    db: Database, command: str, recipe: Recipe, *, run_id: str | None = None, sweep: str | None = None, arm: str = ""
) -> Iterator[Launch]:
    """A new run of `command` under `recipe`."""
    run_id = run_id or new_run_id()
    directory = runs_directory(db) / run_id
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, run_id):
        model = recipe.model.adapter or recipe.model.name
        start_run(
            db,
            command=command,
            recipe=recipe,
            directory=str(directory),
            model=model,
            run_id=run_id,
            sweep=sweep,
            arm=arm or None,
        )
        with closed_at_end(db, Launch(run_id, directory, recipe, resumed=False)) as run:
            yield run


@contextmanager
def relaunch(db: Database, command: str, ref: str) -> Iterator[Launch]:
    """An earlier run of `command`, taken up again under the recipe that it was started with."""
    row = resolve_run(db, ref, command=command)
    directory = Path(row.directory)
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, row.id):
        recipe = Recipe.model_validate_json(row.recipe_json)
        with closed_at_end(db, Launch(row.id, directory, recipe, resumed=True)) as run:
            yield run


@contextmanager
def closed_at_end(db: Database, run: Launch) -> Iterator[Launch]:
    """Whatever happens, the database says how the run ended."""
    status = "failed"
    try:
        yield run
        status = "done"
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
        raise
    finally:
        finish_run(db, run.run_id, status, run.summary)


@contextmanager
def locked(directory: Path, run_id: str) -> Iterator[None]:
    """One process at a time works on a run."""
    try:
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout:
        fix = "Wait for it, or end it; then resume."
        raise UserError(f"Another process is working on run {run_id}.", str(directory), fix) from None


def runs_directory(db: Database) -> Path:
    """`runs/` beside a SQLite file; `.scrpo/runs` for a database server."""
    if db.url.get_backend_name() == "sqlite" and db.url.database:
        return Path(db.url.database).resolve().parent / "runs"
    return Path(".scrpo/runs").resolve()
