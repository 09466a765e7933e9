"""Evaluate a policy on problems: first answers, and on request second turns and repairs of wrong answers.

Every evaluation of a recipe uses the same random numbers, so that two policies are compared on common draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.evaluation.metrics import repair_rate, summarize, two_turn
from scrpo_cli.methods.filters import is_reasoning_error
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import Engine, Sampling
from scrpo_cli.rollout.chat import Chat, next_turn
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_asks
from scrpo_cli.rollout.prompts import reflection_ask
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Ask, Attempt, Group, PoolEntry, Problem


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one benchmark (see docs/metrics.md) and every attempt behind them."""

    metrics: dict[str, Any]
    attempts: list[Attempt]


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
        asks = [Ask(p, self.task.messages(p), cfg.samples) for p in problems]
        first = self.sample(asks, prefix, name, "first")
        metrics, attempts = first_metrics(first), flat(first)
        if cfg.turns == 2:
            second = self.second_turns(first, prefix, name)
            metrics |= two_turn(outcomes(first), np.array([a.outcome for a in second]).reshape(len(first), -1))
            attempts += second
        if cfg.repair:
            repairs = self.repairs(first, prefix, name)
            metrics["repair_rate"] = repair_rate(outcomes(first), repaired(first, repairs))
            attempts += flat(repairs)
        return Evaluation(metrics | {"tokens": sum(len(a.completion.ids) for a in attempts)}, attempts)

    def sample(self, asks: Sequence[Ask], prefix: str, name: str, part: str) -> list[Group]:
        origin = Origin(f"{prefix}:{part}", self.recipe.seed, 0, f"eval:{name}:{part}")
        completions = sample_asks(self.engine, self.chat, asks, self.sampling, origin)
        return grade_groups(self.task, self.recipe.task.reflection, asks, completions, origin, self.chat.prefill)

    def second_turns(self, first: Sequence[Group], prefix: str, name: str) -> list[Attempt]:
        """One second turn of every first answer, without a word on whether it was right (SCoRe)."""
        asks = [next_turn(g.ask, a, self.recipe.task.check_prompt) for g in first for a in g.attempts]
        return flat(self.sample(asks, prefix, name, "second"))

    def repairs(self, first: Sequence[Group], prefix: str, name: str) -> list[Group]:
        """One reflection and correction of every wrong first answer that was not cut off."""
        errors = [PoolEntry.of(a) for a in flat(first) if is_reasoning_error(a) and not a.truncated]
        asks = [reflection_ask(self.task, self.chat, self.recipe.task, e, 1) for e in errors]
        return self.sample(asks, prefix, name, "repair") if asks else []


def first_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    truncated = np.array([[a.truncated for a in g.attempts] for g in groups], dtype=float)
    answers = [[a.grade.extracted for a in g.attempts] for g in groups]
    return summarize(outcomes(groups), truncated, answers)


def outcomes(groups: Sequence[Group]) -> np.ndarray:
    """(N, K) rewards; NaN where the grader failed on an answer."""
    return np.array([[a.outcome for a in g.attempts] for g in groups])


def repaired(first: Sequence[Group], repairs: Sequence[Group]) -> np.ndarray:
    """(N, K) outcome of each first answer's repair; NaN where none was tried."""
    by_parent = {a.parent: a.outcome for a in flat(repairs)}
    return np.array([[by_parent.get(a.id, np.nan) for a in g.attempts] for g in first])


def flat(groups: Sequence[Group]) -> list[Attempt]:
    return [a for g in groups for a in g.attempts]
