"""Everything that a training run holds, and how it is put together or taken up again."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.runner import Evaluator
from scrpo_cli.methods.base import Method
from scrpo_cli.methods.make import make_method
from scrpo_cli.pool.db import Database
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import Engine, Sampling
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.prompts import TaskPrompts, check_prompt_budget
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.base import Task
from scrpo_cli.tracking.tracker import Tracker
from scrpo_cli.training import checkpoint
from scrpo_cli.training.checkpoint import Progress
from scrpo_cli.training.policy import Policy, load_policy
from scrpo_cli.training.update import Updater
from scrpo_cli.types import Problem

if TYPE_CHECKING:
    from scrpo_cli.tracking.tracker import HasConsole


@dataclass
class Stop:
    """Set by SIGINT or SIGTERM: the step in hand is finished and saved. A second signal ends at once."""

    asked: bool = False

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        def handler(signum: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, old in before.items():
                signal.signal(signum, old)


@dataclass
class Session:
    """A run in memory. `pool` is the name of its own error pool, so that runs side by side do not mix."""

    recipe: Recipe
    db: Database
    run_id: str
    directory: Path
    policy: Policy
    engine: Engine
    chat: Chat
    task: Task
    method: Method
    updater: Updater
    evaluator: Evaluator
    tracker: Tracker
    progress: Progress
    stop: Stop = field(default_factory=Stop)

    @property
    def pool(self) -> str:
        return self.run_id

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.recipe.rollout.temperature, self.recipe.rollout.max_tokens)

    @property
    def finished(self) -> bool:
        budget = self.recipe.optim.max_generated_tokens
        spent = budget is not None and self.progress.generated_tokens >= budget
        return spent or self.progress.step >= self.recipe.optim.steps

    def benchmark(self) -> tuple[str, Sequence[Problem]] | None:
        """What is evaluated before the first and after the last step: task.test, else task.validation."""
        return self.problems_of("test") or self.problems_of("validation")

    def problems_of(self, split: str) -> tuple[str, Sequence[Problem]] | None:
        cfg = self.recipe.task.test if split == "test" else self.recipe.task.validation
        if cfg is None:
            return None
        limit = self.recipe.eval.limit
        return split, self.task.problems(cfg)[: limit or len(self.task.problems(cfg))]

    def save(self) -> Path:
        self.progress.policy_version = self.policy.version
        self.progress.method = self.method.state
        self.progress.adapter_sha256 = self.policy.adapter_hash()
        cfg = self.recipe.checkpoint
        return checkpoint.save(self.checkpoints, self.progress, self.policy, self.updater.optimizer, cfg.keep)

    def close(self) -> None:
        self.engine.close()
        self.task.close()


def open_session(
    recipe: Recipe, db: Database, run_id: str, directory: Path, *, resume: bool, console: HasConsole | None
) -> Session:
    """Load the model, check the data against the prompt budget and, to resume, put the newest checkpoint in place.

    Rows and metrics beyond that checkpoint are dropped, so that no step is counted twice and none is missing.
    """
    from scrpo_cli.pool.queries import rewind

    task = make_task(recipe.task)
    problems = task.problems(recipe.task.train)
    policy = load_policy(recipe.model, recipe.seed)
    chat = Chat(policy.tokenizer)
    check_prompt_budget(recipe, task, chat, problems)
    check_context(recipe, policy)
    engine = TransformersEngine(policy.model, policy.tokenizer, recipe.rollout.batch_size)
    method = make_method(recipe, TaskPrompts(recipe, task, chat, problems))
    updater = Updater(policy, recipe)
    newest = checkpoint.newest(directory / "checkpoints") if resume else None
    progress = checkpoint.load(newest, policy, updater.optimizer) if newest else Progress()
    method.state |= progress.method
    engine.sync(policy.version)
    rewind(db, run_id, progress.step if newest else -1)
    tracker = Tracker.open(
        directory, run_id, recipe, resume_step=(progress.step if newest else -1) if resume else None, console=console
    )
    evaluator = Evaluator(recipe, engine, chat, task)
    return Session(
        recipe, db, run_id, directory, policy, engine, chat, task, method, updater, evaluator, tracker, progress
    )


def check_context(recipe: Recipe, policy: Policy) -> None:
    """A reflection prompt holds the problem and an earlier answer: prompt + answer + completion must fit the model."""
    limit = getattr(policy.model.config, "max_position_embeddings", None)
    shown = min(recipe.rollout.max_tokens, recipe.task.reflection.tail_tokens)
    if recipe.task.reflection.show == "full":
        shown = recipe.rollout.max_tokens
    need = recipe.task.max_prompt_tokens + shown + recipe.rollout.max_tokens
    if limit is not None and need > limit:
        raise UserError(
            f"A reflection may need {need} tokens and the model has {limit} positions.",
            "task.max_prompt_tokens + what is shown of the earlier answer + rollout.max_tokens",
            "Lower task.max_prompt_tokens, rollout.max_tokens or task.reflection.tail_tokens.",
        )
