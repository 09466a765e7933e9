"""What a method is: which prompts to sample next, what goes into the pool, and the credit of what came back.

A method sees groups and returns credit. It imports no engine, no database and no tracker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from scrpo_cli.types import Ask, Credit, Group, PoolEntry, Problem


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step samples. `phase` prefixes its metrics: `trial` or `reflect`."""

    phase: str
    asks: Sequence[Ask]


@dataclass(frozen=True, slots=True)
class Credits:
    """The credit of every completion of a step (groups in order, samples in order) and how the loss is normalised."""

    rows: Sequence[Credit]
    normalizer: str
    scale: float = 1.0
    skipped_groups: int = 0


@dataclass(frozen=True, slots=True)
class PoolChange:
    """What a step does to the pool: a filter decision for every wrong attempt (`kept` enters), and retirements."""

    decisions: Mapping[str, str] = field(default_factory=dict)
    retired: Sequence[tuple[str, str]] = ()


class Prompts(Protocol):
    """Phrases what a method wants to ask; implemented over the task and the chat template."""

    def first(self, problem: Problem, samples: int) -> Ask: ...

    def reflection(self, entry: PoolEntry, samples: int) -> Ask: ...

    def problems(self, step: int) -> Sequence[Problem]:
        """The problems of a step: a pure function of the step."""
        ...

    def reflection_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        """(T,) 1 on the tokens of the reflection segment."""
        ...


class Method(Protocol):
    """An algorithm. `state` is what a checkpoint must carry beside the pool, as plain JSON values."""

    state: dict[str, Any]

    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan: ...

    def credit(self, groups: Sequence[Group]) -> Credits: ...

    def curate(self, step: int, groups: Sequence[Group], waiting: Sequence[PoolEntry]) -> PoolChange: ...


def outcome_rewards(group: Group) -> np.ndarray:
    """(G,) rewards; NaN where the grader itself failed, so that the attempt leaves the group's baseline."""
    return np.array([a.outcome for a in group.attempts])


def no_credit(length: int) -> Credit:
    """A completion that is generated and recorded but teaches nothing."""
    zeros_T = np.zeros(length, dtype=np.float32)
    return Credit(zeros_T, zeros_T, zeros_T)


def flat_credit(length: int, advantage: float, kl_beta: float, mask_T: np.ndarray | None = None) -> Credit:
    """The same advantage on every (masked) token of a completion."""
    ones_T = np.ones(length, dtype=np.float32)
    return Credit(ones_T * advantage, ones_T if mask_T is None else mask_T, ones_T * kl_beta)
