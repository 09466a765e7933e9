"""A database file of its own for each run of a sweep, merged into the sweep's when the run ends.

SQLite is unsafe where several machines write one file over a network. Here every file has one writer: a run its own,
the sweep the one that it was started with. What a run needs of others is put into its file before it starts.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from scrpo_cli.ablation.executors.base import Finished
from scrpo_cli.ablation.grid import Cell
from scrpo_cli.ablation.sweep import Sweep
from scrpo_cli.files import file_stem
from scrpo_cli.jobs.checks import method_runs
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.merge import merge
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import resolve_run

FOLDER = "databases"
PARTS = ("", "-wal", "-shm")
"""Of a SQLite file."""


def own_file(sweep: Sweep, name: str) -> Path:
    """Of the run of a cell, by its name."""
    return sweep.directory / FOLDER / f"{file_stem(name)}.db"


def give(db: Database, sweep: Sweep, cell: Cell, run: RunRow | None) -> Path:
    """The file of a cell that is about to run, with all that it goes on from: what its run has done so far, the run
    that it leaves, and recorded runs that its method learns from.
    """
    path = own_file(sweep, cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    recipe = next(arm.recipe for arm in sweep.arms if arm.name == cell.arm)
    needed = [resolve_run(db, ref).id for _, ref in method_runs(recipe)]
    needed += [run.id] if run else [sweep.fork.of] if sweep.fork else []
    with Database.open(str(path)) as own:
        merge(own, db, runs=needed)
    return path


def gather(db: Database, sweep: Sweep, at_work: Collection[str] = ()) -> None:
    """Bring over what lies in all files but those of runs that are `at_work`: whoever wrote the others may be gone."""
    for cell in sweep.cells:
        path = own_file(sweep, cell.name)
        if cell.name not in at_work and path.exists():
            bring(db, path)


def bring(db: Database, path: Path) -> None:
    with Database.open(str(path), create=False) as own:
        # a run that was taken up where its last checkpoint was has another history since than the one we had taken
        merge(db, own, replace=True)


def take(db: Database, sweep: Sweep, event: Finished) -> None:
    """What a run has written, once it has ended; the file of one that is done is not needed any more."""
    path = own_file(sweep, event.job.name)
    bring(db, path)
    if event.exit_code == 0:
        for part in PARTS:
            path.with_name(path.name + part).unlink(missing_ok=True)
