"""Methods that fit a fixed set of examples: sample with the current policy, build examples, fit them, and again.

    repeat `iterations` times:
        sample first answers (or what the method asks) until the round's share of the tokens is spent
        examples = what the method makes of the attempts
        `epochs` passes over the examples in batches, one optimizer step each

The attempts come from the database, so the data of other runs serves as well (`runs`), and a killed run goes on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from pydantic import Field

from scrpo_cli.errors import RunError
from scrpo_cli.methods.base import (
    ClipConfig,
    Credits,
    Fitting,
    Method,
    MethodConfig,
    MethodContext,
    Needs,
    Phase,
    PhaseKind,
    Plan,
    PoolChange,
    Setting,
    completions_of,
    flat_credit,
)
from scrpo_cli.methods.parts.kl import LogRatios
from scrpo_cli.rng import generator
from scrpo_cli.section import PositiveInt
from scrpo_cli.types import Attempt, AttemptKind, FinishReason, Group, PoolEntry, Problem, SampleRequest

Key = tuple[str, str]
Example = Sequence[Attempt]
"""Attempts that are fitted together: one to imitate, or a chosen and a rejected one."""


class OfflineConfig(MethodConfig):
    """What methods share that fit a fixed set: they sample it first (or take it from `runs`), then fit it."""

    runs: list[str] = Field(default_factory=list)
    """Runs whose recorded attempts are the data; none: the run samples its own, with the budget of tokens."""
    iterations: PositiveInt = 1
    """Rounds of sampling with the current policy and fitting; each has an equal share of the tokens."""
    epochs: PositiveInt = 2
    """Passes over the examples of a round [I]."""
    batch: PositiveInt = 64
    """Examples (pairs for dpo) of one optimizer step [I]."""
    per_problem: PositiveInt = 4
    """At most so many examples of one problem, drawn uniformly [I]."""

    def offline_needs(self, setting: Setting, turns: int = 1) -> Needs:
        """Of a method that samples conversations of so many answers, or fits them."""
        if not self.runs and setting.token_budget is None:
            what = f"{self.name} samples its examples first: give optim.max_generated_tokens"
            raise ValueError(f"{what}, or runs in method.runs")
        collect = Phase(PhaseKind.COLLECTION, setting.first_rollouts * turns)
        fit = Phase(PhaseKind.FIT, 0)
        return Needs({"collect": collect, "fit": fit}, turns, setting.conversation_context(turns))

    @property
    def fitting(self) -> Fitting:
        return Fitting(self.epochs, self.batch)


Cfg = TypeVar("Cfg", bound=OfflineConfig)


class Offline(Method[Cfg]):
    """`state`: tokens sampled, rounds done, and optimizer steps of the round."""

    nothing = "No attempt gives an example"
    """What to say where there is nothing to fit."""

    def __init__(self, cfg: Cfg, context: MethodContext) -> None:
        super().__init__(cfg, context)
        self.state = {"tokens": 0, "iteration": 0, "fitted": 0}
        self._built: tuple[int, list[Example]] | None = None

    @abstractmethod
    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Example]]:
        """The examples of each problem."""

    @property
    def sampling(self) -> bool:
        share = (self.setting.token_budget or 0) * (self.state["iteration"] + 1) / self.cfg.iterations
        return not self.cfg.runs and self.state["tokens"] < share

    def plan(self, step: int, pool: Sequence[PoolEntry]) -> Plan:
        if self.sampling:
            size = self.setting.group_size
            return Plan("collect", [self.prompts.first(p, size) for p in self.prompts.problems(step)])
        return Plan("fit", recorded=[as_group(self.as_fitted(example)) for example in self.batch()])

    def as_fitted(self, example: Example) -> Example:
        """The attempts as they are fitted."""
        return example

    def credit(self, groups: Sequence[Group], log_ratios: LogRatios | None = None) -> Credits:
        """Maximum likelihood of what is fitted: advantage 1 on every token, mean over tokens."""
        rows = [flat_credit(len(c.ids), 1.0, 0.0) for c in completions_of(groups)]
        return Credits(rows, "masked_tokens", ClipConfig(kind="none"))

    def after_sampling(self, step: int, groups: Sequence[Group], pool: Sequence[PoolEntry]) -> PoolChange:
        if groups:
            self.state["tokens"] += sum(len(a.completion.ids) for g in groups for a in g.attempts)
            return PoolChange()
        self.state["fitted"] += 1
        if self.state["fitted"] >= self.cfg.epochs * self.steps_per_epoch:
            self.state |= {"iteration": self.state["iteration"] + 1, "fitted": 0}
        return PoolChange()

    def is_finished(self, budget_spent: bool) -> bool:
        """The tokens are for sampling; the run ends when what they bought has been fitted."""
        return self.state["iteration"] >= self.cfg.iterations

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.examples()) // self.cfg.batch)

    def batch(self) -> list[Example]:
        """The examples of the next optimizer step: a stateless shuffle for each epoch."""
        examples, fitted = self.examples(), self.state["fitted"]
        epoch, place = divmod(fitted, self.steps_per_epoch)
        order = generator(self.setting.seed, self.state["iteration"], "fit", epoch).permutation(len(examples))
        return [examples[i] for i in order[place * self.cfg.batch : (place + 1) * self.cfg.batch]]

    def examples(self) -> list[Example]:
        """The examples of the current round, at most `per_problem` of one problem."""
        iteration = self.state["iteration"]
        if self._built is None or self._built[0] != iteration:
            by_problem = self.examples_of(self.newest(self.library.attempts(self.cfg.runs)))
            drawn = [self.draw(same, iteration, i) for i, same in enumerate(by_problem.values())]
            self._built = iteration, [example for same in drawn for example in same]
        if not self._built[1]:
            fix = "Sample more (optim.max_generated_tokens), or name runs that hold such attempts in method.runs."
            raise RunError(f"{self.nothing}: there is nothing to learn from.", f"method: {self.cfg.runs or 'own'}", fix)
        return self._built[1]

    def newest(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Whole completions; of this run's own, those of the newest policy."""
        whole = [a for a in attempts if a.completion.finish is FinishReason.STOP and len(a.completion.ids)]
        if self.cfg.runs or not whole:
            return whole
        version = max(a.completion.policy_version for a in whole)
        return [a for a in whole if a.completion.policy_version == version]

    def draw(self, same: Sequence[Example], iteration: int, index: int) -> list[Example]:
        drawn = generator(self.setting.seed, iteration, "examples", index).permutation(len(same))
        return [same[i] for i in sorted(drawn[: self.cfg.per_problem])]


def by_problem(attempts: Sequence[Attempt]) -> dict[Key, list[Attempt]]:
    """First answers of each problem."""
    found: dict[Key, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.kind is AttemptKind.FIRST:
            found.setdefault(key(attempt.problem), []).append(attempt)
    return found


def key(problem: Problem) -> Key:
    return problem.source, problem.id


def is_wrong(attempt: Attempt) -> bool:
    return attempt.outcome == 0  # not NaN: a grader's failure says nothing


def as_group(example: Example) -> Group:
    """Recorded attempts as the group that `credit` is told."""
    return Group(SampleRequest(example[0].problem, (), len(example)), example)


def after_prompt(prompt_ids: Sequence[int], attempt: Attempt) -> Attempt:
    """The same answer after another prompt; the log-probs that it was sampled with do not apply there."""
    zeros = np.zeros(len(attempt.completion.ids)).tolist()
    return replace(attempt, completion=replace(attempt.completion, prompt_ids=prompt_ids, logprobs=zeros))
