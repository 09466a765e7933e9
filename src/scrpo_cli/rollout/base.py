"""What an engine is: prompts of token ids in, completions with sampled log-probs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scrpo_cli.rng import generator
from scrpo_cli.types import Completion

Finished = Callable[[Mapping[int, Completion]], None]
"""Is told of completions by the indices of their prompts."""


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

    def integer(self, below: int) -> int:
        """A seed for an engine that draws by itself."""
        return int(generator(self.seed, self.step, self.purpose, self.index).integers(below))


class Policy(Protocol):
    """What an engine samples from: a base model with an adapter on it, whose `version` counts its updates."""

    model: Any
    tokenizer: Any
    version: int


@dataclass(frozen=True, slots=True)
class Synced:
    """What it took to give an engine the policy's weights."""

    bytes: int = 0
    seconds: float = 0.0


class Engine(Protocol):
    """Turns prompts into completions with the policy's weights as they were at the last `sync`."""

    name: str
    has_own_weights: bool
    """Whether it holds a copy of the weights, which a sync has to reach, and computes them in another way than the
    trainer: then its log-probs are not exactly the trainer's."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[RowKey],
        finished: Finished = lambda found: None,
    ) -> list[Completion]:
        """One completion a prompt, in order; `keys` pairs with `prompts`.

        `finished` is told of those that may be kept, as soon as they may, for where the call is cut short: the others,
        asked for in a call of their own, come out as they would have here, bit for bit where the engine computes so.
        """
        ...

    @property
    def copies(self) -> Sequence[str]:
        """Names of the C copies of the weights that it samples with."""
        ...

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        """(C, T) log-probs by every copy, at temperature 1, of the T given tokens of each row (prompt ids, completion
        ids).
        """
        ...

    def sync(self) -> Synced:
        """Take over the policy's weights."""
        ...

    def resting(self) -> AbstractContextManager[None]:
        """Inside, the engine does not work, and gives back the memory that it can."""
        ...

    def close(self) -> None: ...


class Around:
    """What an engine has that samples in another way than the `inner` one, and leaves all else to it."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.name, self.has_own_weights = inner.name, inner.has_own_weights

    @property
    def copies(self) -> Sequence[str]:
        return self.inner.copies

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        return self.inner.score(rows)

    def sync(self) -> Synced:
        return self.inner.sync()

    def resting(self) -> AbstractContextManager[None]:
        return self.inner.resting()

    def close(self) -> None:
        self.inner.close()
