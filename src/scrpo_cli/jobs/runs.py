"""A command's run in the database: started, locked against a second process, and closed with the right status."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from scrpo_cli.errors import Interrupted, UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import (
    RUN_STATUSES,
    finish_run,
    forget_run,
    new_run_id,
    note_run,
    reopen_run,
    resolve_run,
    start_run,
)
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.signals import deaf, is_interruption

RUNNING, KILLED = "running", "killed"
"""Of a run: the status that it begins with, and what a run is that has it and no process."""
STATUSES = (*RUN_STATUSES, KILLED)
LOCK, OWNER = ".lock", ".owner.json"
"""Files of a run's directory. The lock is the operating system's: it is free once its process is gone."""
LOOK_SECONDS = 1.0
"""How long a lock is waited for: longer than `is_alive` looks at it."""
SAVE_SECONDS = 120.0
"""How long a run that was asked to stop may take to save its step."""

if TYPE_CHECKING:
    from scrpo_cli.training.resume import Start  # loads torch


@dataclass
class ActiveRun:
    """A run that is under way. `summary` is stored when it starts and again when it ends; `again` says how to go on
    after an interruption.
    """

    run_id: str
    directory: Path
    recipe: Recipe
    again: str
    summary: dict[str, Any] = field(default_factory=dict)
    start: Start | None = None
    """From which checkpoint a training run that was taken up again goes on."""


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
        again = f"Continue with `{db.command(command, '--resume', run_id)}`." if resumable else "Run it again."
        try:
            with closed_at_end(db, ActiveRun(run_id, directory, recipe, again, dict(summary or {}))) as run:
                yield run
        except UserError:  # a mistake that was found late is no run that `last` should find
            if forget_run(db, run_id):
                shutil.rmtree(directory, ignore_errors=True)
            raise


@contextmanager
def resumed_run(
    db: Database,
    command: str,
    ref: str,
    check: Callable[[ActiveRun], Start] | None = None,
    *,
    patient: bool = False,
) -> Iterator[ActiveRun]:
    """An earlier run of `command`, taken up again under the recipe and the options that it was started with. `check`
    finds where it goes on, or refuses, before anything of the run is changed. `patient`: a process that still works on
    it is about to save and end.
    """
    row = resolve_run(db, ref, command=command)
    directory = Path(row.directory)
    if not directory.is_dir():  # starting over would drop the rows of a run whose checkpoints were only moved
        beside = runs_directory(db) / row.id
        fix = f"Put it back there or beside the database ({beside}), or start a new run."
        if check is None:  # the rows are all that such a run goes on from
            fix = f"Nothing of it is needed: `{shlex.join(['mkdir', '-p', str(beside)])}`, then resume."
        raise UserError(f"The directory of run {row.id} is gone.", row.directory, fix)
    refuse_elsewhere(db, row)
    with locked(directory, f"run {row.id}", SAVE_SECONDS if patient else LOOK_SECONDS):
        row = resolve_run(db, row.id)  # as whoever held the lock has left it
        recipe = stored_recipe(row.recipe_json, row.origin)
        again = f"Continue with `{db.command(command, '--resume', row.id)}`."
        run = ActiveRun(row.id, directory, recipe, again, json.loads(row.summary_json))
        run.start = check(run) if check else None
        reopen_run(db, row)
        with closed_at_end(db, run):
            yield run


def refuse_elsewhere(db: Database, run: RunRow) -> None:
    """UserError where a SQLite file was moved or copied without the run's directory: the one at the old place may be
    that of another database by now, and going on in it would change what the other knows.
    """
    here = runs_directory(db) / run.id
    if db.url.get_backend_name() == "sqlite" and Path(run.directory).resolve() != here:
        copying = f"mkdir -p {shlex.quote(str(here.parent))} && {shlex.join(['cp', '-r', run.directory, str(here)])}"
        fix = f"Copy it beside this one, then resume: `{copying}`."
        raise UserError(f"Run {run.id} lies beside another database.", run.directory, fix)


def note_fingerprint(db: Database, run: ActiveRun, chat: Chat) -> None:
    """Store which tokenizer and chat template the token ids of this run belong to; training on them later compares."""
    run.summary["fingerprint"] = chat.fingerprint
    note_run(db, run.run_id, run.summary)


def note_engine(db: Database, run: ActiveRun, engine: str) -> None:
    """Store what samples for this run. UserError where it began with another engine (`auto` takes what is there), whose
    answers would not go together with these.
    """
    before = run.summary.setdefault("engine", engine)
    if before != engine:
        what = f"Run {run.run_id} began with the engine {before}, and now there is {engine}."
        fix = f"Go on where {before} can be had, or start a new run with --set rollout.engine={engine}."
        raise UserError(what, "rollout.engine: auto", fix)
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
    except (Exception, KeyboardInterrupt) as error:
        if not is_interruption(error):
            raise
        status = "interrupted"
        raise Interrupted("Stopped; what was recorded is safe.", str(run.directory), run.again) from None
    finally:
        with deaf():  # a second Ctrl-C comes quickly
            finish_run(db, run.run_id, status, run.summary)


@contextmanager
def locked(directory: Path, name: str, seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """One process at a time works on a run or a sweep; OWNER says which. Another one is waited for so long."""
    lock, owner = FileLock(directory / LOCK), directory / OWNER
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        where = " by ".join(filter(None, (str(directory), worker(directory))))
        fix = "Wait for it, or end it; then resume."
        raise UserError(f"Another process is working on {name}.", where, fix) from None
    try:
        with suppress(OSError):  # on a full disk
            owner.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def is_alive(run: RunRow) -> bool | None:
    """Whether a process works on a run or a sweep: it holds the lock. None where that cannot be seen from here: the
    directory is elsewhere, or another machine began and its locks may not reach us.
    """
    if run.status != RUNNING:
        return False
    directory = Path(run.directory)
    if not directory.is_dir():
        return None
    try:
        with (directory / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # a file system without locks
        return None
    return False if _owner(directory).get("host") in (None, platform.node()) else None


def status_now(run: RunRow, alive: bool | None) -> str:
    """The status, and `killed` where the database still says `running` but no process works on the run any more.
    `alive` is what `is_alive` said: asked twice, it could contradict itself.
    """
    return KILLED if run.status == RUNNING and alive is False else run.status


def worker(directory: Path) -> str:
    """`process 4711 on HOST` that works on the run or sweep of this directory, as far as it is known."""
    owner = _owner(directory)
    return f"process {owner['pid']} on {owner['host']}" if owner else ""


def _owner(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or just being written
        return {}


def runs_directory(db: Database) -> Path:
    return db.home / "runs"
