"""What the tokens of a recorded training step earned, and what they would have earned under another method.

The groups are put together again as they were recorded, and the methods' own `credit` is asked: no formula stands here.
Recomputed credit of the method that trained is checked against what the run recorded of the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scrpo_cli.errors import ScrpoError
from scrpo_cli.methods.base import Credits, Method, MethodContext, PhaseKind
from scrpo_cli.methods.registry import NAMES, make_method, method_class
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import StepMetrics, attempts_by_id, attempts_of
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.prompts import TaskPrompts
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Attempt, AttemptKind, Credit, Group, PoolEntry, SampleRequest

COMPARING = {PhaseKind.FIRST_ANSWERS, PhaseKind.REFLECTION, PhaseKind.JOINT}
"""Phases whose credit is a comparison inside groups of answers to one prompt, whatever the prompt was."""
Rows = dict[str, Credit]
"""The credit of each attempt of a step, by its id."""


class NothingToSample:
    """Stands for a run's library and injector: credit of what was recorded asks for neither."""

    def attempts(self, runs: Sequence[str], texts_only: bool = False) -> Sequence[Attempt]:
        return ()

    def by_id(self, ids: Sequence[str]) -> Sequence[Attempt]:
        return ()

    def inject(self, step: int, groups: Sequence[Group], count: int) -> list[Attempt]:
        return []


class Crediting:
    """The methods in the setting of one run: its own as its recipe has it, all others with their defaults."""

    def __init__(self, recipe: Recipe, task: Task, chat: Chat) -> None:
        self.own_name, self.setting = recipe.method.name, recipe.setting(chat.follow_up_tokens)
        self.prompts = TaskPrompts(recipe, task, chat, ())
        nothing = NothingToSample()
        context = MethodContext(self.setting, self.prompts, nothing, lambda cfg: nothing)
        self.own_phases = recipe.method.needs(self.setting).phases
        self.methods: dict[str, Method[Any]] = {self.own_name: make_method(recipe.method, context)}
        self.kinds = {self.own_name: {phase.kind for phase in self.own_phases.values()}}
        for name in NAMES:
            if name != self.own_name:
                self.add_other(name, context)

    def add_other(self, name: str, context: MethodContext) -> None:
        """Another method, if it goes with the run's setting and compares what it samples."""
        cfg = method_class(name).Config()
        try:
            kinds = {phase.kind for phase in cfg.needs(self.setting).phases.values()}
            method = make_method(cfg, context)
        except (ValueError, ScrpoError):  # it refuses this setting, as it would refuse to train in it
            return
        if kinds & (COMPARING | {PhaseKind.CONVERSATION}):
            self.methods[name], self.kinds[name] = method, kinds

    @property
    def own(self) -> Method[Any]:
        """The method that trained the run."""
        return self.methods[self.own_name]

    def credit(
        self, groups: Sequence[Group], step: StepMetrics, log_ratios: Sequence[np.ndarray] | None
    ) -> dict[str, tuple[Credits, Rows]]:
        """By method, where it can be told; of the run's own only where it is what the run recorded."""
        found = {}
        for name, method in self.methods.items():
            if self.says_something(name, groups, step) and (log_ratios or not method.uses_log_ratios):
                credits = method.credit(groups, log_ratios if method.uses_log_ratios else None)
                attempts = [a for group in groups for a in group.attempts]
                found[name] = credits, {a.id: row for a, row in zip(attempts, credits.rows, strict=True)}
        if self.own_name in found and not agrees(found[self.own_name][0], step):
            del found[self.own_name]
        return found

    def says_something(self, name: str, groups: Sequence[Group], step: StepMetrics) -> bool:
        """Whether the method has credit for such groups, and what it depends on beside them is known."""
        if name == self.own_name:
            phase = self.own_phases.get(step.phase)
            collected = phase is None or phase.kind is PhaseKind.COLLECTION
            return not collected and self.methods[name].recall(step.metrics)
        if any(group.request.previous for group in groups):
            return PhaseKind.CONVERSATION in self.kinds[name] and self.methods[name].recall(step.metrics)
        return bool(self.kinds[name] & COMPARING)


def agrees(credits: Credits, step: StepMetrics) -> bool:
    """Whether as many tokens are trained as the run has recorded of this step."""
    trained = sum(int(row.mask_T.sum()) for row in credits.rows)
    return trained == step.metrics.get("train/tokens")


def recorded_groups(db: Database, run_id: str, step: int, phase: str, prompts: TaskPrompts) -> list[Group]:
    """The groups of a training step as the method saw them, in their order."""
    attempts = attempts_of(db, run_id, evaluations=False, step=step, phase=phase)
    parents = attempts_by_id(db, sorted({a.parent for a in attempts if a.parent}))
    by_group: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda a: (a.group, a.sample)):
        by_group[attempt.group].append(attempt)
    return [Group(request_of(group, parents, prompts), group) for group in by_group.values()]


def request_of(group: Sequence[Attempt], parents: Mapping[str, Attempt], prompts: TaskPrompts) -> SampleRequest:
    """What the attempts of a group answered. A parent that this database does not hold is known by its id alone."""
    first = group[0]
    if first.kind is AttemptKind.FIRST:
        return prompts.first(first.problem, len(group))
    before = parents.get(first.parent or "")
    if first.kind is AttemptKind.CORRECTION:
        entry = PoolEntry.of(before) if before else PoolEntry(first.parent or "", first.problem, "", None, 0)
        return prompts.reflection(entry, len(group))
    return SampleRequest(first.problem, (), len(group), first.kind, previous=before)
