"""Where a run that is taken up again goes on: its checkpoints, the database and metrics.jsonl against each other.

A kill can cost the steps since the last multiple of `checkpoint.every`, and never more. Whatever else is missing was
lost in another way, and nothing is dropped for it unless the user says how far to go back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import StepMetrics, evaluations_of, steps_of, tokens_of_steps
from scrpo_cli.tracking.jsonl import TOKENS, read_metrics, restore
from scrpo_cli.training import checkpoint
from scrpo_cli.training.health import evaluation_metrics


@dataclass(frozen=True)
class Start:
    """From which checkpoint a run goes on (None: from its beginning), and which ones it had to pass over, and why."""

    checkpoint: Path | None = None
    damaged: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return checkpoint.step_of(self.checkpoint) if self.checkpoint else 0


def find_start(db: Database, run_id: str, directory: Path, every: int, at: int | None = None) -> Start:
    """The newest intact checkpoint, or that of step `at` (0: the beginning), which the user chose to go back to.

    Changes nothing. UserError where more would be lost than a kill can explain, where the database and the checkpoint
    do not go together, and where the checkpoint is of another version.
    """
    root = directory / "checkpoints"
    steps = steps_of(db, run_id)
    recorded = max((s.step for s in steps), default=0)
    whole = whole_until(steps, tokens_of_steps(db, run_id))
    found, damaged = checkpoint.newest(root)
    start = Start(found, tuple(f"{path.name}: {why}" for path, why in damaged.items()))
    back = partial(go_back, db, run_id, root, min(recorded, whole))
    if at is not None:
        start = chosen(root, at)
    else:
        refuse_losses(run_id, root, start, recorded, every, back)
    if start.step > whole:
        what = f"The database lacks answers or metrics that run {run_id} has given until its checkpoint"
        fix = f"Put the database back that belongs to the run. {back()}"
        raise UserError(f"{what} of step {start.step}: step {whole + 1} is not whole.", db.where, fix)
    if start.checkpoint:
        refuse_foreign(db, run_id, start.checkpoint)
    return start


def newest_adapter(db: Database, run: RunRow) -> Path:
    """The run's newest checkpoint; UserError where it has none, or the newest is damaged or another run's: an older
    adapter is another result.
    """
    found, damaged = checkpoint.newest(Path(run.directory) / "checkpoints")
    if damaged:
        path, why = next(iter(damaged.items()))
        fix = f"`{db.command('train', '--resume', run.id)}` makes it anew"
        fix += f", or take an older one as --adapter {found}" if found else ""
        raise UserError(f"The newest checkpoint of run {run.id} is damaged: {why}.", str(path), f"{fix}.")
    if found is None:
        raise UserError(f"Run {run.id} has no complete checkpoint.", run.directory, "Resume it, or name another run.")
    refuse_foreign(db, run.id, found)
    return found


def refuse_foreign(db: Database, run_id: str, directory: Path) -> None:
    """UserError where an intact checkpoint is not one that the run has written, as where the directories of two runs
    were exchanged: hardly two runs have generated the same number of tokens.
    """
    found = checkpoint.read_progress(directory)
    recorded = {s.step: s.metrics.get(TOKENS) for s in steps_of(db, run_id)}.get(found.step)
    if found.generated_tokens != recorded:
        counts = f"it counts {found.generated_tokens} generated tokens after step {found.step}"
        known = "does not know that step" if recorded is None else f"{recorded:.0f}"
        what = f"The checkpoint is not as run {run_id} wrote it: {counts}, the database {known}."
        command = db.command("train", "--resume", run_id, "--from-checkpoint", "0")
        raise UserError(what, str(directory), f"Put the run's own files back. Or start it over: `{command}`.")


def refuse_losses(run_id: str, root: Path, start: Start, recorded: int, every: int, back: Callable[[], str]) -> None:
    """UserError where the checkpoints are not those of a run that was killed after `recorded` steps."""
    latest = max(map(checkpoint.step_of, checkpoint.checkpoints(root)), default=0)
    if latest > recorded:
        what = f"The checkpoint of step {latest} is newer than the database, which knows {recorded} steps of run"
        fix = f"Put the database back that belongs to it (this one is a copy, or rows were deleted). {back()}"
        raise UserError(f"{what} {run_id}.", str(root), fix)
    if start.step < (recorded - 1) // every * every:  # a checkpoint of that step was there before the last one began
        held = f"the newest intact checkpoint is of step {start.step}" if start.step else "no checkpoint is intact"
        passed = f" ({'; '.join(start.damaged)})" if start.damaged else ""
        what = f"Run {run_id} has recorded {recorded} steps, and {held}{passed}."
        raise UserError(what, str(root), f"Put its files back from a copy. {back()}")


def chosen(root: Path, at: int, option: str = "--from-checkpoint") -> Start:
    """The start that the user's `option` names."""
    if at == 0:
        return Start()
    why = checkpoint.damage(checkpoint.at_step(root, at))
    if why is not None:
        intact = [str(checkpoint.step_of(p)) for p in checkpoint.complete_checkpoints(root)]
        fix = f"There is one of step {', '.join(intact)}; 0 is the beginning." if intact else "0 is the beginning."
        raise UserError(f"There is no intact checkpoint of step {at}: {why}.", f"{option} {at}", fix)
    return Start(checkpoint.at_step(root, at))


def go_back(db: Database, run_id: str, root: Path, step: int) -> str:
    """How to say that the steps after the newest intact checkpoint up to `step` may be dropped."""
    intact = map(checkpoint.step_of, checkpoint.complete_checkpoints(root))
    target = max((each for each in intact if each <= step), default=0)
    command = db.command("train", "--resume", run_id, "--from-checkpoint", str(target))
    return f"Or drop what came after step {target}: `{command}`." if target else f"Or start it over: `{command}`."


def whole_until(steps: list[StepMetrics], tokens: Mapping[int, int]) -> int:
    """The last step up to which the database has every step with all of its answers: their tokens add up."""
    total = 0
    for expected, step in enumerate(steps, start=1):
        total += tokens.get(expected, 0)
        if step.step != expected or step.metrics.get(TOKENS) != total:
            return expected - 1
    return len(steps)


def restore_metrics(db: Database, run_id: str, directory: Path, until: int) -> int:
    """Put the lines that metrics.jsonl lacks up to step `until` back from the database; how many there were."""
    rows = read_metrics(directory)
    there = {row["step"] for row in rows if TOKENS in row}
    lost = [(s.step, dict(s.metrics)) for s in steps_of(db, run_id) if s.step <= until and s.step not in there]
    for each in evaluations_of(db, run_id):
        kind = "eval" if each.label in ("before", "after") else "validation"
        if each.step <= until and not any(row["step"] == each.step and f"{kind}/accuracy" in row for row in rows):
            lost.append((each.step, dict(evaluation_metrics(each.metrics, kind))))
    if lost:
        restore(directory, lost)
    return len(lost)
