"""What every command that samples needs: a policy, an engine over it, its chat template and the task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import Engine, RowKey, Sampling
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.engines import open_engine
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_requests
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.base import Task
from scrpo_cli.tracking.activity import now
from scrpo_cli.training.packing import seat
from scrpo_cli.training.policy import Policy, load_policy, source_of
from scrpo_cli.training.probe import Probe
from scrpo_cli.types import Completion, Group, SampleRequest


@dataclass
class Runtime:
    """A recipe with its policy loaded; use it as a context manager."""

    recipe: Recipe
    policy: Policy
    engine: Engine
    chat: Chat
    task: Task
    probe: Probe | None
    """Of an engine with weights of its own."""

    def sync(self) -> dict[str, float]:
        """Give the engine the policy's weights, and see that it has them."""
        done = self.engine.sync()
        if self.probe is None:
            return {}
        return {"sync/bytes": done.bytes, "sync/seconds": done.seconds} | self.probe.check()

    def sample_with(self, engine: Engine) -> None:
        """With this engine from here on, once it is seen to have the policy's weights."""
        self.engine, self.probe = engine, probe_of(engine, self.policy, self.recipe)
        self.sync()

    @property
    def sampling(self) -> Sampling:
        """How training (and `collect`, which feeds it) samples."""
        return Sampling(self.recipe.rollout.temperature, self.recipe.rollout.max_tokens)

    def answer(self, requests: Sequence[SampleRequest], origin: Origin, known: dict[RowKey, Completion]) -> list[Group]:
        """Sampled and graded as in training, but for what is `known` (`sample_requests`)."""
        completions = sample_requests(self.engine, self.chat, requests, self.sampling, origin, known)
        cfg = self.recipe.task.reflection
        return grade_groups(self.task, cfg, requests, completions, origin, self.chat.prefill)

    def stamp(self, step: int) -> dict[str, Any]:
        """What the answers of a step that is now sampled depend on, beside their row keys and prompts."""
        return {
            "step": step,
            "policy_version": self.policy.version,
            "adapter_sha256": self.policy.adapter_hash(),
            "recipe_sha256": hashlib.sha256(self.recipe.model_dump_json().encode()).hexdigest(),
            "engine": self.engine.name,
            "scrpo_version": version("scrpo-cli"),
        }

    def parts(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(Runtime)}

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.task.close()


def open_runtime(recipe: Recipe, run: str = "scrpo") -> Runtime:
    """Load what the recipe names, for this run. The task comes first: a missing data set shows before a large model is
    loaded.
    """
    task = make_task(recipe.task)
    now().stage(f"loading the model {recipe.model.name}")
    packed = seat()
    policy = packed.policy(recipe) if packed else load_policy(recipe.model, recipe.seed)
    opened = packed.engine if packed else open_engine
    engine = opened(recipe.rollout, policy, source_of(recipe.model), run)
    runtime = Runtime(recipe, policy, engine, Chat(policy.tokenizer), task, probe_of(engine, policy, recipe))
    try:
        runtime.sync()
    except BaseException:
        runtime.__exit__()
        raise
    return runtime


def probe_of(engine: Engine, policy: Policy, recipe: Recipe) -> Probe | None:
    return Probe(engine, policy, recipe.rollout.temperature) if engine.has_own_weights else None
