"""What a method is: which prompts to sample next, what goes into the pool, and the credit of what came back.

A method sees groups and returns credit. It imports no engine, no database and no tracker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from scrpo_cli.types import Attempt, Completion, Credit, Group, PoolEntry, Problem, SampleRequest

Settled = tuple[Sequence[Credit], Mapping[str, float]]
"""Rows of credit, and what was measured on the way (`train/...` metrics)."""


@dataclass(frozen=True, slots=True)
class Credits:
    """The credit of every completion of a step (groups in order, samples in order) and how the loss is normalised.

    Credit that depends on log pi / pi_ref (a KL penalty inside the reward, DPO) is settled by `finish`: it takes one
    array (T,) of log pi - log pi_ref a row, at the policy before the update.
    """

    rows: Sequence[Credit]
    normalizer: str
    scale: float = 1.0
    skipped_groups: int = 0
    finish: Callable[[Sequence[np.ndarray]], Settled] | None = None

    def after(self, rows: Sequence[Credit]) -> Credits:
        """The same with `rows` that come before."""
        finish, n = self.finish, len(rows)

        def shifted(log_ratios: Sequence[np.ndarray]) -> Settled:
            assert finish is not None
            settled, stats = finish(log_ratios[n:])
            return [*rows, *settled], stats

        return replace(self, rows=[*rows, *self.rows], finish=finish and shifted)


@dataclass(frozen=True, slots=True)
class Fit:
    """Completions to learn from that were sampled earlier, and their credit."""

    completions: Sequence[Completion]
    credits: Credits


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step samples, or fits. `phase` prefixes its metrics: `first`, `reflect`, `turns`, `collect`, `fit`.

    `reference`: from this step on it is the `policy` as it is now, or the `base` model; empty: as it was.
    """

    phase: str
    requests: Sequence[SampleRequest]
    fit: Fit | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True)
class PoolChange:
    """What a step does to the pool: a filter decision for every wrong attempt (`kept` enters), and retirements.

    `injected` attempts enter too: wrong ones that nobody sampled, all of one kind.
    """

    decisions: Mapping[str, str] = field(default_factory=dict)
    retired: Sequence[tuple[str, str]] = ()
    injected: Sequence[Attempt] = ()
    injected_kind: str = ""


class Prompts(Protocol):
    """Phrases what a method wants to ask; implemented over the task and the chat template."""

    def first(self, problem: Problem, samples: int) -> SampleRequest: ...

    def check(self, request: SampleRequest, attempt: Attempt) -> SampleRequest:
        """The next turn after an answer to `ask`, without a word on whether it was right."""
        ...

    def reflection(self, entry: PoolEntry, samples: int) -> SampleRequest: ...

    def problems(self, step: int, extra: int = 0) -> Sequence[Problem]:
        """The problems of a step: a pure function of the step. `extra` numbers further draws of the same step."""
        ...

    def reflection_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        """(T,) 1 on the tokens of the reflection segment."""
        ...

    def ids(self, request: SampleRequest) -> Sequence[int]:
        """The prompt's token ids."""
        ...

    def error_kind(self, entry: PoolEntry) -> str | None:
        """The kind of the error; None where the task cannot tell."""
        ...

    def knows(self, text: str) -> bool:
        """Whether a problem of this text is among those of the run."""
        ...

    def worked(self, problem: Problem) -> str | None:
        """A right worked answer; None where the task knows the final answer only."""
        ...

    def slips(self, problem: Problem, where: str, rng: np.random.Generator) -> Iterator[str]:
        """Distinct worked answers that go wrong in their first (`early`) or last (`late`) line, in random order."""
        ...

    def written(self, problem: Problem, text: str, attempt_id: str, sample: int) -> Attempt:
        """A first answer that nobody sampled, tokenized and graded."""
        ...


class Library(Protocol):
    """Attempts that were recorded earlier, for methods that learn from a fixed set."""

    def attempts(self, runs: Sequence[str]) -> Sequence[Attempt]:
        """Training attempts of the named runs; without names those of this run so far."""
        ...


class Method(ABC):
    """An algorithm. `state` is what a checkpoint must carry beside the pool, as plain JSON values."""

    state: dict[str, Any]

    @abstractmethod
    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan: ...

    def more(self, step: int, groups: Sequence[Group], round: int) -> Sequence[SampleRequest]:
        """What to ask on top once the answers so far are graded: further turns, further problems. None ends the
        sampling of the step; `round` counts from 1.
        """
        return ()

    @abstractmethod
    def credit(self, groups: Sequence[Group]) -> Credits: ...

    def curate(self, step: int, groups: Sequence[Group], waiting: Sequence[PoolEntry]) -> PoolChange:
        return PoolChange()

    def observe(self, step: int, stats: Mapping[str, float]) -> None:  # noqa: B027 most methods do not look
        """Takes the statistics of the update, for methods that adapt to them."""

    def over(self, spent: bool) -> bool:
        """Whether the run ends; `spent`: its budget of generated tokens is used up."""
        return spent


def outcome_rewards(group: Group) -> np.ndarray:
    """(G,) rewards; NaN where the grader itself failed, so that the attempt leaves the group's baseline."""
    return np.array([a.outcome for a in group.attempts])


def no_credit(length: int) -> Credit:
    """A completion that is generated and recorded but teaches nothing."""
    zeros_T = np.zeros(length, dtype=np.float32)
    return Credit(zeros_T, zeros_T, zeros_T)


def flat_credit(
    length: int, advantage: float, kl_beta: float, mask_T: np.ndarray | None = None, part: str = ""
) -> Credit:
    """The same advantage on every (masked) token of a completion."""
    ones_T = np.ones(length, dtype=np.float32)
    return Credit(ones_T * advantage, ones_T if mask_T is None else mask_T, ones_T * kl_beta, part)
