"""What an engine is: prompts of token ids in, completions with sampled log-probs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scrpo_cli.rng import generator
from scrpo_cli.types import Completion


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; `top_p` below 1 is for evaluation only."""

    temperature: float
    max_tokens: int
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class RowKey:
    """Where a row's randomness comes from; equal keys give equal draws, whatever shares the batch."""

    seed: int
    step: int
    purpose: str
    index: int

    def uniforms(self, n: int) -> np.ndarray:
        """(n,) uniforms in [0, 1), one a sampled token."""
        return generator(self.seed, self.step, self.purpose, self.index).random(n)


class Engine(Protocol):
    """Turns prompts into completions with the policy's current weights."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[RowKey]
    ) -> list[Completion]:
        """One completion a prompt, in order; `keys` pairs with `prompts`."""
        ...

    def sync(self, version: int) -> None:
        """Take over the policy's weights of that version."""
        ...

    def close(self) -> None: ...
