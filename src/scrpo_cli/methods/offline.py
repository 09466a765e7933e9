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
from typing import Generic, TypeVar

import numpy as np

from scrpo_cli.errors import RunError
from scrpo_cli.methods.base import Credits, Fit, Library, Method, Plan, PoolChange, Prompts, flat_credit, no_credit
from scrpo_cli.recipe.methods import OfflineConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Group, PoolEntry, Problem

Key = tuple[str, str]
Cfg = TypeVar("Cfg", bound=OfflineConfig)
Example = TypeVar("Example")


class Offline(Method, Generic[Cfg, Example]):
    """`state`: tokens sampled, rounds done, and optimizer steps of the round."""

    nothing = "No attempt gives an example"
    """What to say where there is nothing to fit."""

    def __init__(
        self, cfg: Cfg, prompts: Prompts, group_size: int, tokens: int | None, seed: int, library: Library
    ) -> None:
        self.cfg, self.prompts, self.group_size, self.tokens = cfg, prompts, group_size, tokens or 0
        self.seed, self.library = seed, library
        self.state = {"tokens": 0, "iteration": 0, "fitted": 0}
        self._built: tuple[int, list[Example]] | None = None

    @abstractmethod
    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Example]]:
        """The examples of each problem."""

    @abstractmethod
    def fit(self, batch: Sequence[Example]) -> Fit: ...

    @property
    def sampling(self) -> bool:
        share = self.tokens * (self.state["iteration"] + 1) / self.cfg.iterations
        return not self.cfg.runs and self.state["tokens"] < share

    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan:
        if self.sampling:
            return Plan("collect", [self.prompts.first(p, self.group_size) for p in self.prompts.problems(step)])
        return Plan("fit", [], self.fit(self.batch()))

    def credit(self, groups: Sequence[Group]) -> Credits:
        return Credits([no_credit(len(a.completion.ids)) for g in groups for a in g.attempts], "masked_tokens")

    def curate(self, step: int, groups: Sequence[Group], waiting: Sequence[PoolEntry]) -> PoolChange:
        if groups:
            self.state["tokens"] += sum(len(a.completion.ids) for g in groups for a in g.attempts)
            return PoolChange()
        self.state["fitted"] += 1
        if self.state["fitted"] >= self.cfg.epochs * self.steps_per_epoch:
            self.state |= {"iteration": self.state["iteration"] + 1, "fitted": 0}
        return PoolChange()

    def over(self, spent: bool) -> bool:
        """The tokens are for sampling; the run ends when what they bought has been fitted."""
        return self.state["iteration"] >= self.cfg.iterations

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.examples()) // self.cfg.batch)

    def batch(self) -> list[Example]:
        """The examples of the next optimizer step: a stateless shuffle for each epoch."""
        examples, fitted = self.examples(), self.state["fitted"]
        epoch, place = divmod(fitted, self.steps_per_epoch)
        order = generator(self.seed, self.state["iteration"], "fit", epoch).permutation(len(examples))
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
        drawn = generator(self.seed, iteration, "examples", index).permutation(len(same))[: self.cfg.per_problem]
        return [same[i] for i in sorted(drawn)]


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


def imitate(completions: Sequence[Completion]) -> Fit:
    """Maximum likelihood: advantage 1 on every token of every completion, mean over tokens."""
    rows = [flat_credit(len(c.ids), 1.0, 0.0) for c in completions]
    return Fit(completions, Credits(rows, "masked_tokens"))


def after(prompt_ids: Sequence[int], answer: Completion) -> Completion:
    """The same answer after another prompt; what it was sampled with does not apply there."""
    zeros = np.zeros(len(answer.ids)).tolist()
    return Completion(prompt_ids, answer.ids, zeros, answer.text, answer.finish, answer.policy_version)
