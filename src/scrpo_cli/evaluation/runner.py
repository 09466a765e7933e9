"""Evaluate a policy on problems: first answers, and on request second turns and repairs of wrong answers.

Every evaluation of a recipe uses the same random numbers, so that two policies are compared on common draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scrpo_cli.evaluation.changes import changes
from scrpo_cli.evaluation.metrics import repair_rate, summarize, two_turn
from scrpo_cli.methods.filters import is_reasoning_error
from scrpo_cli.recipe.models import Recipe, ReflectionConfig
from scrpo_cli.rollout.base import Engine, Sampling
from scrpo_cli.rollout.chat import Chat, next_turn
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_asks
from scrpo_cli.rollout.prompts import reflection_ask
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Ask, Attempt, AttemptKind, Group, PoolEntry, Problem


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one benchmark (see docs/metrics.md) and every attempt behind them.

    `first` are the groups of first answers. `later` holds what followed each of them, a list for each further turn in
    the order of the first answers; the last one is the second answer.
    """

    metrics: dict[str, Any]
    attempts: list[Attempt]
    first: list[Group] = field(default_factory=list)
    later: list[list[Attempt]] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluator:
    """Who answers, and how: `recipe.eval` says samples, turns, temperature and whether wrong answers are repaired."""

    recipe: Recipe
    engine: Engine
    chat: Chat
    task: Task

    @property
    def sampling(self) -> Sampling:
        cfg = self.recipe.eval
        return Sampling(cfg.temperature, cfg.max_tokens or self.recipe.rollout.max_tokens, cfg.top_p)

    def run(self, problems: Sequence[Problem], prefix: str, name: str) -> Evaluation:
        """First answers to all problems, then what the recipe asks for on top. Attempt ids start with `prefix`."""
        cfg = self.recipe.eval
        first = self.sample([Ask(p, self.task.messages(p), cfg.samples) for p in problems], prefix, name, "first")
        later = self.second_turns(first, prefix, name) if cfg.turns == 2 else []
        metrics, attempts = first_metrics(first), [*flat(first), *(a for turn in later for a in turn)]
        if later:
            metrics |= two_turn_metrics(first, later[-1], self.recipe.task.reflection)
        if cfg.repair:
            repairs, asked = self.repairs(first, later, prefix, name)
            metrics["repair_rate"] = repair_rate(outcomes(first), repaired(first, repairs))
            attempts += repairs if asked else []
        return Evaluation(metrics | {"tokens": count_tokens(attempts)}, attempts, first, later)

    def sample(
        self, asks: Sequence[Ask], prefix: str, name: str, part: str, sampling: Sampling | None = None
    ) -> list[Group]:
        origin = Origin(f"{prefix}:{part}", self.recipe.seed, 0, f"eval:{name}:{part}")
        completions = sample_asks(self.engine, self.chat, asks, sampling or self.sampling, origin)
        return grade_groups(self.task, self.recipe.task.reflection, asks, completions, origin, self.chat.prefill)

    def second_turns(self, first: Sequence[Group], prefix: str, name: str) -> list[list[Attempt]]:
        """What `eval.second_turn` asks after every first answer: one list of attempts for each further turn."""
        cfg = self.recipe.task
        match self.recipe.eval.second_turn:
            case "check":  # without a word on whether it was right (SCoRe)
                asks = follow_ups(first, cfg.check_prompt, AttemptKind.CHECK)
            case "retry":
                asks = follow_ups(first, cfg.retry_prompt, AttemptKind.RETRY)
            case "reflect":
                asks = [reflection_ask(self.task, self.chat, cfg, PoolEntry.of(a), 1) for a in flat(first)]
            case "self_refine":
                asks = follow_ups(first, cfg.feedback_prompt, AttemptKind.FEEDBACK)
                feedback = self.sample(asks, prefix, name, "feedback")
                refine = self.sample(
                    follow_ups(feedback, cfg.refine_prompt, AttemptKind.REFINE), prefix, name, "refine"
                )
                return [flat(feedback), flat(refine)]
        return [flat(self.sample(asks, prefix, name, "second"))]

    def repairs(
        self, first: Sequence[Group], later: Sequence[Sequence[Attempt]], prefix: str, name: str
    ) -> tuple[list[Attempt], bool]:
        """One reflection and correction of every wrong first answer that was not cut off, and whether it was asked
        here: where the second turn reflects on every answer it is the repair.
        """
        errors = [a for a in flat(first) if is_reasoning_error(a) and not a.truncated]
        if later and self.recipe.eval.second_turn == "reflect":
            wrong = {a.id for a in errors}
            return [a for a in later[-1] if a.parent in wrong], False
        asks = [reflection_ask(self.task, self.chat, self.recipe.task, PoolEntry.of(a), 1) for a in errors]
        return flat(self.sample(asks, prefix, name, "repair")) if asks else [], True


def follow_ups(groups: Sequence[Group], prompt: str, kind: AttemptKind) -> list[Ask]:
    """One more turn after every attempt."""
    return [next_turn(g.ask, a, prompt, kind) for g in groups for a in g.attempts]


def first_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    truncated = np.array([[a.truncated for a in g.attempts] for g in groups], dtype=float)
    answers = [[a.grade.extracted for a in g.attempts] for g in groups]
    return summarize(outcomes(groups), truncated, answers)


def two_turn_metrics(first: Sequence[Group], last: Sequence[Attempt], cfg: ReflectionConfig) -> dict[str, Any]:
    """Of first and last answers; of a correction the solution is compared with the first answer, not the analysis."""
    rows = [g.attempts for g in first]
    return two_turn(outcomes(first), like(first, [a.outcome for a in last])) | changes(rows, last, cfg)


def like(groups: Sequence[Group], values: Sequence[float]) -> np.ndarray:
    """(N, K) from one value for each attempt of the groups, in order."""
    return np.array(values, dtype=float).reshape(len(groups), -1)


def outcomes(groups: Sequence[Group]) -> np.ndarray:
    """(N, K) rewards; NaN where the grader failed on an answer."""
    return np.array([[a.outcome for a in g.attempts] for g in groups])


def repaired(first: Sequence[Group], repairs: Sequence[Attempt]) -> np.ndarray:
    """(N, K) outcome of each first answer's repair; NaN where none was tried."""
    by_parent = {a.parent: a.outcome for a in repairs}
    return np.array([[by_parent.get(a.id, np.nan) for a in g.attempts] for g in first])


def flat(groups: Sequence[Group]) -> list[Attempt]:
    return [a for g in groups for a in g.attempts]


def count_tokens(attempts: Sequence[Attempt]) -> int:
    return sum(len(a.completion.ids) for a in attempts)
