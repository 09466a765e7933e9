"""Everything that a training run holds, and how it is put together or taken up again."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.evaluation.runner import Evaluator
from scrpo_cli.methods.base import Library, Method, MethodContext, Needs
from scrpo_cli.methods.registry import NAMES, make_method
from scrpo_cli.methods.scrpo import InjectionConfig
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_by_id, attempts_of, resolve_run, rewind
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.injection import ErrorInjector
from scrpo_cli.rollout.prompts import TaskPrompts, check_context, check_prompt_budget
from scrpo_cli.tasks.guard import unreadable_references
from scrpo_cli.tracking.activity import now
from scrpo_cli.tracking.tracker import HasConsole, Tracker
from scrpo_cli.tracking.wandb_sink import Place
from scrpo_cli.training import checkpoint, half_step
from scrpo_cli.training.checkpoint import Progress
from scrpo_cli.training.helping import SharedEngine, SharedUpdater
from scrpo_cli.training.packing import seat
from scrpo_cli.training.resume import Start, restore_metrics
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.training.scorer import sampled_otherwise
from scrpo_cli.training.stop import Stop
from scrpo_cli.training.team import Team
from scrpo_cli.training.update import Updater
from scrpo_cli.types import Attempt, Problem


class RunLibrary:
    """The database as a training run sees it: recorded attempts, for methods that learn from a fixed set."""

    def __init__(self, db: Database, run_id: str, fingerprint: str) -> None:
        self.db, self.run_id, self.fingerprint = db, run_id, fingerprint

    def attempts(self, runs: Sequence[str], texts_only: bool = False) -> list[Attempt]:
        """Attempts of the named runs (ids or unique prefixes), or of this run; never answers to a benchmark."""
        rows = [resolve_run(self.db, ref) for ref in runs]
        for row in rows if not texts_only else ():
            self.check_fingerprint(row.id, json.loads(row.summary_json).get("fingerprint"))
        ids = [row.id for row in rows] or [self.run_id]
        return [a for run_id in ids for a in attempts_of(self.db, run_id, evaluations=False)]

    def by_id(self, ids: Sequence[str]) -> list[Attempt]:
        """Attempts of earlier steps, in this order."""
        found = attempts_by_id(self.db, ids)
        return [found[each] for each in ids]

    def check_fingerprint(self, run_id: str, found: str | None) -> None:
        """Token ids mean something under one tokenizer and chat template only."""
        if found is None:
            what = f"run {run_id} does not say which tokenizer its answers have; they are taken as they are"
            warnings.warn(what, stacklevel=2)
        elif found != self.fingerprint:
            what = (
                f"The answers of run {run_id} were sampled with another tokenizer or template than run {self.run_id}'s."
            )
            fix = f"Name runs of the same model, or collect its answers anew with `{self.db.command('collect')}`."
            raise UserError(what, "method.runs or method.offline_run", fix)


@dataclass
class Session(Runtime):
    """A training run in memory. `pool` is the name of its own error pool, so that runs side by side do not mix."""

    db: Database
    run_id: str
    directory: Path
    method: Method
    needs: Needs
    updater: Updater
    evaluator: Evaluator
    tracker: Tracker
    progress: Progress
    positions: int | None
    """How long a sequence the model can take."""
    again: str
    """How to go on after an interruption."""
    stop: Stop = field(default_factory=Stop)
    seconds: float = 0.0
    """That its steps have taken; the database knows it, and no checkpoint, as no two runs take alike."""
    saved: Path | None = None
    """The newest checkpoint of this session."""

    @property
    def pool(self) -> str:
        return self.run_id

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def finished(self) -> bool:
        optim, progress = self.recipe.optim, self.progress
        late = optim.max_seconds is not None and self.seconds >= optim.max_seconds
        return self.method.is_finished(self.tokens_left <= 0) or progress.step >= optim.steps or late

    @property
    def tokens_left(self) -> float:
        """Of the budget of generated tokens; infinite without one."""
        budget = self.recipe.optim.max_generated_tokens
        return float("inf") if budget is None else budget - self.progress.generated_tokens

    def benchmark(self) -> tuple[str, Sequence[Problem]] | None:
        """What is evaluated before the first and after the last step: task.test, else task.validation."""
        return self.problems_of("test") or self.problems_of("validation")

    def problems_of(self, split: str) -> tuple[str, Sequence[Problem]] | None:
        return held_out_problems(self, split)

    def step_is_done(self, step: int, generated_tokens: int, seconds: float) -> None:
        """The state of the method is that at the end of a step: planning the next one may change it."""
        self.progress.step, self.progress.generated_tokens = step, generated_tokens
        self.seconds += seconds
        self.progress.method = copy.deepcopy(self.method.state)
        half_step.drop(self.directory)

    def save(self) -> Path:
        self.progress.policy_version = self.policy.version
        self.progress.adapter_sha256 = self.policy.adapter_hash()
        state = (self.progress, self.policy, self.updater.optimizer)
        self.saved = checkpoint.save(self.checkpoints, *state, self.recipe.checkpoint.keep, self.again)
        return self.saved

    def mend(self, until: int) -> None:
        """Make anew what was deleted of the run's directory while the run went on: the lines of metrics.jsonl up to
        step `until`, from the database, and a checkpoint of now. A line says so.
        """
        file = self.tracker.file
        in_place = file is None or file.is_in_place()
        if in_place and (self.saved is None or self.saved.is_dir()):
            return
        if file is not None and not in_place:
            restore_metrics(self.db, self.run_id, self.directory, until)
            file.reopen()
        if self.progress.step:
            self.save()
        lost = f"warning: metrics.jsonl or checkpoints were deleted from {self.directory} while the run went on"
        self.tracker.event(f"{lost}; they were made anew after step {self.progress.step} (older checkpoints are gone)")


def open_session(
    recipe: Recipe,
    db: Database,
    run_id: str,
    directory: Path,
    *,
    start: Start | None,
    again: str = "",
    console: HasConsole | None = None,
    team: Team | None = None,
) -> Session:
    """Load the model, check the data against the prompt budget and, to resume from a `start`, put its checkpoint in
    place. The processes of a `team` sample and train with this one.

    Rows, metrics and checkpoints beyond that are dropped, so that no step is counted twice and none is missing.
    """
    runtime = open_runtime(recipe, run_id)
    positions = getattr(runtime.policy.model.config, "max_position_embeddings", None)
    protocol = Protocol.of(recipe)
    problems, unread = checked_problems(runtime, protocol, positions)
    library = RunLibrary(db, run_id, runtime.chat.fingerprint)
    method = make_method(recipe.method, method_context(runtime, problems, library))
    parts = (runtime.policy, recipe, sampled_otherwise(runtime.engine.name, runtime.policy))
    updater = Updater(*parts) if team is None else SharedUpdater(*parts, team)
    progress = Progress()
    if start and start.checkpoint:
        progress = checkpoint.load(start.checkpoint, runtime.policy, updater.optimizer)
        take_up_state(method, recipe, progress, start.checkpoint)
    if isinstance(updater, SharedUpdater):
        updater.announce()
        runtime.sample_with(SharedEngine(runtime.engine, runtime.policy, updater.team))
    elif progress.step:
        runtime.sync()
    progress.method = copy.deepcopy(method.state)
    reached = progress.step if start else -1  # without a checkpoint, what was evaluated before the first step stays
    checkpoint.drop_after(directory / "checkpoints", reached)  # before the rows: what is newer than they is refused
    rewind(db, run_id, reached)
    restored = restore_metrics(db, run_id, directory, reached)
    row, resumed_at = resolve_run(db, run_id), reached if start else None
    place = Place(row.sweep, row.arm or row.command)
    tracker = Tracker.open(directory, run_id, recipe, resume_step=resumed_at, console=console, place=place)
    for line in unread:
        tracker.event(line)
    if start:
        for line in start.damaged:
            tracker.event(f"warning: passed over a damaged checkpoint, which will be made anew: {line}")
        if restored:
            tracker.event(f"warning: {restored} lines of metrics.jsonl were missing; they came from the database")
        tracker.event(f"Resumed {run_id} at step {progress.step} ({progress.generated_tokens:,} tokens generated).")
    return Session(
        **runtime.parts(),
        db=db,
        run_id=run_id,
        directory=directory,
        method=method,
        needs=recipe.method.needs(method.setting),
        updater=updater,
        evaluator=Evaluator(protocol, runtime.engine, runtime.chat, runtime.task),
        tracker=tracker,
        progress=progress,
        positions=positions,
        again=again,
        saved=start.checkpoint if start else None,
        stop=packed.stop if (packed := seat()) else Stop(),
    )


def checked_problems(
    runtime: Runtime, protocol: Protocol, positions: int | None
) -> tuple[Sequence[Problem], list[str]]:
    """The training problems, and a line for each set whose references cannot all be read. Raises UserError where the
    prompts of any set are too long.
    """
    now().stage("reading the problems", at_once=False)
    recipe, task, chat = runtime.recipe, runtime.task, runtime.chat
    problems = task.problems(recipe.task.train)
    unread = unreadable_references(task, problems, "task.train")
    check_prompt_budget(recipe.task, task, chat, problems)
    check_context(recipe, chat, positions)
    for name, found in filter(None, (held_out_problems(runtime, split) for split in ("test", "validation"))):
        unread += unreadable_references(task, found, f"task.{name}")
        if positions is not None:  # before training, not at its first evaluation
            protocol.check_length(f"task.{name}", task, chat, found, positions)
    return problems, unread


def take_up_state(method: Method, recipe: Recipe, progress: Progress, directory: Path) -> None:
    """Give the method the state of a checkpoint, in the words of this version. Methods of one's own may put into their
    state what they like; UserError where one of ours would begin anew with what it does not find there. A fork under
    another method (no state) does begin anew.
    """
    if progress.method is None:
        return
    state = {method.renamed_state.get(key, key): value for key, value in progress.method.items()}
    if recipe.method.name in NAMES:
        unknown, absent = state.keys() - method.state, method.state.keys() - state
        checkpoint.check_keys(directory, asdict(progress), unknown, absent, "method.")
    method.state |= state


def held_out_problems(runtime: Runtime, split: str) -> tuple[str, Sequence[Problem]] | None:
    """task.test or task.validation by its name, cut at `eval.limit`; None where the recipe has none."""
    cfg = runtime.recipe.task.test if split == "test" else runtime.recipe.task.validation
    return None if cfg is None else (split, runtime.task.problems(cfg)[: runtime.recipe.eval.limit])


def method_context(runtime: Runtime, problems: Sequence[Problem], library: Library) -> MethodContext:
    """What the recipe's method is given."""
    recipe, task, chat = runtime.recipe, runtime.task, runtime.chat
    setting = recipe.setting(chat.follow_up_tokens)

    def injector(cfg: InjectionConfig) -> ErrorInjector:
        return ErrorInjector(cfg, task, chat, problems, library, setting.max_tokens, setting.seed)

    return MethodContext(setting, TaskPrompts(recipe, task, chat, problems), library, injector)
