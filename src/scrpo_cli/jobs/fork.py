"""`scrpo fork`: a training run branches from a checkpoint of another. Draws depend on (seed, step, purpose, index)
alone, so it goes on exactly as the other did until a changed key makes a difference.

What the other run did until then is copied, rows and files: a fork is a run like any other, whatever becomes of the
run that it came from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError, shown
from scrpo_cli.jobs.runs import ActiveRun
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.forks import copy_past
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import resolve_run, seconds_of, steps_of
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.recipe.shared import shared_keys
from scrpo_cli.tracking.jsonl import FILE_NAME, read_metrics, restore
from scrpo_cli.training import checkpoint
from scrpo_cli.training.resume import Start, chosen, find_start

TEMPORARY = ".tmp-fork"


@dataclass(frozen=True)
class Branch:
    """Where a fork leaves another run: after the step `at` of the run `of`."""

    of: RunRow
    at: int
    seconds: float
    """That its steps have taken until then."""

    @property
    def source(self) -> Path:
        """The checkpoint."""
        return checkpoint.at_step(Path(self.of.directory) / "checkpoints", self.at)

    def recipe(self, sets: Sequence[str] = ()) -> Recipe:
        """Of the run that is left, under the overrides `sets`."""
        return stored_recipe(self.of.recipe_json, self.of.origin, sets)

    def as_dict(self) -> dict[str, Any]:
        return {"fork": {"of": self.of.id, "at": self.at}}


def find_branch(db: Database, ref: str, at: int) -> Branch:
    """UserError where `ref` names no training run, or one that has no intact checkpoint of step `at`."""
    row = resolve_run(db, ref, command="train")
    chosen(Path(row.directory) / "checkpoints", at, "--at")
    return Branch(row, at, seconds_of(step for step in steps_of(db, row.id) if step.step <= at))


def check_fork(branch: Branch, recipe: Recipe) -> None:
    """UserError where `recipe` cannot go on from there: with another model or adapter, under another evaluation than
    the one before training, or with nothing left to do.
    """
    ours, theirs = shared_keys(recipe), shared_keys(branch.recipe())
    if changed := [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]:
        key = changed[0]
        what = f"A fork keeps {key}: {shown(theirs.get(key))} in run {branch.of.id}, not {shown(ours.get(key))}"
        raise UserError(what, key, "Model, adapter and evaluation stay; start a new run with `scrpo train`.")
    done = checkpoint.read_progress(branch.source)
    limits = {"optim.steps": done.step, "optim.max_generated_tokens": done.generated_tokens}
    limits["optim.max_seconds"] = int(branch.seconds)
    for key, spent in limits.items():
        limit = getattr(recipe.optim, key.removeprefix("optim."))
        if limit is not None and spent >= limit:
            what = f"Nothing is left to train: {key} is {limit:,}, and the checkpoint is at {spent:,}"
            raise UserError(what, f"--at {branch.at}", f"Fork from an earlier step, or raise it with --set {key}=...")


def take_up(db: Database, run: ActiveRun, at: int | None = None) -> Start:
    """Where a training run goes on that is taken up again, or a fork that begins: it first gets the past that it does
    not have yet, because it is new or was killed in between. `at`: the step that the user wants to go back to.
    """
    if fork := run.summary.get("fork"):
        if at is not None and at < fork["at"]:
            fix = f"`{db.command('train', '--resume', fork['of'], '--from-checkpoint', str(at))}` goes back there."
            raise UserError(
                f"Run {run.run_id} begins after step {fork['at']} of another", f"--from-checkpoint {at}", fix
            )
        if not steps_of(db, run.run_id):
            give_past(db, run, find_branch(db, fork["of"], fork["at"]))
    return find_start(db, run.run_id, run.directory, run.recipe.checkpoint.every, at)


def give_past(db: Database, run: ActiveRun, branch: Branch) -> None:
    """Checkpoint and metrics first, then the rows in one transaction: without them nothing was begun."""
    root = run.directory / "checkpoints"
    temporary, final = root / TEMPORARY, checkpoint.at_step(root, branch.at)
    for directory in (temporary, final):
        shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(branch.source, temporary)
    _rewrite_state(temporary, branch, run)
    (temporary / checkpoint.MANIFEST).unlink()
    checkpoint.seal(temporary)
    temporary.rename(final)
    (run.directory / FILE_NAME).unlink(missing_ok=True)  # a half copy
    lines = [(row.pop("step"), row) for row in read_metrics(Path(branch.of.directory)) if not _is_last(row)]
    restore(run.directory, lines)  # what is missing comes back from the database
    copy_past(db, branch.of.id, run.run_id, branch.at)


def _is_last(row: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is of the evaluation after training."""
    return bool(row["step"]) and "eval/accuracy" in row


def _rewrite_state(directory: Path, branch: Branch, run: ActiveRun) -> None:
    """A method may keep ids of attempts in its state; another method begins with a state of its own."""
    text = (directory / checkpoint.STATE).read_text(encoding="utf-8")
    state = json.loads(text.replace(f'"{branch.of.id}:', f'"{run.run_id}:'))
    if branch.recipe().method.name != run.recipe.method.name:
        state["method"] = None
    (directory / checkpoint.STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
